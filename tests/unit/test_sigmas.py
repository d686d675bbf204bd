"""Sigmas and timesteps, there and back."""

from __future__ import annotations

import math

import numpy as np
import pytest

from ldm_backend.config.model import ScheduleConfig
from ldm_backend.errors import ScheduleError
from ldm_backend.sampling.schedule import CLEAN, GRIDS, Schedule
from ldm_backend.sampling.sigmas import pairs_of, sigma_of, sigmas_of

SCHEDULE = Schedule(ScheduleConfig())
TOP = sigma_of(SCHEDULE, 999)


def test_sigma_is_the_ratio_of_noise_to_signal():
    """The closed form at whole timesteps, 0 for a clean image, and the numbers computed by hand for both ends."""
    for t in (0, 1, 500, 999):
        a = SCHEDULE.alpha_cumprod(t)
        assert sigma_of(SCHEDULE, t) == pytest.approx(math.sqrt((1 - a) / a), rel=1e-12)
    assert sigma_of(SCHEDULE, CLEAN) == 0.0
    assert sigma_of(SCHEDULE, 0) == pytest.approx(0.038759, abs=1e-6)
    assert pytest.approx(83.8225, abs=1e-3) == TOP


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("steps", [1, 2, 20, 200])
def test_there_and_back_through_float32(grid, steps):
    """A grid survives as the float32 sigmas of a host: whole timesteps exactly, others to 1e-3 of a timestep."""
    pairs = SCHEDULE.timesteps(steps, grid)
    sigmas = np.array(sigmas_of(SCHEDULE, pairs), dtype=np.float32).tolist()
    assert len(sigmas) == steps + 1
    found = pairs_of(SCHEDULE, sigmas)
    if grid == "log_snr":
        np.testing.assert_allclose(found, pairs, atol=1e-3, rtol=0)
    else:
        assert found == pairs


def test_strength_keeps_the_steps_and_lowers_the_start():
    sigmas = sigmas_of(SCHEDULE, SCHEDULE.last_timesteps(10, 0.5, "trailing"))
    assert len(sigmas) == 11
    assert sigmas[0] == sigma_of(SCHEDULE, 499)
    assert sigmas[-1] == 0.0


def test_one_sigma_is_no_step():
    """What SplitSigmas leaves at either end."""
    assert pairs_of(SCHEDULE, [0.0]) == []
    assert pairs_of(SCHEDULE, [1.0]) == []


@pytest.mark.parametrize(
    ("sigmas", "words"),
    [
        ([0.0, 1.0], r"sigmas\[1\] is 1 after 0"),
        ([5.0, 5.0, 0.0], r"sigmas\[1\] is 5 after 5"),
        ([TOP, TOP * (1 - 1e-7), 0.0], r"sigmas\[1\]"),
        ([200.0, 1.0], r"sigmas\[0\] is 200.*83\.82"),
        ([1.0, 0.0291, 0.0], r"sigmas\[1\] is 0\.0291.*0\.0387"),
        ([math.nan], r"sigmas\[0\] is nan"),
        ([1.0, math.nan, 0.0], r"sigmas\[1\] is nan after 1"),
        ([1e-4, 0.5, 80.0], r"sigmas\[1\] is 0\.5 after 0\.0001"),
        ([math.inf, 0.0], r"sigmas\[0\] is inf"),
        ([-1.0], r"sigmas\[0\] is -1"),
    ],
)
def test_sigmas_that_are_no_run(sigmas, words):
    """Rising, standing still, outside of the table, or no number; the message names which one and what to do."""
    with pytest.raises(ScheduleError, match=words) as caught:
        pairs_of(SCHEDULE, sigmas)
    assert "LDM Sigmas" in str(caught.value)
