"""DDIM (Song et al., arXiv 2010.02502), the reference sampler of this model."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .evaluations import Evaluations
from .schedule import Pairs, Schedule
from .step import Callback, Denoiser, StepInfo
from .step_noise import NoiseSource, noise_of_eta


@dataclass(frozen=True)
class DDIMCoefficients:
    """One DDIM step in float64: pred_x0 = (x_t - noise * eps) / signal, then the three terms of eq. 12."""

    signal: float  # sqrt(alphas_cumprod[t])
    noise: float  # sqrt(1 - alphas_cumprod[t])
    signal_prev: float  # sqrt(alphas_cumprod[t_prev])
    direction: float  # factor of eps, "direction pointing to x_t"
    std_dev_t: float  # factor of fresh noise


def ddim_coefficients(a_t: float, a_prev: float, eta: float) -> DDIMCoefficients:
    """Coefficients of the step from alphas_cumprod `a_t` to `a_prev`.

    Args:
        a_t: alphas_cumprod before the step, in [0, 1).
        a_prev: alphas_cumprod after it, in (a_t, 1].
        eta: 0 deterministic .. 1 as much fresh noise as DDPM.

    Source: DDIM (arXiv 2010.02502) eq. 12 and 16; CompVis ldm/models/diffusion/ddim.py:165-203.
    """
    std_dev_t = eta * math.sqrt((1.0 - a_prev) / (1.0 - a_t) * (1.0 - a_t / a_prev))
    return DDIMCoefficients(
        signal=math.sqrt(a_t),
        noise=math.sqrt(1.0 - a_t),
        signal_prev=math.sqrt(a_prev),
        direction=math.sqrt(max(0.0, 1.0 - a_prev - std_dev_t**2)),  # max: rounding, when eta is 1 and a_prev near 1
        std_dev_t=std_dev_t,
    )


@torch.no_grad()
def sample_ddim(
    denoiser: Denoiser,
    x_T: Tensor,
    schedule: Schedule,
    pairs: Pairs,
    eta: float = 0.0,
    step_noise: NoiseSource | None = None,
    callback: Callback | None = None,
) -> Tensor:
    """Run DDIM from x_T to x_0.

    Args:
        denoiser: The network, see `step.Denoiser`.
        x_T: (N, C, H, W) standard normal start, on the device to work on.
        schedule: tables.
        pairs: (t, t_prev) for each step, from `schedule.timesteps`.
        eta: 0..1.
        step_noise: Gives (N, C, H, W) fresh noise for each step; needed when eta > 0.
        callback: Called after each step; whatever it raises ends the run.

    Returns:
        (N, C, H, W) float32 latents.

    Raises:
        ScheduleError: Eta out of range, or eta > 0 without `step_noise`.
        SamplingError: The model gave NaN.
    """
    x_t = x_T.float()
    draws = noise_of_eta(step_noise, "ddim", eta, x_t.device, len(pairs))
    with Evaluations(denoiser, schedule, len(pairs)) as model, draws as draw:
        for index, (t, t_prev) in enumerate(pairs):
            c = ddim_coefficients(schedule.alpha_cumprod(t), schedule.alpha_cumprod(t_prev), eta)
            pred_x0, eps = model.predict(x_t, t, index)
            x_t = c.signal_prev * pred_x0 + c.direction * eps
            if draw is not None:
                # Drawn also when std_dev_t is 0 (the last step to a clean image), as diffusers does: streams stay
                # aligned.
                x_t = x_t + c.std_dev_t * draw()
            if callback is not None:
                callback(StepInfo(index, len(pairs), t, x_t, pred_x0))
    return x_t
