"""Scheduler files as diffusers writes them, read by us, beside diffusers' own scheduler of each sampler.

Both evaluate the same function as a network. diffusers' tables and latents are made float64 here, as our tables are:
schedules with little signal at the end multiply the rounding of float32 tables by 1 / sqrt(alphas_cumprod), up to 4096
with zero SNR. What is left is the rounding of our float32 latents: 1e-4 absolute on latents of about 1.
"""

from __future__ import annotations

import importlib
import json
import math
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from ldm_backend.config.model import ScheduleConfig
from ldm_backend.sampling.noise import StepNoise, draw_noise
from ldm_backend.sampling.samplers import (
    sample_ddim,
    sample_ddpm,
    sample_dpmpp_2m,
    sample_dpmpp_3m,
    sample_plms,
    sample_unipc,
)
from ldm_backend.sampling.schedule import CLEAN, Pairs, Schedule

theirs: Any = importlib.import_module("diffusers.schedulers")
pytestmark = pytest.mark.parity

SEEDS = [4, 6]
SHAPE = (3, 8, 8)
LDM = {"beta_schedule": "scaled_linear", "beta_start": 0.0015, "beta_end": 0.0195, "clip_sample": False}
V_ZERO = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
BETAS = [float(beta) for beta in np.linspace(0.0001, 0.02, 1000) ** 1.1]

# Options of a scheduler file, beside those of LDM.
OPTIONS: dict[str, dict[str, Any]] = {
    "linear": {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02},
    "squaredcos_cap_v2, leading": {"beta_schedule": "squaredcos_cap_v2"},
    "trained_betas": {"trained_betas": BETAS},
    "v": {"prediction_type": "v_prediction"},
    "x0": {"prediction_type": "sample"},
    "v, squaredcos_cap_v2, trailing": {
        "prediction_type": "v_prediction", "beta_schedule": "squaredcos_cap_v2", "timestep_spacing": "trailing",
    },
    "v, zero SNR": V_ZERO,
    "x0, zero SNR": V_ZERO | {"prediction_type": "sample"},
    "eps, zero SNR, leading": {"rescale_betas_zero_snr": True},
    "clip_sample": {"clip_sample": True},
    "clip_sample_range": {"clip_sample": True, "clip_sample_range": 0.3},
    "clip_sample, v, zero SNR": V_ZERO | {"clip_sample": True, "clip_sample_range": 0.5},
    "thresholding": {"thresholding": True},
    "thresholding, settings": {
        "thresholding": True, "dynamic_thresholding_ratio": 0.8, "sample_max_value": 1.5, "clip_sample": True,
    },
    "trailing": {"timestep_spacing": "trailing"},
    "steps_offset, set_alpha_to_one": {"steps_offset": 1, "set_alpha_to_one": False},
}  # fmt: skip


class Network:
    """Says that the clean latent is a bounded function of x_t and t, in the terms that a schedule asks for.

    Random weights would say anything, and a run would leave all bounds.
    """

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule

    def __call__(self, x_t: Tensor, t: float) -> Tensor:
        a_t, kind = float(self.schedule.alphas_cumprod[int(t)]), self.schedule.config.prediction_type
        x_0 = 1.6 * torch.tanh(0.7 * x_t + 0.3 * x_t.roll(1, dims=2) + math.cos(t / 100))
        eps = (x_t - math.sqrt(a_t) * x_0) / math.sqrt(1 - a_t)
        v = math.sqrt(a_t) * eps - math.sqrt(1 - a_t) * x_0
        return {"epsilon": eps, "sample": x_0, "v_prediction": v}[kind]


def exact(make: Callable[[], Any], steps: int) -> Any:
    """A scheduler of diffusers with float64 tables and so many steps."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (torch, np):  # what its tables are made of
            patch.setattr(module, "float32", module.float64)
        scheduler = make()
        scheduler.set_timesteps(steps)
    assert scheduler.alphas_cumprod.dtype == torch.float64
    return scheduler


def as_read(scheduler: Any, folder: Path) -> Schedule:
    """The file that diffusers writes, read by us."""
    scheduler.save_pretrained(folder)
    return Schedule(ScheduleConfig.from_dict(json.loads((folder / "scheduler_config.json").read_text())))


@torch.no_grad()
def expected(scheduler: Any, network: Network, **step_arguments: Any) -> Tensor:
    """diffusers' loop; `scheduler` has its timesteps."""
    x_t = draw_noise(SEEDS, SHAPE).double()
    for t in scheduler.timesteps:
        x_t = scheduler.step(network(x_t, int(t)), t, x_t, **step_arguments).prev_sample
    return x_t.float()


def pairs_of(scheduler: Any) -> Pairs:
    """The timesteps that diffusers visits, each once, as our steps."""
    timesteps = list(dict.fromkeys(int(t) for t in scheduler.timesteps))
    return list(zip(timesteps, [*timesteps[1:], CLEAN], strict=True))


def assert_close(ours: Tensor, theirs: Tensor) -> None:
    assert theirs.isfinite().all()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)


@pytest.mark.parametrize("eta", [0.0, 0.9])
@pytest.mark.parametrize("name", OPTIONS)
def test_ddim(name, eta, tmp_path, monkeypatch):
    """Image by image, on the grid that the file names."""
    noise = StepNoise(SEEDS, SHAPE)
    monkeypatch.setattr("diffusers.schedulers.scheduling_ddim.randn_tensor", lambda *_, **__: noise())
    scheduler = exact(lambda: theirs.DDIMScheduler(**(LDM | OPTIONS[name])), 20)
    schedule = as_read(scheduler, tmp_path)
    pairs = schedule.timesteps(20, schedule.config.timestep_spacing)
    assert [t for t, _ in pairs] == scheduler.timesteps.tolist()
    ours = sample_ddim(Network(schedule), draw_noise(SEEDS, SHAPE), schedule, pairs, eta, StepNoise(SEEDS, SHAPE))
    assert_close(ours, expected(scheduler, Network(schedule), eta=eta))


@pytest.mark.parametrize("variance_type", ["fixed_small", "fixed_small_log", "fixed_large"])
@pytest.mark.parametrize("name", [name for name in OPTIONS if "set_alpha_to_one" not in name])
def test_ddpm(name, variance_type, tmp_path, monkeypatch):
    noise = StepNoise(SEEDS, SHAPE)
    monkeypatch.setattr("diffusers.schedulers.scheduling_ddpm.randn_tensor", lambda *_, **__: noise())
    scheduler = exact(lambda: theirs.DDPMScheduler(**(LDM | OPTIONS[name]), variance_type=variance_type), 20)
    schedule = as_read(scheduler, tmp_path)
    pairs = schedule.timesteps(20, schedule.config.timestep_spacing)
    ours = sample_ddpm(Network(schedule), draw_noise(SEEDS, SHAPE), schedule, pairs, StepNoise(SEEDS, SHAPE))
    assert_close(ours, expected(scheduler, Network(schedule)))


# Their options have neither clip_sample nor set_alpha_to_one: as with `from_config`, those of a file count for nothing.
SOLVERS: dict[str, tuple[str, dict[str, Any], Callable[..., Tensor]]] = {
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {"solver_order": 2}, sample_dpmpp_2m),
    "dpmpp_3m": ("DPMSolverMultistepScheduler", {"solver_order": 3}, sample_dpmpp_3m),
    "unipc": ("UniPCMultistepScheduler", {"solver_order": 2}, sample_unipc),
    "plms": ("PNDMScheduler", {"skip_prk_steps": True, "set_alpha_to_one": True}, sample_plms),
    "dpmpp_2m_sde": (
        "DPMSolverMultistepScheduler",
        {"solver_order": 2, "algorithm_type": "sde-dpmsolver++"},
        partial(sample_dpmpp_2m, eta=1.0, step_noise=StepNoise(SEEDS, SHAPE)),
    ),
}
# PNDM rescales no betas and refuses x0.
FOR_SOLVERS = [
    (solver, name)
    for solver in SOLVERS
    for name in OPTIONS
    if not (solver == "plms" and ("zero SNR" in name or "x0" in name)) and "set_alpha_to_one" not in name
]


@pytest.mark.parametrize(("solver", "name"), FOR_SOLVERS)
def test_solvers(solver, name, tmp_path, monkeypatch):
    """A file of DDIM's class, and what diffusers' solvers make of it by `from_config`."""
    noise = StepNoise(SEEDS, SHAPE)
    monkeypatch.setattr(
        "diffusers.schedulers.scheduling_dpmsolver_multistep.randn_tensor", lambda *_, **__: noise()
    )  # fmt: skip
    class_name, settings, run = SOLVERS[solver]
    ddim = theirs.DDIMScheduler(**(LDM | OPTIONS[name]))
    spacing = {"timestep_spacing": "leading" if "leading" in name else "trailing"}
    scheduler = exact(lambda: getattr(theirs, class_name).from_config(ddim.config, **settings, **spacing), 10)
    if solver == "dpmpp_2m_sde":
        run = partial(run, step_noise=StepNoise(SEEDS, SHAPE))
    schedule = as_read(ddim, tmp_path)
    ours = run(Network(schedule), draw_noise(SEEDS, SHAPE), schedule, pairs_of(scheduler))
    assert_close(ours, expected(scheduler, Network(schedule)))


@pytest.mark.parametrize("name", [name for name in OPTIONS if name != "trained_betas"])
@pytest.mark.parametrize("class_name", [
    "DDPMScheduler", "PNDMScheduler", "EulerDiscreteScheduler", "EulerAncestralDiscreteScheduler",
    "LMSDiscreteScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler", "HeunDiscreteScheduler",
])  # fmt: skip
def test_files_of_other_classes(class_name, name, tmp_path):
    """Read by us, and by diffusers' DDIMScheduler: the same process, settings and grid."""
    ddim = theirs.DDIMScheduler(**(LDM | OPTIONS[name]))
    other = getattr(theirs, class_name).from_config(ddim.config)
    ours = as_read(other, tmp_path)
    again = theirs.DDIMScheduler.from_pretrained(tmp_path)
    torch.testing.assert_close(ours.alphas_cumprod.float(), again.alphas_cumprod, rtol=2e-4, atol=1e-7)
    for key in ("prediction_type", "clip_sample", "thresholding", "timestep_spacing", "set_alpha_to_one"):
        # A class without the key means what its own steps do, whatever DDIM's default is.
        if key in json.loads((tmp_path / "scheduler_config.json").read_text()):
            assert getattr(ours.config, key) == again.config[key], key


def test_what_we_write_is_the_same_schedule_in_diffusers():
    for options in OPTIONS.values():
        config = ScheduleConfig.from_dict({**theirs.DDIMScheduler(**(LDM | options)).config})
        written = theirs.DDIMScheduler.from_config(config.to_dict())
        assert ScheduleConfig.from_dict({**written.config}) == config
        torch.testing.assert_close(
            Schedule(config).alphas_cumprod.float(), written.alphas_cumprod, rtol=2e-4, atol=1e-7
        )  # fmt: skip
