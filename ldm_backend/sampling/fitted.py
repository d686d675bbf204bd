"""Timesteps and coefficients of a solver, fitted to one model for one number of evaluations.

Every multistep solver makes each latent from the noise that it began with and the clean latents predicted so far, by
sums with fixed coefficients. Here these are free numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from ..errors import InputError, ScheduleError
from .evaluations import Evaluations
from .schedule import Pairs, Schedule, joined
from .step import Callback, Denoiser, StepInfo

LEAST_EVALUATIONS, MOST_EVALUATIONS = 3, 20
MOST_COEFFICIENT = 1000.0  # those of samplers are of the size of 1
FITTED = "fitted"  # the name of the grid in what is written about a run

Rows = tuple[tuple[float, ...], ...]

# Deterministic ones with one evaluation a step; plms has two in its first.
FITTED_SAMPLERS = ("unipc", "dpmpp_2m", "dpmpp_3m", "ddim")


@dataclass(frozen=True)
class FittedSteps:
    """A grid that stands for a name in `generate(grid=...)`.

    Attributes:
        model: What it was fitted to, see `checkpoints.identity`.
        sampler: One of FITTED_SAMPLERS: the one whose coefficients these were at first.
        timesteps: Of the evaluations, noisiest first; the last step ends at a clean image.
        coefficients: A row for each step: what it ends at is the sum of x_T and of the clean latents predicted up to
            then, in this order, each times its number.
    """

    model: str
    sampler: str
    timesteps: tuple[float, ...]
    coefficients: Rows

    def pairs(self, schedule: Schedule, sampler: str, steps: int) -> Pairs:
        """(t, t_prev) of each step, if it was fitted for such a run.

        Raises:
            ScheduleError: Another sampler or number of steps, or timesteps that are none of the schedule, or
                coefficients that are none of these steps.
        """
        if (sampler, steps) != (self.sampler, len(self.timesteps)):
            raise ScheduleError(
                f"the run takes {steps!r} steps of {sampler}, and the steps were fitted for {len(self.timesteps)} of "
                f"{self.sampler}. Take those, or fit steps for this run (ldm fit-steps)."
            )
        check_timesteps(self.timesteps, schedule.num_train_timesteps)
        check_coefficients(self.coefficients, len(self.timesteps))
        return joined(self.timesteps)

    def check_model(self, model: str) -> None:
        """Raise InputError where they were fitted to another model than the one of this identity."""
        if model != self.model:
            raise InputError(
                f"the steps were fitted to the model {self.model[:12]}, and this one is {model[:12]}: other weights, "
                "EMA in the place of raw ones, or another configuration. Make steps for this one with ldm fit-steps."
            )


def check_timesteps(timesteps: Sequence[float], total: int) -> None:
    """Raise ScheduleError unless they fall from the last of `total` timesteps, none below 0."""
    falls = all(later < earlier for earlier, later in pairwise(timesteps))
    if not timesteps or timesteps[0] != total - 1 or not falls or timesteps[-1] < 0:
        raise ScheduleError(
            f"timesteps are {', '.join(f'{t:g}' for t in timesteps[:8])}{', ...' if len(timesteps) > 8 else ''}; "
            f"expected numbers that fall from {total - 1} to no less than 0. Fit the steps again (ldm fit-steps)."
        )


def check_coefficients(rows: Sequence[Sequence[float]], steps: int) -> None:
    """Raise ScheduleError unless there is a row for each step, two numbers in the first and one more in each other."""
    widths = [len(row) for row in rows]
    if widths != [*range(2, steps + 2)]:
        raise ScheduleError(
            f"coefficients are rows of {', '.join(map(str, widths[:8]))}{', ...' if len(widths) > 8 else ''} numbers; "
            f"expected {steps} rows, of 2 to {steps + 1}. Fit the steps again (ldm fit-steps)."
        )
    odd = next((each for row in rows for each in row if not abs(each) <= MOST_COEFFICIENT), None)  # NaN is odd too
    if odd is not None:
        raise ScheduleError(
            f"a coefficient is {odd:g}; expected numbers from {-MOST_COEFFICIENT:g} to {MOST_COEFFICIENT:g}. Fit the "
            "steps again (ldm fit-steps)."
        )


@torch.no_grad()
def sample_fitted(
    denoiser: Denoiser, x_T: Tensor, schedule: Schedule, steps: FittedSteps, callback: Callback | None = None
) -> Tensor:
    """Run a solver with fitted coefficients from x_T to x_0: one evaluation a step.

    Args:
        denoiser: The network, see `step.Denoiser`.
        x_T: (N, C, H, W) standard normal start, on the device to work on.
        schedule: tables.
        steps: Fitted to this network and schedule.
        callback: Called after each step; whatever it raises ends the run.

    Returns:
        (N, C, H, W) float32 latents.

    Raises:
        ScheduleError: Steps that are none of this schedule.
        SamplingError: The model gave NaN.
    """
    schedule, x_t = schedule.with_signal, x_T.float()
    parts = [x_t]
    pairs = steps.pairs(schedule, steps.sampler, len(steps.timesteps))
    with Evaluations(denoiser, schedule, len(pairs)) as model:
        for index, ((t, _), row) in enumerate(zip(pairs, steps.coefficients, strict=True)):
            parts.append(model.predict_x0(x_t, t, index))
            x_t = combined(parts, row)
            if callback is not None:
                callback(StepInfo(index, len(pairs), t, x_t, parts[-1]))
    return x_t


def combined(parts: Sequence[Tensor], row: Sequence[float] | Tensor) -> Tensor:
    """The sum of the parts, each times its number in the row."""
    total = row[0] * parts[0]
    for number, part in zip(row[1:], parts[1:], strict=True):
        total = total + number * part
    return total
