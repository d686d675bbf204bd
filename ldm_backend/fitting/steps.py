"""Steps fitted to a model by gradients of the latents that short runs end with.

As in LD3 (arXiv 2405.15506) the timesteps are moved by gradients through the network, and with them all coefficients of
a multistep solver. Those of a known one are where it begins.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..config.conditioning import UNCONDITIONAL, check_task
from ..errors import SamplingError, ScheduleError, TooLargeError, check_choice, short_repr
from ..kernels.fast_conv import empty_caches, kernel_bytes
from ..memory.estimates import in_words
from ..memory.free_memory import free_bytes
from ..memory.gradients import unet_gradient_bytes
from ..memory.sizes import latent_size
from ..pipeline import LatentDiffusion, check_memory
from ..sampling.fitted import (
    FITTED_SAMPLERS,
    LEAST_EVALUATIONS,
    MOST_EVALUATIONS,
    FittedSteps,
    check_coefficients,
    check_timesteps,
)  # fmt: skip
from ..sampling.schedule import Schedule, joined
from .objective import AT_ONCE, PICTURES, Objective, decibels, half_log_snrs, rows_of, timesteps_at

ROUNDS, MOST_ROUNDS = 120, 10_000
_RATE = 0.01  # of the coefficients, in mean squares of what a step ends at; of the timesteps see `_TIME`
_TIME = 4.0  # times that, in half the log-SNR
_RISE = 10  # rounds in which the rate rises from almost nothing
_RIDGE = 1e-4  # what of the clean latents hardly differs from one to the next is not blown up beyond this
_LEAST_GAP = 0.02  # between two evaluations, in half the log-SNR


@dataclass(frozen=True)
class FitState:
    """How far a fit is.

    Attributes:
        evaluations: Of a few pictures at once, so far; gradients cost two or three times as much and are not counted.
        round: 0 until the start is chosen.
        decibels: Signal over error of the pictures of the last round; None before there is one.
    """

    evaluations: int
    round: int
    decibels: float | None


@dataclass(frozen=True)
class Fit:
    """What came out.

    Attributes:
        steps: For `generate(grid=...)`.
        before: Decibels of the sampler on the best grid of those that need no fit, on the pictures that were fitted.
        after: Of the fitted steps.
    """

    steps: FittedSteps
    before: float
    after: float


@dataclass(frozen=True)
class _Solver:
    """Half the log-SNR of each evaluation, and a row for each step."""

    lambdas: Tensor
    rows: list[Tensor]


def fit_steps(
    model: LatentDiffusion,
    evaluations: int = 8,
    sampler: str = "unipc",
    progress: Callable[[FitState], None] | None = None,
    rounds: int = ROUNDS,
) -> Fit:
    """Fit timesteps and coefficients of short runs to an unconditional model.

    On the CPU the same model, versions and number of threads give the same steps.

    Args:
        model: From `load`.
        evaluations: Of the runs, 3 to 20.
        sampler: One of `fitted.FITTED_SAMPLERS`, whose coefficients are the first.
        progress: Called after each evaluation; whatever it raises ends the fit.
        rounds: Of the descent, 1 to 10,000: each takes the gradients of a few pictures.

    Raises:
        InputError: A model of another task.
        ScheduleError: Evaluations, rounds or sampler out of range.
        TooLargeError: The pictures, or gradients of a few of them, do not fit into memory.
        SamplingError: The model gave NaN or infinity.
        CheckpointError: A file of the model was changed since it was loaded.
    """
    check_task(model.task, UNCONDITIONAL, "fit_steps")
    check_choice("sampler", sampler, FITTED_SAMPLERS, ScheduleError)
    if type(evaluations) is not int or not LEAST_EVALUATIONS <= evaluations <= MOST_EVALUATIONS:
        raise ScheduleError(
            f"evaluations is {short_repr(evaluations)}; expected a whole number from {LEAST_EVALUATIONS} to "
            f"{MOST_EVALUATIONS}. More need no fit: take the grid log_snr."
        )
    if type(rounds) is not int or not 1 <= rounds <= MOST_ROUNDS:
        raise ScheduleError(f"rounds is {short_repr(rounds)}; expected a whole number from 1 to {MOST_ROUNDS}.")
    identity = model.identity
    check_memory(model, PICTURES)
    _check_gradients(model)
    told = _Told(progress)
    try:
        objective = Objective(model, told.evaluated)
        before, start = _best_start(objective, sampler, evaluations)
        timesteps, rows = _rounded(objective.schedule, _descended(objective, start, rounds, told))
        after = objective.loss(*_as_solver(objective.schedule, timesteps, rows))
        if not after < before:
            after, (timesteps, rows) = before, _rounded(objective.schedule, start)
    finally:
        empty_caches(model.unet)
    check_timesteps(timesteps, model.schedule.num_train_timesteps)
    check_coefficients(rows, evaluations)
    return Fit(FittedSteps(identity, sampler, timesteps, rows), decibels(before), decibels(after))


def _check_gradients(model: LatentDiffusion) -> None:
    """Raise TooLargeError where the gradients of one evaluation, which know no parts, do not fit into memory."""
    needed = unet_gradient_bytes(model.config.unet, AT_ONCE, *latent_size(model.config, None, None))
    free = max(0, free_bytes(model.device) - kernel_bytes(model.unet))
    if needed > free:
        raise TooLargeError(
            f"The gradients of {AT_ONCE} pictures would take {in_words(needed)} of memory, and {in_words(free)} are "
            "free. Close other programs, or fit on a machine with more memory: the file is good on this one."
        )


class _Told:
    """Counts evaluations and tells how far the fit is."""

    def __init__(self, progress: Callable[[FitState], None] | None) -> None:
        self._progress, self._evaluations = progress, 0
        self.round = 0
        self.decibels: float | None = None

    def evaluated(self, more: int) -> None:
        self._evaluations += more
        if self._progress is not None:
            self._progress(FitState(self._evaluations, self.round, self.decibels))


def _best_start(objective: Objective, sampler: str, evaluations: int) -> tuple[float, _Solver]:
    """The sampler on the best of "log_snr", "trailing" and what lies between, and its loss."""
    schedule = objective.schedule
    even, late = (
        np.array([schedule.half_log_snr(t) for t, _ in schedule.timesteps(evaluations, grid)])
        for grid in ("log_snr", "trailing")
    )
    starts = []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        lambdas = _inside(schedule, (1.0 - share) * even + share * late)
        pairs = joined([schedule.num_train_timesteps - 1, *map(schedule.timestep, lambdas[1:].tolist())])
        rows = [torch.tensor(row, dtype=torch.float64) for row in rows_of(sampler, schedule, pairs)]
        solver = _Solver(torch.from_numpy(lambdas), rows)
        starts.append((objective.loss(solver.lambdas, rows), solver))
    return min(starts, key=lambda one: one[0])


def _descended(objective: Objective, start: _Solver, rounds: int, told: _Told) -> _Solver:
    """Where Adam comes to, on coefficients in whose units all latents change alike."""
    products = objective.products(start.lambdas, start.rows)
    units = [_units(products[: len(row), : len(row)]) for row in start.rows]
    moved = [torch.zeros_like(row, requires_grad=True) for row in start.rows]
    lambdas = start.lambdas.clone().requires_grad_()
    descent = torch.optim.Adam([{"params": moved}, {"params": [lambdas]}], betas=(0.9, 0.98))

    def rows() -> list[Tensor]:
        return [row + unit @ by for row, unit, by in zip(start.rows, units, moved, strict=True)]

    pictures = _taking_turns()
    for number in range(rounds):
        told.round = number + 1
        rate = _RATE * min(1.0, (number + 1) / _RISE) * 0.5 * (1.0 + math.cos(math.pi * number / rounds))
        descent.param_groups[0]["lr"], descent.param_groups[1]["lr"] = rate, _TIME * rate
        with torch.enable_grad():
            loss = objective.losses(lambdas, rows(), next(pictures)).mean()
            gradients = torch.autograd.grad(loss, [*moved, lambdas])
        if not all(bool(torch.isfinite(each).all()) for each in (loss, *gradients)):
            raise SamplingError(
                f"The fit came to NaN or infinity in round {number + 1}. Check the checkpoint (`ldm inspect`); if the "
                "model runs in half precision, try float32."
            )
        told.decibels = decibels(loss.item())
        for parameter, gradient in zip([*moved, lambdas], gradients, strict=True):
            parameter.grad = gradient
        lambdas.grad[0] = 0.0  # type: ignore[index]
        descent.step()
        lambdas.data = torch.from_numpy(_inside(objective.schedule, lambdas.detach().numpy()))
    with torch.no_grad():
        return _Solver(lambdas.detach(), rows())


def _units(products: Tensor) -> Tensor:
    """Changes of a row, in columns, each of which changes the sum by 1 in the mean square, and by nothing in common."""
    ridge = _RIDGE * torch.eye(len(products), dtype=torch.float64)
    return torch.linalg.inv(torch.linalg.cholesky(products + ridge)).T


def _taking_turns() -> Iterator[list[int]]:
    """Pictures of each round, all of them before one comes again."""
    generator = torch.Generator().manual_seed(0)
    while True:
        yield from (part.tolist() for part in torch.randperm(PICTURES, generator=generator).split(AT_ONCE))


def _rounded(schedule: Schedule, solver: _Solver) -> tuple[tuple[float, ...], tuple[tuple[float, ...], ...]]:
    """What is written: timesteps to a thousandth, coefficients to a millionth."""
    first, *rest = timesteps_at(half_log_snrs(schedule), solver.lambdas).tolist()
    timesteps = (float(round(first)), *(round(t, 3) for t in rest))
    return timesteps, tuple(tuple(round(each, 6) for each in row.tolist()) for row in solver.rows)


def _as_solver(schedule: Schedule, timesteps: Sequence[float], rows: Sequence[Sequence[float]]) -> tuple[Tensor, list]:
    lambdas = torch.tensor([schedule.half_log_snr(t) for t in timesteps], dtype=torch.float64)
    return lambdas, [torch.tensor(row, dtype=torch.float64) for row in rows]


def _inside(schedule: Schedule, lambdas: np.ndarray) -> np.ndarray:
    """The nearest lambdas, one after the other, that are in order and inside of the schedule, from its first one on."""
    first, last = schedule.half_log_snr(schedule.num_train_timesteps - 1), schedule.half_log_snr(0)
    places = _LEAST_GAP * np.arange(len(lambdas))
    # Without the gaps that must be, they only have to rise.
    rest = np.clip(lambdas - places, first, last - places[-1])
    rest[0] = first
    return np.maximum.accumulate(rest) + places
