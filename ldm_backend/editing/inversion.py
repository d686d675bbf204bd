"""DDIM run backwards: from a clean latent to the x_T from which DDIM makes that latent again."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..errors import ScheduleError
from ..sampling.prediction import Prediction
from ..sampling.samplers import Callback, Denoiser, Evaluations, StepInfo
from ..sampling.schedule import CLEAN, Pairs, Schedule

# The steps nearest to the clean image change the noise level most, and what they get wrong, the later ones cannot mend:
# on the demo at 20 steps, one picture of 16 lost 20 dB until the second step was iterated too.
FIRST_STEPS = 3
FIRST_ITERATIONS = 10


def evaluations_of(steps: int, iterations: int) -> int:
    """How often `invert_ddim` evaluates the model."""
    return sum(_iterations_of(index, iterations) for index in range(steps))


def _iterations_of(index: int, iterations: int) -> int:
    return max(iterations, FIRST_ITERATIONS) if index < FIRST_STEPS else iterations


@torch.no_grad()
def invert_ddim(
    denoiser: Denoiser,
    x_0: Tensor,
    schedule: Schedule,
    pairs: Pairs,
    iterations: int = 1,
    callback: Callback | None = None,
) -> Tensor:
    """Find the x_T that `sample_ddim` with eta 0 and the same pairs takes to x_0.

    A DDIM step is x_prev = a * x_t + b * eps(x_t, t), with a and b of t and t_prev. Its inverse solves
    x_t = (x_prev - b * eps(x_t, t)) / a, where x_t stands on both sides. The usual inversion puts eps(x_prev, t) there
    and so makes an error in each step. Here the equation is iterated: each evaluation of eps at the best x_t so far
    gives a better one. The first guess takes eps from the step before, which costs no evaluation.

    Args:
        denoiser: The network, see `step.Denoiser`.
        x_0: (N, C, H, W) clean latents, on the device to work on.
        schedule: tables.
        pairs: (t, t_prev) for each step, noisiest first, from `schedule.timesteps`.
        iterations: Evaluations for each step, 1 or more; the first steps take FIRST_ITERATIONS at least.
        callback: Called after each evaluation; whatever it raises ends the run.

    Returns:
        (N, C, H, W) float32 x_T.

    Raises:
        ScheduleError: Iterations below 1, a model whose clean latents are clipped or thresholded, or one step from zero
            terminal SNR to a clean image.
        SamplingError: The model gave NaN or infinity.

    Source: DDIM (arXiv 2010.02502) section 4.3 for the inversion; iterating in each step as in AIDI (Pan et al.,
        arXiv 2309.04907).
    """
    if iterations < 1:
        raise ScheduleError(f"iterations is {iterations!r}; expected 1 or more evaluations for each step.")
    _check_invertible(schedule, pairs)
    total, done = evaluations_of(len(pairs), iterations), 0
    x_t, prediction = x_0.float(), None
    with Evaluations(denoiser, schedule, total) as model:
        for index, (t, t_prev) in enumerate(reversed(pairs)):
            a_t, a_prev = schedule.alpha_cumprod(t), schedule.alpha_cumprod(t_prev)
            x_prev = x_t
            if prediction is not None:
                x_t = _noisier(a_t, a_prev, x_prev, prediction)
            for _ in range(_iterations_of(index, iterations)):
                prediction = model.predict(x_t, t, done)
                x_t = _noisier(a_t, a_prev, x_prev, prediction)
                if callback is not None:
                    pred_x0, eps = prediction
                    if a_t:  # what the noise says of the new latent; else the latent has no image in it
                        pred_x0 = (x_t - math.sqrt(1.0 - a_t) * eps) / math.sqrt(a_t)
                    # x_prev of StepInfo is the state that the call leaves behind; here that is the noisier one.
                    callback(StepInfo(done, total, t, x_t, pred_x0))
                done += 1
    return x_t


def _noisier(a_t: float, a_prev: float, x_prev: Tensor, prediction: Prediction) -> Tensor:
    """x_t from x_prev, if the network says so at x_t."""
    if a_t == 0.0:  # x_t is the noise itself, and what the network says of the image tells it
        return (x_prev - math.sqrt(a_prev) * prediction.pred_x0) / math.sqrt(1.0 - a_prev)
    signal = math.sqrt(a_t / a_prev)
    noise = math.sqrt(1.0 - a_t) - signal * math.sqrt(1.0 - a_prev)
    return signal * x_prev + noise * prediction.eps


def _check_invertible(schedule: Schedule, pairs: Pairs) -> None:
    if schedule.config.clip_sample or schedule.config.thresholding:
        raise ScheduleError(
            "The scheduler of this checkpoint cuts the predicted clean latent (clip_sample or thresholding), and what "
            "was cut cannot be found again. Inversion needs a checkpoint with both set to false."
        )
    t, t_prev = pairs[0]
    if schedule.alpha_cumprod(t) == 0.0 and t_prev == CLEAN:
        raise ScheduleError(
            f"A single step from timestep {t:g}, which holds nothing but noise (rescale_betas_zero_snr), to a clean "
            "image cannot be inverted. Take more steps."
        )
