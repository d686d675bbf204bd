"""Tables and grids, against closed forms and the published numbers."""

from __future__ import annotations

import pytest
import torch

from ldm_backend.config import ScheduleConfig
from ldm_backend.errors import ScheduleError
from ldm_backend.schedule import CLEAN, Schedule

SCHEDULE = Schedule(ScheduleConfig())


def test_tables_are_float64_and_match_the_closed_form():
    """sqrt(beta) is linear; sigma at both ends as computed by hand from the product."""
    assert SCHEDULE.betas.dtype == SCHEDULE.alphas_cumprod.dtype == torch.float64
    roots = SCHEDULE.betas.sqrt()
    torch.testing.assert_close(roots.diff(), torch.full((999,), float(roots[1] - roots[0]), dtype=torch.float64))
    sigma = ((1 - SCHEDULE.alphas_cumprod) / SCHEDULE.alphas_cumprod).sqrt()
    assert float(sigma[0]) == pytest.approx(0.038759, abs=1e-6)
    assert float(sigma[999]) == pytest.approx(83.8225, abs=1e-3)
    assert SCHEDULE.alpha_cumprod(CLEAN) == 1.0


GRIDS = [
    ("leading", 1, [(0, CLEAN)]),
    ("leading", 3, [(666, 333), (333, 0), (0, CLEAN)]),
    ("compvis", 1, [(1, 0)]),
    ("compvis", 4, [(751, 501), (501, 251), (251, 1), (1, 0)]),
]


@pytest.mark.parametrize(("grid", "steps", "expected"), GRIDS)
def test_grid(grid, steps, expected):
    assert SCHEDULE.timesteps(steps, grid) == expected


def test_the_recipe():
    """200 steps: 995, 990, ..., 0 as shipped, and 996, 991, ..., 1 in the original code."""
    assert [t for t, _ in SCHEDULE.timesteps(200, "leading")] == list(range(995, -1, -5))
    assert [t for t, _ in SCHEDULE.timesteps(200, "compvis")] == list(range(996, 0, -5))


# The original code gives exactly S timesteps, all of them inside the table, for these S and no others.
COMPVIS_COUNTS = [1, 2, 4, 5, 8, 10, 20, 25, 40, 50, 100, 125, 200, 250, 500]


@pytest.mark.parametrize("grid", ["leading", "compvis"])
def test_every_step_count_gives_exactly_that_or_an_error(grid):
    """Over all of 1..1000; each grid descends, stays in the table, and each step starts where the last one ended."""
    defined = []
    for steps in range(1, 1001):
        try:
            pairs = SCHEDULE.timesteps(steps, grid)
        except ScheduleError:
            continue
        defined.append(steps)
        assert len(pairs) == steps
        assert all(1000 > t > t_prev for t, t_prev in pairs)
        assert [t_prev for _, t_prev in pairs[:-1]] == [t for t, _ in pairs[1:]]
    assert defined == (list(range(1, 1001)) if grid == "leading" else COMPVIS_COUNTS)


def test_compvis_error_offers_the_nearest_counts():
    with pytest.raises(ScheduleError, match=r"not defined for 30 steps.*31 timesteps.*Take 25 or 40 steps"):
        SCHEDULE.timesteps(30, "compvis")


@pytest.mark.parametrize("steps", [0, -1, 1001, 2.5, "20"])
def test_steps_out_of_range(steps):
    with pytest.raises(ScheduleError, match="1 to 1000"):
        SCHEDULE.timesteps(steps, "leading")


def test_unknown_grid_names_the_known_ones():
    with pytest.raises(ScheduleError, match="leading, compvis"):
        SCHEDULE.timesteps(20, "karras")
