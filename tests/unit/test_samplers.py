"""DDIM against closed forms, and what every sampler promises; no network."""

from __future__ import annotations

import math

import pytest
import torch

from ldm_backend.config.model import ScheduleConfig
from ldm_backend.errors import SamplingError, ScheduleError
from ldm_backend.sampling.noise import StepNoise, draw_noise
from ldm_backend.sampling.samplers import SAMPLERS, StepInfo, adds_noise, ddim_coefficients, sample, sample_ddim
from ldm_backend.sampling.schedule import GRIDS, Schedule

SCHEDULE = Schedule(ScheduleConfig())


def test_coefficients_at_eta_1_are_the_ddpm_posterior():
    """sigma^2 = (1 - a_prev) / (1 - a_t) * beta_t for neighbouring timesteps (DDPM eq. 7)."""
    for t in (1, 500, 999):
        a_t, a_prev = SCHEDULE.alpha_cumprod(t), SCHEDULE.alpha_cumprod(t - 1)
        c = ddim_coefficients(a_t, a_prev, eta=1.0)
        assert c.std_dev_t**2 == pytest.approx((1 - a_prev) / (1 - a_t) * float(SCHEDULE.betas[t]), rel=1e-10)
        assert c.direction**2 + c.std_dev_t**2 == pytest.approx(1 - a_prev, rel=1e-10)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if not adds_noise(name)])
def test_a_perfect_model_returns_the_image(sampler, grid):
    """If eps is the true noise of a known x_0, every path of the ODE ends at x_0 (with the last grid point's noise)."""
    x_0, eps = draw_noise([1], (3, 8, 8)), draw_noise([2], (3, 8, 8))
    pairs = SCHEDULE.timesteps(20, grid)

    def noisy(t: float) -> torch.Tensor:
        a = SCHEDULE.alpha_cumprod(t)
        return math.sqrt(a) * x_0 + math.sqrt(1 - a) * eps

    result = sample(sampler, lambda x, t: eps, noisy(pairs[0][0]), SCHEDULE, pairs)
    torch.testing.assert_close(result, noisy(pairs[-1][1]), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if adds_noise(name)])
def test_a_perfect_model_returns_the_image_whatever_noise_is_added(sampler):
    """The true noise of a known x_0 is then that of each x_t; the last step adds none."""
    x_0 = draw_noise([1], (3, 8, 8))

    def eps_model(x: torch.Tensor, t: float) -> torch.Tensor:
        a = SCHEDULE.alpha_cumprod(t)
        return (x - math.sqrt(a) * x_0) / math.sqrt(1 - a)

    x_T, step_noise = draw_noise([2], (3, 8, 8)), StepNoise([2], (3, 8, 8))
    result = sample(sampler, eps_model, x_T, SCHEDULE, SCHEDULE.timesteps(20, "trailing"), step_noise=step_noise)
    torch.testing.assert_close(result, x_0, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_callback_sees_every_step_and_may_end_the_run(sampler):
    """Nothing is evaluated after the step whose callback raised."""
    seen, evaluated = [], []

    class StopRunError(Exception):
        pass

    def eps_model(x: torch.Tensor, t: float) -> torch.Tensor:
        evaluated.append(t)
        return x

    def callback(info: StepInfo) -> None:
        seen.append((info.index, info.steps, info.t))
        assert info.x_prev.shape == info.pred_x0.shape == (1, 3, 8, 8)
        if info.index == 2:
            raise StopRunError

    pairs, step_noise = SCHEDULE.timesteps(5, "leading"), StepNoise([1], (3, 8, 8))
    with pytest.raises(StopRunError):
        sample(
            sampler, eps_model, draw_noise([1], (3, 8, 8)), SCHEDULE, pairs, step_noise=step_noise, callback=callback
        )
    assert seen == [(0, 5, 800), (1, 5, 600), (2, 5, 400)]
    assert min(evaluated) == 400


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_the_start_is_not_written_to(sampler):
    x_T = draw_noise([1], (3, 8, 8))
    before = x_T.clone()
    step_noise = StepNoise([1], (3, 8, 8))
    sample(sampler, lambda x, t: x, x_T, SCHEDULE, SCHEDULE.timesteps(5, "leading"), step_noise=step_noise)
    assert torch.equal(x_T, before)


@pytest.mark.parametrize("eta", [-0.1, 1.1, math.nan])
def test_eta_out_of_range(eta):
    with pytest.raises(ScheduleError, match="expected 0"):
        sample_ddim(lambda x, t: x, draw_noise([1], (3, 8, 8)), SCHEDULE, [(0, -1)], eta)


def test_eta_without_noise():
    with pytest.raises(ScheduleError, match="no step noise"):
        sample_ddim(lambda x, t: x, draw_noise([1], (3, 8, 8)), SCHEDULE, [(0, -1)], 0.5)


def test_unknown_sampler_and_misplaced_eta():
    with pytest.raises(ScheduleError, match="choose one of ddim"):
        adds_noise("euler")
    with pytest.raises(ScheduleError, match="eta is 0.5 but unipc has no eta"):
        adds_noise("unipc", 0.5)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_nan_from_the_model_names_the_step(sampler, value):
    """Image 1 of 3 goes bad in the third step."""

    def eps_model(x, t):
        eps = x.clone()
        if t <= 599:
            eps[1, 0, 0, 0] = value
        return eps

    x_T = draw_noise([1, 2, 3], (3, 8, 8))
    with pytest.raises(SamplingError, match=r"step 3 of 5 \(timestep 599\), for 1 of 3 images, the first at index 1"):
        sample(
            sampler, eps_model, x_T, SCHEDULE, SCHEDULE.timesteps(5, "trailing"),
            step_noise=lambda: torch.zeros_like(x_T),
        )  # fmt: skip
