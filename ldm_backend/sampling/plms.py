"""PLMS (Liu et al., arXiv 2202.09778), the fast sampler of the original program."""

from __future__ import annotations

import torch
from torch import Tensor

from .ddim import ddim_coefficients
from .evaluations import Evaluations
from .prediction import prediction_of
from .schedule import CLEAN, Pairs, Schedule
from .step import Callback, Denoiser, StepInfo

# Adams-Bashforth for one to four evaluations, the newest first; for even steps.
_ADAMS_BASHFORTH = (
    (1.0,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


@torch.no_grad()
def sample_plms(
    denoiser: Denoiser,
    x_T: Tensor,
    schedule: Schedule,
    pairs: Pairs,
    callback: Callback | None = None,
) -> Tensor:
    """Run PLMS from x_T to x_0: one evaluation a step, and one more in the first.

    The coefficients are those of even steps, in t or, as on the grid "log_snr", in lambda. With two or three steps the
    extrapolation may overshoot wildly. A single step to a clean image has no second timestep to evaluate at: there it
    is DDIM. What is combined are the network's outputs, of whatever `prediction_type`, and the predicted clean latent
    is neither clipped nor thresholded: as in diffusers.

    Args:
        denoiser: The network, see `step.Denoiser`.
        x_T: (N, C, H, W) standard normal start, on the device to work on.
        schedule: tables.
        pairs: (t, t_prev) for each step, from `schedule.timesteps`.
        callback: Called after each step; whatever it raises ends the run.

    Returns:
        (N, C, H, W) float32 latents.

    Raises:
        SamplingError: The model gave NaN.

    Source: PNDM section 3, the pseudo linear multistep method with the start of S-PNDM; CompVis
        ldm/models/diffusion/plms.py p_sample_plms.
    """
    x_t = x_T.float()
    history: list[Tensor] = []  # newest first
    with Evaluations(denoiser, schedule, len(pairs)) as model:
        for index, (t, t_prev) in enumerate(pairs):
            output = model.output(x_t, t, index)
            history = [output, *history[:3]]
            if index == 0 and t_prev != CLEAN:
                # No history yet: the mean of the outputs at both ends of the step, as in Heun's method.
                guess, _ = _transfer(model, schedule, x_t, output, t, t_prev)
                output = 0.5 * (output + model.output(guess, t_prev, index))
            else:
                output = _combined(history)
            x_t, pred_x0 = _transfer(model, schedule, x_t, output, t, t_prev)
            if callback is not None:
                callback(StepInfo(index, len(pairs), t, x_t, pred_x0))
    return x_t


def _combined(history: list[Tensor]) -> Tensor:
    weights = _ADAMS_BASHFORTH[len(history) - 1]
    return torch.stack([weight * output for weight, output in zip(weights, history, strict=True)]).sum(dim=0)


def _transfer(
    model: Evaluations, schedule: Schedule, x_t: Tensor, output: Tensor, t: float, t_prev: float
) -> tuple[Tensor, Tensor]:
    """The latent at t_prev and the clean latent, if the network gives `output`: DDIM without fresh noise."""
    c = ddim_coefficients(schedule.alpha_cumprod(t), schedule.alpha_cumprod(t_prev), 0.0)
    pred_x0, eps = prediction_of(schedule, output, x_t, t)
    pred_x0 = model.corrected(pred_x0, t)
    return c.signal_prev * pred_x0 + c.direction * eps, pred_x0
