"""DDIM run backwards: from a clean latent to the x_T from which DDIM makes that latent again."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from ..errors import ScheduleError
from ..sampling.samplers import Callback, EpsModel, Evaluations, StepInfo
from ..sampling.schedule import Pairs, Schedule

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
    eps_model: EpsModel,
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
        eps_model: Predicts the noise in (N, C, H, W) float32 latents.
        x_0: (N, C, H, W) clean latents, on the device to work on.
        schedule: tables.
        pairs: (t, t_prev) for each step, noisiest first, from `schedule.timesteps`.
        iterations: Evaluations for each step, 1 or more; the first steps take FIRST_ITERATIONS at least.
        callback: Called after each evaluation; whatever it raises ends the run.

    Returns:
        (N, C, H, W) float32 x_T.

    Raises:
        ScheduleError: Iterations below 1.
        SamplingError: The model gave NaN or infinity.

    Source: DDIM (arXiv 2010.02502) section 4.3 for the inversion; iterating in each step as in AIDI (Pan et al.,
        arXiv 2309.04907).
    """
    if iterations < 1:
        raise ScheduleError(f"iterations is {iterations!r}; expected 1 or more evaluations for each step.")
    total, done = evaluations_of(len(pairs), iterations), 0
    x_t, eps = x_0.float(), None
    with Evaluations(eps_model, total) as model:
        for index, (t, t_prev) in enumerate(reversed(pairs)):
            a_t, a_prev = schedule.alpha_cumprod(t), schedule.alpha_cumprod(t_prev)
            signal = math.sqrt(a_t / a_prev)
            noise = math.sqrt(1.0 - a_t) - signal * math.sqrt(1.0 - a_prev)
            x_prev = x_t
            if eps is not None:
                x_t = signal * x_prev + noise * eps
            for _ in range(_iterations_of(index, iterations)):
                eps = model.predict_eps(x_t, t, done)
                x_t = signal * x_prev + noise * eps
                if callback is not None:
                    # x_prev of StepInfo is the state that the call leaves behind; here that is the noisier one.
                    callback(StepInfo(done, total, t, x_t, (x_t - math.sqrt(1.0 - a_t) * eps) / math.sqrt(a_t)))
                done += 1
    return x_t
