"""The noise schedule in float64 and the timestep grids of the samplers. Imports only config and errors."""

from __future__ import annotations

import torch

from .config import ScheduleConfig
from .errors import ScheduleError

GRIDS = ("leading", "compvis")

# What `alphas_cumprod` is after the last step, written as a timestep: no timestep of the schedule, but a clean image.
CLEAN = -1


class Schedule:
    """Tables of the forward process q(x_t | x_0).

    Attributes:
        betas, alphas_cumprod: (T,) float64 on the CPU. float32 tables would cost about 1e-6 relative in every step.
        num_train_timesteps: T.
    """

    def __init__(self, config: ScheduleConfig) -> None:
        self.config = config
        self.num_train_timesteps = config.num_train_timesteps
        self.betas = sqrt_linear_betas(config)
        self.alphas_cumprod = torch.cumprod(1.0 - self.betas, dim=0)

    def alpha_cumprod(self, t: int) -> float:
        """alphas_cumprod at timestep `t`; 1.0 at CLEAN."""
        return 1.0 if t == CLEAN else float(self.alphas_cumprod[t])

    def timesteps(self, steps: int, grid: str = "leading") -> list[tuple[int, int]]:
        """Timesteps of a run, noisiest first.

        Args:
            steps: number of model evaluations, 1..T.
            grid: "leading", the spacing of the Hugging Face configuration as shipped (0, 5, ..., 995 for 200 steps,
                then `set_alpha_to_one`); "compvis", that of the original code (1, 6, ..., 996, then timestep 0).
        Returns: `steps` pairs (t, t_prev); a step takes x_t to x_{t_prev}, and t_prev CLEAN is a clean image.
        Raises: ScheduleError: unknown grid, steps out of range, or not defined for this grid.
        Source: diffusers schedulers/scheduling_ddim.py set_timesteps; CompVis
            ldm/modules/diffusionmodules/util.py:44-60 make_ddim_timesteps.
        """
        total = self.num_train_timesteps
        if not isinstance(steps, int) or not 1 <= steps <= total:
            raise ScheduleError(f"steps is {steps!r}; expected a whole number from 1 to {total}.")
        if grid == "leading":
            return self._leading(steps)
        if grid == "compvis":
            return self._compvis(steps)
        raise ScheduleError(f"grid is {grid!r}; choose one of {', '.join(GRIDS)}.")

    def _leading(self, steps: int) -> list[tuple[int, int]]:
        stride = self.num_train_timesteps // steps
        grid = [index * stride + self.config.steps_offset for index in reversed(range(steps))]
        if grid[0] >= self.num_train_timesteps:
            raise ScheduleError(
                f"{steps} steps with steps_offset {self.config.steps_offset} reach timestep {grid[0]}; the last one is "
                f"{self.num_train_timesteps - 1}. Take fewer steps."
            )
        last = CLEAN if self.config.set_alpha_to_one else 0
        return [(t, t - stride if t >= stride else last) for t in grid]

    def _compvis(self, steps: int) -> list[tuple[int, int]]:
        grid = _compvis_grid(self.num_train_timesteps, steps)
        if not self._is_compvis_count(steps):
            around = (range(steps, 0, -1), range(steps, self.num_train_timesteps + 1))
            near = [next(filter(self._is_compvis_count, counts), None) for counts in around]
            raise ScheduleError(
                f"The compvis grid is not defined for {steps} steps: the original gives {len(grid)} timesteps up to "
                f"{grid[-1]}. Take {' or '.join(str(n) for n in near if n)} steps, or the leading grid."
            )
        return list(zip(reversed(grid), [*reversed(grid[:-1]), 0], strict=True))

    def _is_compvis_count(self, steps: int) -> bool:
        grid = _compvis_grid(self.num_train_timesteps, steps)
        return len(grid) == steps and grid[-1] < self.num_train_timesteps


def _compvis_grid(total: int, steps: int) -> range:
    """The original's timesteps, ascending; may be longer than asked and may leave the schedule."""
    return range(1, total + 1, total // steps)


def sqrt_linear_betas(config: ScheduleConfig) -> torch.Tensor:
    """(T,) float64 betas, linear in their square root.

    Source: CompVis ldm/modules/diffusionmodules/util.py:21-26, where it is called "linear".
    """
    start, end = config.beta_start**0.5, config.beta_end**0.5
    return torch.linspace(start, end, config.num_train_timesteps, dtype=torch.float64) ** 2
