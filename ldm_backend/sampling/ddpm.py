"""Ancestral sampling of DDPM (Ho et al., arXiv 2006.11239), for any timesteps."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .evaluations import Evaluations
from .schedule import Pairs, Schedule
from .step import Callback, Denoiser, StepInfo
from .step_noise import NoiseSource, need_noise


@dataclass(frozen=True)
class DDPMCoefficients:
    """The posterior q(x_prev | x_t, x_0) in float64: mean = data * pred_x0 + current * x_t."""

    data: float
    current: float
    std: float  # of the fresh noise


def ddpm_coefficients(a_t: float, a_prev: float, variance_type: str = "fixed_small") -> DDPMCoefficients:
    """Coefficients of the step from alphas_cumprod `a_t` to `a_prev`.

    Args:
        a_t: alphas_cumprod before the step, in [0, 1).
        a_prev: alphas_cumprod after it, in (a_t, 1].
        variance_type: Of the fresh noise: "fixed_small", the posterior's own variance, or "fixed_large", beta.

    Source: DDPM eq. 6 and 7, with alpha_t = a_t / a_prev for steps over several timesteps.
    """
    alpha = a_t / a_prev
    beta = 1.0 - alpha
    variance = beta if variance_type == "fixed_large" else (1.0 - a_prev) / (1.0 - a_t) * beta
    return DDPMCoefficients(
        data=math.sqrt(a_prev) * beta / (1.0 - a_t),
        current=math.sqrt(alpha) * (1.0 - a_prev) / (1.0 - a_t),
        std=math.sqrt(variance),
    )


@torch.no_grad()
def sample_ddpm(
    denoiser: Denoiser,
    x_T: Tensor,
    schedule: Schedule,
    pairs: Pairs,
    step_noise: NoiseSource | None = None,
    callback: Callback | None = None,
) -> Tensor:
    """Run DDPM from x_T to x_0: one evaluation a step, fresh noise in each.

    It is DDIM with eta 1 in other words (but where `variance_type` is fixed_large), and made for as many steps as the
    training has timesteps.

    Args:
        denoiser: The network, see `step.Denoiser`.
        x_T: (N, C, H, W) standard normal start, on the device to work on.
        schedule: tables.
        pairs: (t, t_prev) for each step, from `schedule.timesteps`.
        step_noise: Gives (N, C, H, W) fresh noise for each step; a must.
        callback: Called after each step; whatever it raises ends the run.

    Returns:
        (N, C, H, W) float32 latents.

    Raises:
        ScheduleError: No `step_noise`.
        SamplingError: The model gave NaN.
    """
    x_t, variance_type = x_T.float(), schedule.config.variance_type
    draws = need_noise(step_noise, "ddpm", x_t.device, len(pairs))
    with Evaluations(denoiser, schedule, len(pairs)) as model, draws as draw:
        for index, (t, t_prev) in enumerate(pairs):
            c = ddpm_coefficients(schedule.alpha_cumprod(t), schedule.alpha_cumprod(t_prev), variance_type)
            pred_x0, _ = model.predict(x_t, t, index)
            std = c.std if t > 0 else 0.0  # at timestep 0 the image is done, also where the variance is large
            x_t = c.data * pred_x0 + c.current * x_t + std * draw()
            if callback is not None:
                callback(StepInfo(index, len(pairs), t, x_t, pred_x0))
    return x_t
