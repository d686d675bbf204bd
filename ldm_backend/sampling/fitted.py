"""Timesteps fitted to one model, for one sampler and one number of evaluations. Imports schedule and errors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from ..errors import InputError, ScheduleError
from .schedule import Pairs, Schedule, joined

LEAST_EVALUATIONS, MOST_EVALUATIONS = 3, 50
FITTED = "fitted"  # the name of the grid in what is written about a run

# Deterministic ones with one evaluation a step; plms has two in its first.
FITTED_SAMPLERS = ("unipc", "dpmpp_2m", "dpmpp_3m", "ddim")


@dataclass(frozen=True)
class FittedSteps:
    """A grid that stands for a name in `generate(grid=...)`.

    Attributes:
        model: What it was fitted to, see `checkpoints.identity`.
        sampler: One of FITTED_SAMPLERS.
        timesteps: Of the evaluations, noisiest first; the last step ends at a clean image.
    """

    model: str
    sampler: str
    timesteps: tuple[float, ...]

    def pairs(self, schedule: Schedule, sampler: str, steps: int) -> Pairs:
        """(t, t_prev) of each step, if it was fitted for such a run.

        Raises:
            ScheduleError: Another sampler or number of steps, or timesteps that are none of the schedule.
        """
        if (sampler, steps) != (self.sampler, len(self.timesteps)):
            raise ScheduleError(
                f"the run takes {steps!r} steps of {sampler}, and the steps were fitted for {len(self.timesteps)} of "
                f"{self.sampler}. Take those, or fit steps for this run (ldm fit-steps)."
            )
        check_timesteps(self.timesteps, schedule.num_train_timesteps)
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
