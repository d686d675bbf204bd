"""DDIM inversion against closed forms; no network."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ldm_backend.config.model import ScheduleConfig
from ldm_backend.editing.inversion import evaluations_of, invert_ddim
from ldm_backend.errors import SamplingError, ScheduleError
from ldm_backend.sampling.noise import draw_noise
from ldm_backend.sampling.samplers import ddim_coefficients, sample_ddim
from ldm_backend.sampling.schedule import CLEAN, Pairs, Schedule

SCHEDULE = Schedule(ScheduleConfig())
X_0 = draw_noise([1, 2, 3], (3, 8, 8))


def gain(t: float, std: float) -> float:
    """eps(x, t) = gain * x is the perfect model of data that is normal with this standard deviation."""
    a = SCHEDULE.alpha_cumprod(t)
    return math.sqrt(1 - a) / (a * std**2 + 1 - a)


def eps_model(x: Tensor, t: float) -> Tensor:
    """Channels of different spread, so that a mistake cannot hide in a common factor."""
    return x * torch.tensor([gain(t, std) for std in (0.5, 1.0, 2.0)]).view(1, 3, 1, 1)


def exact_start(pairs: Pairs) -> Tensor:
    """DDIM with that model multiplies by a number in each step; divide by all of them."""
    factors = torch.ones(3, dtype=torch.float64)
    for t, t_prev in pairs:
        c = ddim_coefficients(SCHEDULE.alpha_cumprod(t), SCHEDULE.alpha_cumprod(t_prev), eta=0.0)
        for channel, std in enumerate((0.5, 1.0, 2.0)):
            k = gain(t, std)
            factors[channel] *= c.signal_prev * (1 - c.noise * k) / c.signal + c.direction * k
    return (X_0.double() / factors.view(1, 3, 1, 1)).float()


@pytest.mark.parametrize("grid", ["leading", "compvis", "trailing", "linspace", "log_snr"])
def test_enough_iterations_give_the_exact_x_t(grid):  # noqa: N802 - the papers' name
    pairs = SCHEDULE.timesteps(50, grid)
    found = invert_ddim(eps_model, X_0, SCHEDULE, pairs, iterations=30)
    torch.testing.assert_close(found, exact_start(pairs), rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("grid", ["leading", "trailing"])
def test_each_iteration_comes_closer(grid):
    pairs = SCHEDULE.timesteps(20, grid)
    exact = exact_start(pairs)
    errors = [(invert_ddim(eps_model, X_0, SCHEDULE, pairs, n) - exact).abs().max().item() for n in (1, 2, 4)]
    assert errors[0] > 2 * errors[1] > 4 * errors[2]


def test_one_iteration_beats_the_usual_inversion():
    """The usual one takes eps at the state before the step."""
    pairs = SCHEDULE.timesteps(50, "leading")
    usual = X_0
    for t, t_prev in reversed(pairs):
        a, a_prev = SCHEDULE.alpha_cumprod(t), SCHEDULE.alpha_cumprod(t_prev)
        eps = eps_model(usual, t)
        usual = math.sqrt(a) * (usual - math.sqrt(1 - a_prev) * eps) / math.sqrt(a_prev) + math.sqrt(1 - a) * eps
    exact = exact_start(pairs)
    found = invert_ddim(eps_model, X_0, SCHEDULE, pairs)
    assert (found - exact).norm() < (usual - exact).norm() / 3


def test_the_sampler_takes_it_back():
    pairs = SCHEDULE.timesteps(100, "trailing")
    x_T = invert_ddim(eps_model, X_0, SCHEDULE, pairs, iterations=3)
    torch.testing.assert_close(sample_ddim(eps_model, x_T, SCHEDULE, pairs), X_0, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("steps", "iterations", "expected"), [(1, 1, 10), (5, 1, 32), (5, 3, 36), (4, 20, 80)])
def test_evaluations_are_counted_and_reported(steps, iterations, expected):
    """Ten for each of the first three steps, or more where the others have more."""
    calls, seen = [], []

    def counted(x, t):
        calls.append(t)
        return eps_model(x, t)

    pairs = SCHEDULE.timesteps(steps, "leading")
    invert_ddim(counted, X_0, SCHEDULE, pairs, iterations, lambda info: seen.append((info.index, info.steps, info.t)))
    total = evaluations_of(steps, iterations)
    assert total == expected
    assert seen == [(index, total, t) for index, t in enumerate(calls)]
    assert len(calls) == total
    assert calls == sorted(calls)


def test_a_single_step_from_a_clean_image():
    """x_t = sqrt(a) x_0 + sqrt(1 - a) eps(x_t), which a constant eps solves at once."""
    eps = draw_noise([9, 9, 9], (3, 8, 8))
    a = SCHEDULE.alpha_cumprod(400)
    found = invert_ddim(lambda x, t: eps, X_0, SCHEDULE, [(400, CLEAN)])
    torch.testing.assert_close(found, math.sqrt(a) * X_0 + math.sqrt(1 - a) * eps)


def test_input_is_not_written_to():
    before = X_0.clone()
    invert_ddim(eps_model, X_0, SCHEDULE, SCHEDULE.timesteps(3))
    assert torch.equal(X_0, before)


def test_no_iterations():
    with pytest.raises(ScheduleError, match="iterations is 0"):
        invert_ddim(eps_model, X_0, SCHEDULE, SCHEDULE.timesteps(3), iterations=0)


def test_nan_names_the_evaluation():
    def bad(x, t):
        return x * math.nan if t >= 400 else x

    with pytest.raises(SamplingError, match=r"step 21 of 32 \(timestep 400\), for 3 of 3"):
        invert_ddim(bad, X_0, SCHEDULE, SCHEDULE.timesteps(5, "leading"))
