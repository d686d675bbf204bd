"""Networks that predict v or the clean latent, zero terminal SNR, clipping; and what CompVis' YAML says of them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from compvis_writer import small_yaml
from torch import Tensor

from ldm_backend.config.compvis_yaml import compvis_model_from_yaml
from ldm_backend.config.model import ScheduleConfig
from ldm_backend.editing.inpainting import inpaint, repaint_moves
from ldm_backend.editing.inversion import invert_ddim
from ldm_backend.errors import ConfigError, ScheduleError
from ldm_backend.sampling.noise import StepNoise, draw_noise
from ldm_backend.sampling.samplers import SAMPLERS, sample, sample_ddim
from ldm_backend.sampling.schedule import Schedule
from ldm_backend.sampling.sigmas import pairs_of, sigmas_of

KINDS = ("epsilon", "sample", "v_prediction")
SHAPE = (3, 8, 8)


class Network:
    """The clean latent as a bounded function of x_t and t, in the terms that a schedule asks for."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule

    def __call__(self, x_t: Tensor, t: float) -> Tensor:
        a_t = self.schedule.alpha_cumprod(t)
        x_0 = 0.9 * torch.tanh(0.3 * x_t + math.cos(t / 100))
        eps = (x_t - math.sqrt(a_t) * x_0) / math.sqrt(1 - a_t)
        v = math.sqrt(a_t) * eps - math.sqrt(1 - a_t) * x_0
        return {"epsilon": eps, "sample": x_0, "v_prediction": v}[self.schedule.config.prediction_type]


def drawn(sampler: str, grid: str = "trailing", steps: int = 12, **settings: Any) -> Tensor:
    schedule = Schedule(ScheduleConfig(**settings))
    x_T, noise = draw_noise([1, 2], SHAPE), StepNoise([1, 2], SHAPE)
    return sample(
        sampler, Network(schedule), x_T, schedule, schedule.timesteps(steps, grid), step_noise=noise
    )  # fmt: skip


@pytest.mark.parametrize("settings", [{}, {"thresholding": True}, {"clip_sample": True, "clip_sample_range": 0.5}])
@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name != "plms"])  # which combines the outputs
def test_what_the_network_gives_makes_no_difference(sampler, settings):
    """eps, x_0 and v of the same model: the same latents."""
    expected, *others = (drawn(sampler, prediction_type=kind, **settings) for kind in KINDS)
    for other in others:
        torch.testing.assert_close(other, expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("grid", ["trailing", "linspace", "log_snr"])
def test_zero_snr_from_pure_noise(sampler, grid):
    """From the last timestep, where there is no signal at all: finite, and near a run from the one before."""
    settings = {"rescale_betas_zero_snr": True, "prediction_type": "v_prediction"}
    result = drawn(sampler, grid, 50, **settings)
    assert result.abs().max() < 2
    if sampler == "ddim":
        torch.testing.assert_close(result, drawn("unipc", grid, 50, **settings), rtol=0, atol=0.05)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_eps_says_nothing_where_there_is_only_noise(sampler):
    assert drawn(sampler, "leading", rescale_betas_zero_snr=True).isfinite().all()
    if sampler in ("ddim", "ddpm", "plms"):  # the solvers leave a little signal, as diffusers does
        with pytest.raises(ScheduleError, match=r"timestep 999 holds nothing but noise.*leading"):
            drawn(sampler, "trailing", rescale_betas_zero_snr=True)


@pytest.mark.parametrize("betas", ["linear", "scaled_linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("steps", [2, 3, 10, 1000, 20000])
def test_tables_of_zero_snr_fall_to_the_end(betas, steps):
    """Also where many timesteps have less signal than what the solvers take for the least."""
    schedule = Schedule(ScheduleConfig(num_train_timesteps=steps, beta_schedule=betas, rescale_betas_zero_snr=True))
    assert float(schedule.alphas_cumprod[-1]) == 0.0
    assert bool((schedule.alphas_cumprod.diff() < 0).all())
    raised = schedule.with_signal.alphas_cumprod
    assert bool((raised.diff() < 0).all())
    assert float(raised[-1]) == pytest.approx(2**-24)
    torch.testing.assert_close(raised, schedule.alphas_cumprod, rtol=0, atol=1e-7)
    pairs = schedule.timesteps(min(steps, 7), "log_snr")
    there_and_back = pairs_of(schedule, sigmas_of(schedule, pairs))
    assert [t for t, _ in there_and_back] == pytest.approx([t for t, _ in pairs])


@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("kind", ["v_prediction", "sample"])
def test_inversion(kind, zero):
    """Forth from what it found gives the latent again."""
    schedule = Schedule(ScheduleConfig(prediction_type=kind, rescale_betas_zero_snr=zero))
    pairs, x_0 = schedule.timesteps(20, "trailing"), 0.5 * draw_noise([1], SHAPE).tanh()
    found = invert_ddim(Network(schedule), x_0, schedule, pairs, iterations=100, callback=lambda info: None)
    torch.testing.assert_close(sample_ddim(Network(schedule), found, schedule, pairs), x_0, rtol=0, atol=1e-3)


@pytest.mark.parametrize("settings", [{"clip_sample": True}, {"thresholding": True}])
def test_what_was_cut_is_not_inverted(settings):
    schedule = Schedule(ScheduleConfig(**settings))
    with pytest.raises(ScheduleError, match="clip_sample or thresholding"):
        invert_ddim(Network(schedule), draw_noise([1], SHAPE), schedule, schedule.timesteps(3))


def test_one_step_from_pure_noise_is_not_inverted():
    schedule = Schedule(ScheduleConfig(rescale_betas_zero_snr=True, prediction_type="v_prediction"))
    with pytest.raises(ScheduleError, match="Take more steps"):
        invert_ddim(Network(schedule), draw_noise([1], SHAPE), schedule, schedule.timesteps(1, "trailing"))


@pytest.mark.parametrize("kind", KINDS[1:])
def test_inpainting(kind):
    """The same filling whatever the network gives, zero SNR included; what is kept stays."""
    x_0, mask = 0.5 * draw_noise([1], SHAPE), torch.zeros(1, 1, 8, 8, dtype=torch.bool)
    mask[..., :4] = True
    results = []
    for prediction_type in (kind, "v_prediction"):
        schedule = Schedule(ScheduleConfig(prediction_type=prediction_type, rescale_betas_zero_snr=True))
        moves = repaint_moves(schedule.timesteps(6, "trailing"), 6, 2)
        noise = StepNoise([1], SHAPE)
        results.append(inpaint(Network(schedule), draw_noise([1], SHAPE), x_0, mask, schedule, moves, noise))
    torch.testing.assert_close(*results, rtol=0, atol=2e-5)
    assert torch.equal(results[0] * ~mask, x_0 * ~mask)


def test_clipping_holds_where_diffusers_has_it():
    """DDIM and DDPM end in the range; the solvers' classes have no clip_sample."""
    clipped = {"clip_sample": True, "clip_sample_range": 0.25}
    for sampler in ("ddim", "ddpm"):
        assert drawn(sampler, **clipped).abs().max() == 0.25
    for sampler in ("unipc", "dpmpp_2m", "plms"):
        assert torch.equal(drawn(sampler, **clipped), drawn(sampler))


def compvis_schedule(**params: Any) -> ScheduleConfig:
    data = small_yaml()
    data["model"]["params"] |= params
    return compvis_model_from_yaml(data, "file").config.schedule


# As the original computes them, ldm/modules/diffusionmodules/util.py make_beta_schedule.
FORMULAS = {
    "linear": lambda start, end, n, s: np.linspace(start**0.5, end**0.5, n) ** 2,
    "sqrt_linear": lambda start, end, n, s: np.linspace(start, end, n),
    "sqrt": lambda start, end, n, s: np.linspace(start, end, n) ** 0.5,
    "cosine": lambda start, end, n, s: cosine(n, s),
}


def cosine(n: int, s: float) -> np.ndarray:
    alphas = np.cos((np.arange(n + 1) / n + s) / (1 + s) * np.pi / 2) ** 2
    alphas = alphas / alphas[0]
    return np.clip(1 - alphas[1:] / alphas[:-1], 0, 0.999)


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize(("steps", "start", "end"), [(1000, 0.0015, 0.0195), (10, 1e-4, 0.02)])
@pytest.mark.parametrize("s", [8e-3, 0.1])
def test_betas_of_compvis(name, steps, start, end, s):
    params = {"beta_schedule": name, "timesteps": steps, "linear_start": start, "linear_end": end, "cosine_s": s}
    betas = Schedule(compvis_schedule(**params)).betas
    np.testing.assert_allclose(betas.numpy(), FORMULAS[name](start, end, steps, s), rtol=1e-9)


def test_other_entries_of_compvis():
    assert compvis_schedule(given_betas=[0.1, 0.5], timesteps=1000).trained_betas == (0.1, 0.5)
    assert compvis_schedule(given_betas=[0.1, 0.5]).num_train_timesteps == 2
    for name, kind in (("eps", "epsilon"), ("x0", "sample"), ("v", "v_prediction")):
        assert compvis_schedule(parameterization=name).prediction_type == kind
    assert compvis_schedule(v_posterior=1.0).variance_type == "fixed_large"


BAD = [
    ({"parameterization": "score"}, "parameterization is 'score'; supported are 'eps', 'x0', 'v'"),
    ({"beta_schedule": "scaled_linear"}, "beta_schedule is 'scaled_linear'; supported are 'linear', 'sqrt_linear'"),
    ({"beta_schedule": ["linear"]}, "beta_schedule is \\['linear'\\]"),
    ({"given_betas": 0.5}, "given_betas is 0.5"),
    ({"given_betas": [0.5, 2.0]}, r"trained_betas\[1\] is 2.0"),
    ({"given_betas": ["a"]}, "'a'"),
    ({"v_posterior": 0.5}, "v_posterior is 0.5"),
    ({"beta_schedule": "cosine", "cosine_s": -1}, "cosine_s is -1"),
    ({"timesteps": 10**9}, "timesteps 1000000000"),
]


@pytest.mark.parametrize(("params", "message"), BAD)
def test_refused_entries_of_compvis(params, message):
    with pytest.raises(ConfigError, match=message):
        compvis_schedule(**params)
