"""Samplers as plain functions over one model call, in the variance-preserving space of the papers.

They know nothing of networks, hosts or files: `denoiser(x_t, t)` is any function that predicts the noise, or what else
the schedule's configuration says. `sample` runs one by name; the functions themselves are for those who need their
arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..errors import ScheduleError, check_choice
from .ddim import ddim_coefficients, sample_ddim
from .ddpm import ddpm_coefficients, sample_ddpm
from .dpm_solver import sample_dpmpp_2m, sample_dpmpp_3m
from .evaluations import Evaluations
from .fitted import FittedSteps, sample_fitted
from .noise import StepNoise, draw_noise
from .plms import sample_plms
from .schedule import GRIDS, Pairs, Schedule
from .step import Callback, Denoiser, StepInfo
from .step_noise import NoiseSource, drawn_ahead
from .unipc import sample_unipc

__all__ = [
    "AUTO", "SAMPLERS", "Callback", "Denoiser", "Evaluations", "NoiseSource", "StepInfo", "adds_noise",
    "ddim_coefficients", "ddpm_coefficients", "drawn_ahead", "grid_of", "pairs_of_run", "sample", "sample_ddim",
    "sample_ddpm", "sample_dpmpp_2m", "sample_dpmpp_3m", "sample_plms", "sample_seeds", "sample_unipc",
]  # fmt: skip


@dataclass(frozen=True)
class _Sampler:
    run: Callable[..., Tensor]
    noise: bool  # always adds noise; DDIM only where eta is above 0
    solver: bool  # for few steps, even in the log-SNR


_SAMPLERS: dict[str, _Sampler] = {
    "ddim": _Sampler(sample_ddim, noise=False, solver=False),
    "plms": _Sampler(sample_plms, noise=False, solver=False),
    "dpmpp_2m": _Sampler(sample_dpmpp_2m, noise=False, solver=True),
    "dpmpp_3m": _Sampler(sample_dpmpp_3m, noise=False, solver=True),
    "dpmpp_2m_sde": _Sampler(partial(sample_dpmpp_2m, eta=1.0), noise=True, solver=True),
    "unipc": _Sampler(sample_unipc, noise=False, solver=True),
    "ddpm": _Sampler(sample_ddpm, noise=True, solver=False),
}
SAMPLERS = tuple(_SAMPLERS)
AUTO = "auto"  # in the place of a grid, see `grid_of`


def grid_of(schedule: Schedule, grid: str, sampler: str = "ddim") -> str:
    """The grid that a run takes: AUTO becomes the sampler's own, every other one stays.

    Args:
        schedule: Its configuration names the grid of ddim, ddpm and plms; the solvers take "log_snr".
        grid: One of GRIDS, or AUTO.
        sampler: One of SAMPLERS.

    Raises:
        ScheduleError: Unknown sampler or grid.
    """
    check_choice("sampler", sampler, SAMPLERS, ScheduleError)
    check_choice("grid", grid, (*GRIDS, AUTO), ScheduleError)
    if grid != AUTO:
        return grid
    return "log_snr" if _SAMPLERS[sampler].solver else schedule.config.timestep_spacing


def pairs_of_run(
    schedule: Schedule, steps: int, grid: str | FittedSteps, sampler: str = "ddim", eta: float = 0.0
) -> Pairs:
    """The timesteps of a run.

    Args:
        schedule: tables.
        steps: 1 to as many as the training has timesteps.
        grid: One of GRIDS, AUTO, or steps that were fitted for such a run.
        sampler: One of SAMPLERS.
        eta: 0..1, for "ddim" only; 0 with fitted steps.

    Raises:
        ScheduleError: Steps, sampler or grid out of range, or fitted steps for another run.
    """
    if not isinstance(grid, FittedSteps):
        return schedule.timesteps(steps, grid_of(schedule, grid, sampler))
    if adds_noise(sampler, eta):
        raise ScheduleError(f"eta is {eta}, and steps are fitted to runs without noise; set it to 0.")
    return grid.pairs(schedule, sampler, steps)


def eta_of(sampler: str, eta: float | None) -> float:
    """The eta of a run whose caller may leave it open.

    Args:
        sampler: One of SAMPLERS.
        eta: As given. None takes 1 with "ddim", whose fresh noise lets later steps repair what earlier ones left, and 0
            with the others, which have none.
    """
    if eta is not None:
        return eta
    return 1.0 if sampler == "ddim" else 0.0


def adds_noise(sampler: str, eta: float = 0.0) -> bool:
    """Whether this sampler needs the argument `step_noise`.

    Raises:
        ScheduleError: Unknown sampler, or eta with one that has none.
    """
    check_choice("sampler", sampler, SAMPLERS, ScheduleError)
    if eta and sampler != "ddim":
        raise ScheduleError(f"eta is {eta} but {sampler} has no eta; set it to 0, or take ddim.")
    return _SAMPLERS[sampler].noise or eta > 0.0


def sample(
    sampler: str,
    denoiser: Denoiser,
    x_T: Tensor,
    schedule: Schedule,
    pairs: Pairs,
    *,
    eta: float = 0.0,
    step_noise: NoiseSource | None = None,
    callback: Callback | None = None,
) -> Tensor:
    """Run a sampler from x_T to x_0.

    Args:
        sampler: One of SAMPLERS.
        denoiser: The network, see `step.Denoiser`.
        x_T: (N, C, H, W) latents at the first timestep, standard normal for a whole run, on the device to work on.
        schedule: tables.
        pairs: (t, t_prev) for each step, from `schedule.timesteps`.
        eta: 0..1, for "ddim" only.
        step_noise: Gives (N, C, H, W) fresh noise for each step; needed where `adds_noise` says so.
        callback: Called after each step; whatever it raises ends the run.

    Returns:
        (N, C, H, W) float32 latents.

    Raises:
        ScheduleError: Unknown sampler, eta out of range, or noise needed but not given.
        SamplingError: The model gave NaN or infinity.
    """
    settings: dict[str, Any] = {"callback": callback}
    if adds_noise(sampler, eta):
        settings["step_noise"] = step_noise
    if sampler == "ddim":
        settings["eta"] = eta
    return _SAMPLERS[sampler].run(denoiser, x_T, schedule, pairs, **settings)


def sample_seeds(
    sampler: str,
    denoiser: Denoiser,
    seeds: Sequence[int],
    shape: tuple[int, int, int],
    schedule: Schedule,
    steps: int,
    *,
    device: torch.device,
    grid: str | FittedSteps = AUTO,
    eta: float = 0.0,
    callback: Callback | None = None,
) -> Tensor:
    """A whole run of a sampler, from each image's own noise.

    Args:
        sampler: One of SAMPLERS.
        denoiser: The network, see `step.Denoiser`.
        seeds: One for each image.
        shape: (C, H, W) of one latent.
        schedule: tables.
        steps: 1 to as many as the training has timesteps.
        device: To work on.
        grid: As for `pairs_of_run`.
        eta: 0..1, for "ddim" only.
        callback: Called after each step; whatever it raises ends the run.

    Returns:
        (N, C, H, W) float32 latents.

    Raises:
        ScheduleError: Steps, eta, sampler or grid out of range.
        InputError: No seeds, or one out of range.
        SamplingError: The model gave NaN or infinity.
    """
    noisy = adds_noise(sampler, eta)
    pairs = pairs_of_run(schedule, steps, grid, sampler, eta)
    x_T = draw_noise(seeds, shape).to(device)
    if isinstance(grid, FittedSteps):
        return sample_fitted(denoiser, x_T, schedule, grid, callback)
    step_noise = StepNoise(seeds, shape) if noisy else None
    return sample(sampler, denoiser, x_T, schedule, pairs, eta=eta, step_noise=step_noise, callback=callback)
