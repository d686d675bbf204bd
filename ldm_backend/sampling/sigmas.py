"""Timesteps as sigmas, the noise levels by which k-diffusion and ComfyUI speak of a schedule.

There the latent is x_0 + sigma * eps ("variance exploding"); here it is sqrt(a) * x_0 + sqrt(1 - a) * eps with
a = alphas_cumprod[t] ("variance preserving"). One is the other times sqrt(a), and sigma = sqrt((1 - a) / a).

Source: Karras et al., arXiv 2206.00364, appendix B and C.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from ..errors import ScheduleError
from .schedule import CLEAN, Pairs, Schedule

# How far a sigma may lie outside of the table, relatively: what float32 and a detour through the logarithm cost.
_TOLERANCE = 1e-4


def sigma_of(schedule: Schedule, t: float) -> float:
    """sqrt((1 - a) / a) at timestep `t`; 0 at CLEAN."""
    return math.exp(-schedule.half_log_snr(t))


def sigmas_of(schedule: Schedule, pairs: Pairs) -> list[float]:
    """The sigma at which each step starts, then the one at which the last step ends: one more than there are steps."""
    return [sigma_of(schedule, t) for t in (pairs[0][0], *(t_prev for _, t_prev in pairs))]


def pairs_of(schedule: Schedule, sigmas: Sequence[float]) -> Pairs:
    """Inverse of `sigmas_of`, for sigmas of any origin.

    Args:
        schedule: Tables of the model.
        sigmas: Falling, the last one 0 for a clean image; one alone makes no step.

    Returns:
        (t, t_prev) of each step; between two timesteps of the training t is a fraction.

    Raises:
        ScheduleError: Sigmas that do not fall, or lie outside of the noise levels that the model knows.
    """
    _check_falling(sigmas, sigmas)
    timesteps = [_timestep(schedule, sigma, index) for index, sigma in enumerate(sigmas)]
    _check_falling(timesteps, sigmas)  # again: two sigmas that are almost the same have one timestep
    return list(zip(timesteps[:-1], timesteps[1:], strict=True))


def _check_falling(values: Sequence[float], sigmas: Sequence[float]) -> None:
    for index, (before, after) in enumerate(zip(values[:-1], values[1:], strict=True)):
        if not after < before:
            raise ScheduleError(
                f"sigmas[{index + 1}] is {sigmas[index + 1]:.6g} after {sigmas[index]:.6g}; each sigma must be smaller "
                "than the one before. Take them from LDM Sigmas or BasicScheduler with fewer steps, without FlipSigmas."
            )


def _timestep(schedule: Schedule, sigma: float, index: int) -> float:
    if sigma == 0.0:
        return CLEAN
    lowest, highest = sigma_of(schedule, 0), sigma_of(schedule, schedule.num_train_timesteps - 1)
    if not lowest * (1.0 - _TOLERANCE) <= sigma <= highest * (1.0 + _TOLERANCE):  # also refuses NaN
        raise ScheduleError(
            f"sigmas[{index}] is {sigma:.6g}; this model knows noise levels from {lowest:.6g} to {highest:.6g}, and 0 "
            "for a clean image. Take the sigmas from LDM Sigmas or BasicScheduler, or give these two numbers to "
            "KarrasScheduler and its like as sigma_min and sigma_max."
        )
    return schedule.timestep(-math.log(sigma))
