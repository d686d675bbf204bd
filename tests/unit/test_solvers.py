"""The solvers: order on a problem with a known solution, and what holds for every one; no weights from disk."""

from __future__ import annotations

import math
from functools import partial

import numpy as np
import pytest
import torch
from torch import Tensor

from ldm_backend.config.model import ScheduleConfig
from ldm_backend.errors import ScheduleError
from ldm_backend.sampling.noise import StepNoise, draw_noise
from ldm_backend.sampling.samplers import (
    SAMPLERS,
    adds_noise,
    ddpm_coefficients,
    sample,
    sample_ddim,
    sample_ddpm,
    sample_dpmpp_2m,
    sample_dpmpp_3m,
    sample_plms,
    sample_unipc,
)
from ldm_backend.sampling.schedule import CLEAN, GRIDS, Schedule
from ldm_backend.sampling.step import order_of_step

SCHEDULE = Schedule(ScheduleConfig())
DETERMINISTIC = [name for name in SAMPLERS if not adds_noise(name)]

# Data x_0 ~ N(MEAN, STD^2) in every element: the best eps and the solution of the ODE are known.
MEAN, STD = 0.5, 0.4


def gaussian_eps(x: Tensor, t: float) -> Tensor:
    a = SCHEDULE.alpha_cumprod(t)
    return math.sqrt(1 - a) * (x - math.sqrt(a) * MEAN) / (a * STD**2 + 1 - a)


def gaussian_solution(x: Tensor, t: float, t_prev: float) -> Tensor:
    """The ODE keeps how many standard deviations x is from the mean."""
    a_t, a_prev = SCHEDULE.alpha_cumprod(t), SCHEDULE.alpha_cumprod(t_prev)
    deviation = (x - math.sqrt(a_t) * MEAN) / math.sqrt(a_t * STD**2 + 1 - a_t)
    return math.sqrt(a_prev) * MEAN + math.sqrt(a_prev * STD**2 + 1 - a_prev) * deviation


def even_in_lambda(steps: int) -> list[tuple[float, float]]:
    """From timestep 900 to 100: no step to a clean image, which is of order 1 in all solvers."""
    lambdas = np.linspace(SCHEDULE.half_log_snr(900), SCHEDULE.half_log_snr(100), steps + 1)
    timesteps = [SCHEDULE.timestep(value) for value in lambdas]
    return list(zip(timesteps[:-1], timesteps[1:], strict=True))


@pytest.mark.parametrize(
    ("sampler", "least", "most"),
    [
        (sample_ddim, 0.9, 1.1),
        (sample_plms, 1.6, 2.4),
        (sample_dpmpp_2m, 1.9, 2.3),
        (sample_dpmpp_3m, 1.5, 2.5),  # as published, see its source: smaller errors, but not the order of its name
        (partial(sample_unipc, order=1), 1.8, 2.2),  # the corrector adds one
        (partial(sample_unipc, order=2), 2.8, 4.0),
        (partial(sample_unipc, order=3), 3.3, 5.0),
    ],
)
def test_order_of_convergence(sampler, least, most):
    """Twice the steps divide the error by 2 to the power of the order."""
    x = torch.linspace(-2, 2, 16).view(1, 1, 4, 4)
    errors = []
    for steps in (16, 32):
        pairs = even_in_lambda(steps)
        result = sampler(gaussian_eps, x, SCHEDULE, pairs)
        errors.append(float((result - gaussian_solution(x, pairs[0][0], pairs[-1][1])).abs().max()))
    assert least < math.log2(errors[0] / errors[1]) < most


def test_higher_order_is_closer_at_equal_cost():
    x, pairs = torch.linspace(-2, 2, 16).view(1, 1, 4, 4), even_in_lambda(20)
    exact = gaussian_solution(x, pairs[0][0], pairs[-1][1])
    solvers = (sample_ddim, sample_dpmpp_2m, sample_dpmpp_3m, sample_unipc)
    errors = [float((solver(gaussian_eps, x, SCHEDULE, pairs) - exact).abs().max()) for solver in solvers]
    assert errors[0] > 4 * errors[1] > 4 * errors[2]
    assert errors[1] > 4 * errors[3]


@pytest.mark.parametrize("sampler", ["ddpm", "dpmpp_2m_sde"])
def test_noisy_samplers_draw_the_distribution_of_the_data(sampler):
    """Mean and standard deviation of 4096 draws with 1000 steps, to three standard errors."""
    x_T = draw_noise(range(16), (4, 8, 8))
    result = sample(
        sampler, gaussian_eps, x_T, SCHEDULE, SCHEDULE.timesteps(1000, "trailing"),
        step_noise=StepNoise(range(16), (4, 8, 8)),
    )  # fmt: skip
    assert float(result.mean()) == pytest.approx(MEAN, abs=0.019)
    assert float(result.std()) == pytest.approx(STD, abs=0.014)


def test_ddpm_coefficients_are_the_posterior_of_neighbouring_timesteps():
    """DDPM eq. 7, with beta_t from the table."""
    for t in (1, 500, 999):
        a_t, a_prev, beta = SCHEDULE.alpha_cumprod(t), SCHEDULE.alpha_cumprod(t - 1), float(SCHEDULE.betas[t])
        c = ddpm_coefficients(a_t, a_prev)
        assert c.std**2 == pytest.approx((1 - a_prev) / (1 - a_t) * beta, rel=1e-10)
        assert c.data == pytest.approx(math.sqrt(a_prev) * beta / (1 - a_t), rel=1e-10)
        assert c.current == pytest.approx(math.sqrt(1 - beta) * (1 - a_prev) / (1 - a_t), rel=1e-10)


def test_ddpm_is_ddim_with_eta_1():
    x_T, pairs = draw_noise([1, 2], (3, 8, 8)), SCHEDULE.timesteps(20, "trailing")
    results = [
        run(gaussian_eps, x_T, SCHEDULE, pairs, step_noise=StepNoise([1, 2], (3, 8, 8)))
        for run in (sample_ddpm, partial(sample_ddim, eta=1.0))
    ]
    torch.testing.assert_close(*results, rtol=1e-4, atol=1e-5)


def test_noise_level_0_of_dpmpp_2m_is_the_limit_of_small_ones():
    x_T, pairs = draw_noise([1], (3, 8, 8)), SCHEDULE.timesteps(20, "trailing")
    nearly = sample_dpmpp_2m(
        gaussian_eps, x_T, SCHEDULE, pairs, eta=1e-8, step_noise=StepNoise([1], (3, 8, 8))
    )  # fmt: skip
    torch.testing.assert_close(nearly, sample_dpmpp_2m(gaussian_eps, x_T, SCHEDULE, pairs), rtol=0, atol=2e-3)


def test_order_of_each_step():
    to_clean = [(4 - i, 3 - i) for i in range(4)] + [(0, CLEAN)]
    assert [order_of_step(3, i, to_clean) for i in range(5)] == [1, 2, 3, 2, 1]
    long = [(19 - i, 18 - i) for i in range(19)] + [(0, CLEAN)]
    assert [order_of_step(3, i, long) for i in (0, 1, 2, 18, 19)] == [1, 2, 3, 3, 1]
    assert order_of_step(2, 0, [(0, CLEAN)]) == 1


@pytest.mark.parametrize("steps", [1, 2, 10])
def test_plms_costs_one_evaluation_more_than_its_steps(steps):
    """Except for a single step, which has no second timestep."""
    evaluated: list[float] = []

    def eps_model(x: Tensor, t: float) -> Tensor:
        evaluated.append(t)
        return gaussian_eps(x, t)

    pairs = SCHEDULE.timesteps(steps, "trailing")
    sample_plms(eps_model, draw_noise([1], (3, 8, 8)), SCHEDULE, pairs)
    visited = [t for t, _ in pairs]
    assert evaluated == visited[:1] + visited[1:2] + visited[1:]


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name != "plms"])
def test_all_others_cost_one_evaluation_a_step(sampler):
    evaluated: list[float] = []

    def eps_model(x: Tensor, t: float) -> Tensor:
        evaluated.append(t)
        return gaussian_eps(x, t)

    pairs = SCHEDULE.timesteps(7, "log_snr")
    noise = StepNoise([1], (3, 8, 8))
    sample(sampler, eps_model, draw_noise([1], (3, 8, 8)), SCHEDULE, pairs, step_noise=noise)
    assert evaluated == [t for t, _ in pairs]


@pytest.mark.parametrize("steps", [1, 2, 3, 1000])
@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_number_of_steps_on_every_grid(sampler, grid, steps):
    """Where the grid is defined: finite, of sane size, and for 1000 steps of a deterministic one on the solution.

    PLMS has no bound for 2 and 3 steps: its extrapolation over a step from noise to the image is divided by
    sqrt(alphas_cumprod) = 0.01 of the noisiest timestep.
    """
    try:
        pairs = SCHEDULE.timesteps(steps, grid)
    except ScheduleError:
        assert grid == "compvis" or (grid, steps) == ("linspace_open", 1000)
        return
    x_T = draw_noise([1], (1, 4, 4))
    result = sample(sampler, gaussian_eps, x_T, SCHEDULE, pairs, step_noise=StepNoise([1], (1, 4, 4)))
    assert result.isfinite().all()
    assert sampler == "plms" or result.abs().max() < 4.0
    if steps == 1000 and sampler in DETERMINISTIC:
        torch.testing.assert_close(result, gaussian_solution(x_T, pairs[0][0], pairs[-1][1]), rtol=0, atol=0.02)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_one_step_to_a_clean_image_is_the_prediction(sampler):
    x_T = draw_noise([1], (3, 8, 8))
    a = SCHEDULE.alpha_cumprod(999)
    pred_x0 = (x_T - math.sqrt(1 - a) * gaussian_eps(x_T, 999)) / math.sqrt(a)
    result = sample(
        sampler, gaussian_eps, x_T, SCHEDULE, [(999, CLEAN)], step_noise=StepNoise([1], (3, 8, 8))
    )  # fmt: skip
    torch.testing.assert_close(result, pred_x0, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("grid", ["trailing", "log_snr"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_an_image_does_not_depend_on_its_batch(sampler, grid, tiny):
    """A real UNet, eta 1 where there is one: alone, in a batch of 8, backwards, and split into 3 and 5."""
    pairs, eta = tiny.schedule.timesteps(6, grid), 1.0 if sampler == "ddim" else 0.0

    def run(seeds: list[int]) -> Tensor:
        shape = (3, 8, 8)
        return sample(
            sampler, tiny.unet, draw_noise(seeds, shape), tiny.schedule, pairs,
            eta=eta, step_noise=StepNoise(seeds, shape) if adds_noise(sampler, eta) else None,
        )  # fmt: skip

    seeds = list(range(20, 28))
    batch = run(seeds)
    # 1e-4: convolutions of another batch size may add in another order, and steps divide by sqrt(alphas_cumprod).
    close = partial(torch.testing.assert_close, rtol=1e-4, atol=1e-4)
    close(run([24]), batch[4:5])
    close(run(seeds[::-1]), batch.flip(0))
    close(torch.cat([run(seeds[:3]), run(seeds[3:])]), batch)
    assert not torch.allclose(batch[0], batch[1], atol=0.1)


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if adds_noise(name)])
def test_noisy_samplers_say_that_they_need_noise(sampler):
    with pytest.raises(ScheduleError, match="give a seed for each image"):
        sample(sampler, gaussian_eps, draw_noise([1], (3, 8, 8)), SCHEDULE, [(0, CLEAN)])


@pytest.mark.parametrize("order", [0, 4, 2.5])
def test_unipc_refuses_other_orders(order):
    with pytest.raises(ScheduleError, match="expected 1, 2 or 3"):
        sample_unipc(gaussian_eps, draw_noise([1], (3, 8, 8)), SCHEDULE, [(0, CLEAN)], order=order)


def test_dpmpp_2m_refuses_a_noise_level_above_1():
    with pytest.raises(ScheduleError, match="expected 0"):
        sample_dpmpp_2m(gaussian_eps, draw_noise([1], (3, 8, 8)), SCHEDULE, [(0, CLEAN)], eta=1.5)
