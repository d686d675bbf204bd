"""Tables and grids, against closed forms and the published numbers."""

from __future__ import annotations

import math

import pytest
import torch

from ldm_backend.config.model import ScheduleConfig
from ldm_backend.errors import ScheduleError
from ldm_backend.sampling.samplers import AUTO, SAMPLERS, grid_of
from ldm_backend.sampling.schedule import CLEAN, GRIDS, Schedule

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


EXPECTED = [
    ("leading", 1, [(0, CLEAN)]),
    ("leading", 3, [(666, 333), (333, 0), (0, CLEAN)]),
    ("compvis", 1, [(1, 0)]),
    ("compvis", 4, [(751, 501), (501, 251), (251, 1), (1, 0)]),
    ("trailing", 1, [(999, CLEAN)]),
    ("trailing", 3, [(999, 666), (666, 332), (332, CLEAN)]),
    ("linspace", 1, [(999, CLEAN)]),
    ("linspace", 4, [(999, 666), (666, 333), (333, 0), (0, CLEAN)]),
    ("linspace_open", 1, [(999, CLEAN)]),
    ("linspace_open", 4, [(999, 749), (749, 500), (500, 250), (250, CLEAN)]),
    ("log_snr", 1, [(999, CLEAN)]),
    ("log_snr", 2, [(999, 0), (0, CLEAN)]),
]


@pytest.mark.parametrize(("grid", "steps", "expected"), EXPECTED)
def test_grid(grid, steps, expected):
    assert SCHEDULE.timesteps(steps, grid) == expected


def test_the_recipe():
    """200 steps: 995, 990, ..., 0 as shipped, and 996, 991, ..., 1 in the original code."""
    assert [t for t, _ in SCHEDULE.timesteps(200, "leading")] == list(range(995, -1, -5))
    assert [t for t, _ in SCHEDULE.timesteps(200, "compvis")] == list(range(996, 0, -5))


# The original code gives exactly S timesteps, all of them inside the table, for these S and no others.
COMPVIS_COUNTS = [1, 2, 4, 5, 8, 10, 20, 25, 40, 50, 100, 125, 200, 250, 500]


@pytest.mark.parametrize("grid", GRIDS)
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
    most = 999 if grid == "linspace_open" else 1000  # which leaves out timestep 0
    assert defined == (COMPVIS_COUNTS if grid == "compvis" else list(range(1, most + 1)))


def test_compvis_counts_are_the_originals():
    """The formula of `make_ddim_timesteps`, and where indexing its table of 1000 would fail or the count differ."""
    defined = []
    for steps in range(1, 1001):
        timesteps = list(range(0, 1000, 1000 // steps))
        original = [t + 1 for t in timesteps]
        if len(original) != steps or original[-1] > 999:
            with pytest.raises(ScheduleError, match="not defined"):
                SCHEDULE.timesteps(steps, "compvis")
            continue
        defined.append(steps)
        assert [t for t, _ in SCHEDULE.timesteps(steps, "compvis")] == original[::-1]
    assert defined == COMPVIS_COUNTS


def test_log_snr_steps_are_even():
    """All steps but the last, which goes to a clean image, have the same length in lambda; the ends are exact."""
    pairs = SCHEDULE.timesteps(50, "log_snr")
    assert (pairs[0][0], pairs[-1]) == (999, (0, CLEAN))
    lambdas = torch.tensor([SCHEDULE.half_log_snr(t) for t, _ in pairs], dtype=torch.float64)
    torch.testing.assert_close(lambdas.diff(), torch.full((49,), float(lambdas[1] - lambdas[0])).double(), rtol=1e-4,
                               atol=0)  # fmt: skip


def test_half_log_snr_and_its_inverse():
    """Exact at whole timesteps, also after a detour through a float32 sigma; monotonous between; clamped outside."""
    for t in (0, 1, 17, 500, 998, 999):
        a = SCHEDULE.alpha_cumprod(t)
        assert SCHEDULE.half_log_snr(t) == pytest.approx(0.5 * math.log(a / (1 - a)), abs=1e-12)
        sigma = float(torch.tensor(math.sqrt((1 - a) / a), dtype=torch.float32))
        assert SCHEDULE.timestep(-math.log(sigma)) == t
    assert SCHEDULE.alpha_cumprod(499) > SCHEDULE.alpha_cumprod(499.4) > SCHEDULE.alpha_cumprod(500)
    assert SCHEDULE.timestep(SCHEDULE.half_log_snr(499.4)) == pytest.approx(499.4, abs=1e-9)
    assert SCHEDULE.half_log_snr(CLEAN) == math.inf
    assert SCHEDULE.timestep(math.inf) == CLEAN
    assert (SCHEDULE.timestep(100.0), SCHEDULE.timestep(-100.0)) == (0, 999)


@pytest.mark.parametrize(("steps", "strength"), [(50, 1.0), (50, 0.5), (10, 0.3), (7, 0.05), (1, 0.001)])
def test_strength_keeps_the_steps(steps, strength):
    """Exactly the steps asked for, ending clean, starting about `strength` of the way up."""
    pairs = SCHEDULE.last_timesteps(steps, strength, "trailing")
    assert len(pairs) == steps
    assert pairs[-1][1] == CLEAN
    assert pairs[0][0] == pytest.approx(1000 * strength, abs=1000 / (steps / strength) / 2 + 1)


@pytest.mark.parametrize("strength", [0.0, -0.5, 1.01, math.nan])
def test_strength_out_of_range(strength):
    with pytest.raises(ScheduleError, match="expected more than 0"):
        SCHEDULE.last_timesteps(10, strength)


def test_too_many_steps_for_a_strength():
    with pytest.raises(ScheduleError, match="run of 2000 steps.*at most 100 steps"):
        SCHEDULE.last_timesteps(200, 0.1)


def test_compvis_error_offers_the_nearest_counts():
    with pytest.raises(ScheduleError, match=r"not defined for 30 steps.*31 timesteps.*Take 25 or 40 steps"):
        SCHEDULE.timesteps(30, "compvis")


@pytest.mark.parametrize("steps", [0, -1, 1001, 2.5, "20"])
def test_steps_out_of_range(steps):
    with pytest.raises(ScheduleError, match="1 to 1000"):
        SCHEDULE.timesteps(steps, "leading")


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_auto_is_the_samplers_own_grid(sampler, spacing):
    schedule = Schedule(ScheduleConfig(timestep_spacing=spacing))
    assert grid_of(schedule, AUTO, sampler) == (spacing if sampler in ("ddim", "ddpm", "plms") else "log_snr")
    for grid in GRIDS:
        assert grid_of(schedule, grid, sampler) == grid
    with pytest.raises(ScheduleError, match="grid is 'karras'; choose one of .*auto"):
        grid_of(schedule, "karras", sampler)


def test_unknown_grid_names_the_known_ones():
    with pytest.raises(ScheduleError, match="leading, compvis"):
        SCHEDULE.timesteps(20, "karras")
