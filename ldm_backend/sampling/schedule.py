"""The noise schedule in float64 and the timestep grids of the samplers. Imports only betas, config and errors."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from functools import cached_property

import numpy as np
import torch

from ..config.model import ScheduleConfig
from ..errors import ScheduleError, check_choice
from .betas import betas_of

# What `alphas_cumprod` is after the last step, written as a timestep: no timestep of the schedule, but a clean image.
CLEAN = -1

# (t, t_prev) of each step, noisiest first. Whole numbers are training timesteps; "log_snr" also lands between them.
Pairs = Sequence[tuple[float, float]]

# alphas_cumprod of a last timestep without any signal, for what divides by the signal or takes its logarithm; diffusers
# has the same in its solvers.
_LEAST_SIGNAL = 2.0**-24


class Schedule:
    """Tables of the forward process q(x_t | x_0).

    Attributes:
        betas, alphas_cumprod: (T,) float64 on the CPU. float32 tables would cost about 1e-6 relative in every step.
            With zero terminal SNR the last of alphas_cumprod is 0.
        num_train_timesteps: T.
    """

    def __init__(self, config: ScheduleConfig) -> None:
        self.config = config
        self.num_train_timesteps = config.num_train_timesteps
        self.betas = betas_of(config)
        self.alphas_cumprod = torch.cumprod(1.0 - self.betas, dim=0)
        # numpy: its interpolation is all that is needed, and a torch scalar costs a dispatch at each look-up.
        alphas_cumprod = _with_signal(self.alphas_cumprod).numpy()
        self._lambdas = 0.5 * (np.log(alphas_cumprod) - np.log1p(-alphas_cumprod))

    def alpha_cumprod(self, t: float) -> float:
        """alphas_cumprod at timestep `t`; 1.0 at CLEAN. Between timesteps the log-SNR is interpolated."""
        if t == CLEAN:
            return 1.0
        if t == int(t):
            return float(self.alphas_cumprod[int(t)])
        return 1.0 / (1.0 + math.exp(-2.0 * self.half_log_snr(t)))

    @cached_property
    def with_signal(self) -> Schedule:
        """The schedule for solvers, which take logarithms of the signal: a little is left at zero terminal SNR."""
        if self.alphas_cumprod[-1] > 0.0:
            return self
        other = copy.copy(self)
        other.alphas_cumprod = _with_signal(self.alphas_cumprod)
        return other

    def half_log_snr(self, t: float) -> float:
        """lambda_t = log(sqrt(alphas_cumprod) / sqrt(1 - alphas_cumprod)), the solvers' time; infinite at CLEAN.

        Finite also at zero terminal SNR, see `with_signal`.
        """
        if t == CLEAN:
            return math.inf
        return float(np.interp(t, np.arange(self.num_train_timesteps), self._lambdas))

    def timestep(self, half_log_snr: float) -> float:
        """Inverse of `half_log_snr`: CLEAN for infinity, the nearest end of the table for what lies outside of it."""
        if half_log_snr == math.inf:
            return CLEAN
        t = float(np.interp(-half_log_snr, -self._lambdas, np.arange(self.num_train_timesteps)))
        nearest = round(t)
        # A lambda that went through float32, as a sigma of the host does, must find its whole timestep again.
        return nearest if abs(t - nearest) < 1e-3 else t

    def timesteps(self, steps: int, grid: str = "leading") -> Pairs:
        """Timesteps of a run, noisiest first.

        Args:
            steps: Number of steps, 1..T.
            grid: One of GRIDS:
                "leading", the spacing of the Hugging Face configuration as shipped (0, 5, ..., 995 for 200 steps,
                then `set_alpha_to_one`);
                "compvis", that of the original code (1, 6, ..., 996, then timestep 0);
                "trailing", even steps down from T - 1 (4, 9, ..., 999);
                "linspace", even steps from T - 1 to 0, both included;
                "linspace_open", the same without 0, in whose place the clean image is (999, 949, ..., 50 for 20 steps):
                what diffusers calls linspace in its UniPC and DPM-Solver++;
                "log_snr", even steps of the logarithm of the signal-to-noise ratio from T - 1 to 0, also between the
                timesteps of the training.

        Returns:
            `steps` pairs (t, t_prev); a step takes x_t to x_{t_prev}, and t_prev CLEAN is a clean image.

        Raises:
            ScheduleError: Unknown grid, steps out of range, or not defined for this grid.

        Source: diffusers schedulers/scheduling_ddim.py set_timesteps (leading, trailing, linspace); CompVis
            ldm/modules/diffusionmodules/util.py:44-60 make_ddim_timesteps; DPM-Solver (arXiv 2206.00927) section 3.3
            for steps uniform in lambda.
        """
        total = self.num_train_timesteps
        if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps <= total:
            raise ScheduleError(f"steps is {steps!r}; expected a whole number from 1 to {total}.")
        check_choice("grid", grid, GRIDS, ScheduleError)
        return _GRIDS[grid](self, steps)

    def last_timesteps(self, steps: int, strength: float, grid: str = "leading") -> Pairs:
        """The end of a run: what to do with an image that was noised only in part.

        Args:
            steps: Number of steps to take, 1..T.
            strength: How much of the schedule they cover, above 0 to 1 (all of it).
            grid: As for `timesteps`.

        Returns:
            The last `steps` pairs of a grid of `steps / strength`, so that exactly `steps` are taken.

        Raises:
            ScheduleError: As `timesteps`, strength out of range, or so small that the whole grid would need more than T
                timesteps.
        """
        if not 0.0 < strength <= 1.0:
            raise ScheduleError(f"strength is {strength!r}; expected more than 0 (nothing changes) up to 1 (all new).")
        whole = round(steps / strength)
        if whole > self.num_train_timesteps:
            most = max(1, int(self.num_train_timesteps * strength))
            raise ScheduleError(
                f"{steps} steps at strength {strength} would be part of a run of {whole} steps, but the model knows "
                f"{self.num_train_timesteps} timesteps. Take at most {most} steps, or a greater strength."
            )
        return self.timesteps(whole, grid)[-steps:]


def _leading(schedule: Schedule, steps: int) -> Pairs:
    stride = schedule.num_train_timesteps // steps
    grid = [index * stride + schedule.config.steps_offset for index in reversed(range(steps))]
    if grid[0] >= schedule.num_train_timesteps:
        raise ScheduleError(
            f"{steps} steps with steps_offset {schedule.config.steps_offset} reach timestep {grid[0]}; the last one is "
            f"{schedule.num_train_timesteps - 1}. Take fewer steps, or another grid."
        )
    last = CLEAN if schedule.config.set_alpha_to_one else 0
    return [(t, t - stride if t >= stride else last) for t in grid]


def _compvis(schedule: Schedule, steps: int) -> Pairs:
    total = schedule.num_train_timesteps

    def is_defined(count: int) -> bool:
        grid = _compvis_grid(total, count)
        return len(grid) == count and grid[-1] < total

    grid = _compvis_grid(total, steps)
    if not is_defined(steps):
        near = [next(filter(is_defined, counts), None) for counts in (range(steps, 0, -1), range(steps, total + 1))]
        raise ScheduleError(
            f"The compvis grid is not defined for {steps} steps: the original gives {len(grid)} timesteps up to "
            f"{grid[-1]}. Take {' or '.join(str(n) for n in near if n)} steps, or the leading grid."
        )
    return list(zip(reversed(grid), [*reversed(grid[:-1]), 0], strict=True))


def _compvis_grid(total: int, steps: int) -> range:
    """The original's timesteps, ascending; may be longer than asked and may leave the schedule."""
    return range(1, total + 1, total // steps)


def _trailing(schedule: Schedule, steps: int) -> Pairs:
    total = schedule.num_train_timesteps
    return joined([round(total - index * total / steps) - 1 for index in range(steps)])


def _linspace(schedule: Schedule, steps: int) -> Pairs:
    top = schedule.num_train_timesteps - 1
    return joined([round(top - index * top / max(steps - 1, 1)) for index in range(steps)])


def _linspace_open(schedule: Schedule, steps: int) -> Pairs:
    total = schedule.num_train_timesteps
    if steps == total > 1:
        raise ScheduleError(
            f"The grid linspace_open leaves out timestep 0, so it has at most {total - 1} steps; got {steps}. Take one "
            "step less, or the grid linspace."
        )
    ascending = np.linspace(0, total - 1, steps + 1).round()
    return joined([int(t) for t in ascending[:0:-1]])


def _log_snr(schedule: Schedule, steps: int) -> Pairs:
    top = schedule.num_train_timesteps - 1
    lambdas = np.linspace(schedule.half_log_snr(top), schedule.half_log_snr(0), steps)
    return joined([schedule.timestep(value) for value in lambdas])


def joined(timesteps: Sequence[float]) -> Pairs:
    """Each step ends where the next one starts, the last one at a clean image."""
    return list(zip(timesteps, [*timesteps[1:], CLEAN], strict=True))


_GRIDS: dict[str, Callable[[Schedule, int], Pairs]] = {
    "leading": _leading,
    "compvis": _compvis,
    "trailing": _trailing,
    "linspace": _linspace,
    "log_snr": _log_snr,
    "linspace_open": _linspace_open,
}
GRIDS = tuple(_GRIDS)


def _with_signal(alphas_cumprod: torch.Tensor) -> torch.Tensor:
    """The same where the last entry is above 0, else with `_LEAST_SIGNAL` there.

    Entries before it that are below that (in a thousand timesteps, two) are raised to between it and their neighbour,
    so that the table goes on falling.
    """
    if alphas_cumprod[-1] > 0.0:
        return alphas_cumprod
    enough = alphas_cumprod[alphas_cumprod > _LEAST_SIGNAL]
    before = float(enough[-1]) if len(enough) else 1.0
    rest = len(alphas_cumprod) - len(enough)
    logs = torch.linspace(math.log(before), math.log(_LEAST_SIGNAL), rest + 1, dtype=torch.float64)
    return torch.cat([enough, logs[1:].exp()])
