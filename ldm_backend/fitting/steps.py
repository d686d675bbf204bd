"""Steps fitted to a model by the method of Levenberg and Marquardt on the timesteps themselves.

The latents that a sampler ends with are a smooth function of a dozen numbers, the timesteps. So each round takes the
derivative by each of them from differences, and solves for the step that brings the latents of all pictures nearest to
the limit of many steps. What LD3 (arXiv 2405.15506) reaches by gradients through the network needs none here, nor more
memory than sampling.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch

from ..config.conditioning import UNCONDITIONAL, check_task
from ..errors import ScheduleError, check_choice, short_repr
from ..kernels.fast_conv import empty_caches
from ..pipeline import LatentDiffusion, check_memory
from ..sampling.fitted import FITTED_SAMPLERS, LEAST_EVALUATIONS, MOST_EVALUATIONS, FittedSteps, check_timesteps
from ..sampling.schedule import Schedule
from .objective import PICTURES, Objective, Run, timesteps_at

_ROUNDS = 20
_DAMPING = 1e-3  # the least, in parts of the diagonal
_DIFFERENCE = 0.1  # that derivatives are taken with at first, in half the log-SNR; a round that finds nothing halves it
_LEAST_DIFFERENCE = 0.02
_LEAST_GAP = 0.02  # between two evaluations, in the same


@dataclass(frozen=True)
class FitState:
    """How far a fit is.

    Attributes:
        evaluations: Of all pictures, so far; what was taken over from another run counts too.
        round: 0 until the first grid is chosen.
        decibels: Signal over error of the best grid so far, mean over the pictures; None before there is one.
    """

    evaluations: int
    round: int
    decibels: float | None


@dataclass(frozen=True)
class Fit:
    """What came out.

    Attributes:
        steps: For `generate(grid=...)`.
        before: Decibels of the best grid of those that need no fit, on the pictures that were fitted.
        after: Of the fitted one.
    """

    steps: FittedSteps
    before: float
    after: float


def fit_steps(
    model: LatentDiffusion,
    evaluations: int = 8,
    sampler: str = "unipc",
    progress: Callable[[FitState], None] | None = None,
) -> Fit:
    """Fit the timesteps of short runs to an unconditional model.

    The same model, device, versions and number of threads give the same steps.

    Args:
        model: From `load`.
        evaluations: Of the runs, 3 to 50.
        sampler: One of `fitted.FITTED_SAMPLERS`.
        progress: Called after each evaluation; whatever it raises ends the fit.

    Raises:
        InputError: A model of another task.
        ScheduleError: Evaluations or sampler out of range.
        TooLargeError: The pictures do not fit into memory.
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
    identity = model.identity
    check_memory(model, PICTURES)
    told = _Told(progress)
    try:
        objective = Objective(model, sampler, told.evaluated)
        run = _best_start(objective, evaluations)
        before, pace = run.decibels, _Pace()
        for number in range(1, _ROUNDS + 1):
            told.round, told.decibels = number, run.decibels
            run = _improved(objective, run, pace)
            if abs(pace.difference) < _LEAST_DIFFERENCE:
                break
    finally:
        empty_caches(model.unet)
    timesteps = timesteps_at(model.schedule, run.lambdas)
    check_timesteps(timesteps, model.schedule.num_train_timesteps)
    return Fit(FittedSteps(identity, sampler, timesteps), before, run.decibels)


@dataclass
class _Pace:
    """How far a round looks, and how far it dares to go."""

    difference: float = _DIFFERENCE
    damping: float = 10.0 * _DAMPING


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


def _best_start(objective: Objective, evaluations: int) -> Run:
    """The best of "log_snr", "trailing" and what lies between."""
    schedule = objective.schedule
    even, late = (
        np.array([schedule.half_log_snr(t) for t, _ in schedule.timesteps(evaluations, grid)][1:])
        for grid in ("log_snr", "trailing")
    )
    mixes = [(1.0 - share) * even + share * late for share in (0.0, 0.25, 0.5, 0.75, 1.0)]
    runs = [objective.run(mix.tolist()) for mix in mixes if _is_allowed(schedule, mix)]
    return min(runs, key=lambda run: run.loss)


def _improved(objective: Objective, run: Run, pace: _Pace) -> Run:
    """A better run, or the same where none was found; the pace is adapted for the next round.

    Beside the steps of the method count the runs that the derivatives were taken from: where a picture stands between
    two, derivatives say little, and one of those may be better nevertheless.
    """
    probes = _probes(objective, run, pace.difference)
    weights = run.powers.rsqrt()[:, None]  # of the derivative of the logarithm of each picture's power
    error = (run.error * weights).flatten()
    slopes = torch.stack(
        [((probe.error - run.error) * weights).flatten() / _distance(probe, run) for probe in probes], dim=1
    )
    curvature, gradient = (slopes.T @ slopes).numpy(), (slopes.T @ error).numpy()
    diagonal = np.diag(curvature.diagonal() + 1e-9 * curvature.trace() + 1e-30)
    best = min([run, *probes], key=lambda each: each.loss)
    for damping in (pace.damping, 10.0 * pace.damping, 100.0 * pace.damping):
        step = -np.linalg.solve(curvature + damping * diagonal, gradient)
        found = objective.run(_inside(objective.schedule, np.array(run.lambdas) + step))
        if found.loss < best.loss:
            pace.damping = max(damping / 5.0, _DAMPING)
            return found
    if best is run:
        pace.difference /= -2.0  # nearer, and on the other side
    return best


def _probes(objective: Objective, run: Run, difference: float) -> list[Run]:
    """The same with one lambda each moved by `difference`, to the other side where there is no room."""
    found = []
    for index in range(len(run.lambdas)):
        for moved in (np.array(run.lambdas), np.array(run.lambdas)):
            moved[index] += difference
            if _is_allowed(objective.schedule, moved):
                break
            difference = -difference
        else:
            moved = np.array(_inside(objective.schedule, moved))
        found.append(objective.run(moved.tolist(), base=run))
    return found


def _distance(probe: Run, run: Run) -> float:
    """By how much the one lambda of a probe was moved."""
    moved = float(np.subtract(probe.lambdas, run.lambdas).sum())
    return moved if abs(moved) > 1e-6 else math.inf  # hemmed in by its neighbours: it stays


def _inside(schedule: Schedule, lambdas: np.ndarray) -> list[float]:
    """The nearest lambdas, one after the other, that are in order and inside of the schedule."""
    first, last = schedule.half_log_snr(schedule.num_train_timesteps - 1), schedule.half_log_snr(0)
    places = _LEAST_GAP * np.arange(len(lambdas))
    # Without the gaps that must be, they only have to rise.
    rest = np.clip(lambdas - places, first + _LEAST_GAP, last - places[-1])
    return (np.maximum.accumulate(rest) + places).tolist()


def _is_allowed(schedule: Schedule, lambdas: np.ndarray) -> bool:
    first, last = schedule.half_log_snr(schedule.num_train_timesteps - 1), schedule.half_log_snr(0)
    return bool(np.diff(lambdas, prepend=first).min() > 0.9 * _LEAST_GAP and lambdas[-1] <= last + 1e-9)
