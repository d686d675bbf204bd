"""Checkpoints with other schedules and targets, in the host: its own samplers and ours draw what the backend draws."""

import json
from typing import Any

import pytest
import torch

import ldm_backend
from ldm_backend.config.model import ScheduleConfig
from ldm_backend.pipeline import sample_latents
from ldm_backend.sampling.noise import draw_noise
from ldm_backend.sampling.samplers import sample
from ldm_backend.sampling.schedule import CLEAN

V_ZERO: dict[str, Any] = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True}
SCHEDULES = {
    "linear": ScheduleConfig(beta_schedule="linear", beta_start=1e-4, beta_end=0.02),
    "v": ScheduleConfig(prediction_type="v_prediction"),
    "x0": ScheduleConfig(prediction_type="sample"),
    "v-cosine": ScheduleConfig(prediction_type="v_prediction", beta_schedule="squaredcos_cap_v2"),
    "v-zero": ScheduleConfig(**V_ZERO),
    "x0-zero": ScheduleConfig(rescale_betas_zero_snr=True, prediction_type="sample"),
    "betas": ScheduleConfig(num_train_timesteps=200, trained_betas=tuple(0.002 + 0.0003 * n for n in range(200))),
}
CLIPPED = ScheduleConfig(**V_ZERO, clip_sample=True, clip_sample_range=0.5)


def write(models: Any, write_checkpoint: Any, name: str, schedule: ScheduleConfig) -> ldm_backend.LatentDiffusion:
    folder = models / f"schedule-{name}"
    if not folder.exists():
        write_checkpoint(folder)
        (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(schedule.to_dict()))
    return ldm_backend.load(folder, device="cpu")


def advanced(graph: Any, loader: Any, sampler: Any, steps: int = 6) -> Any:
    sigmas = graph.add("LDMSigmas", model=loader[0], steps=steps, grid="trailing", strength=1.0)
    return graph.add(
        "SamplerCustomAdvanced", latent_image=graph.empty()[0], noise=graph.add("LDMNoise", seed=3)[0],
        guider=graph.add("LDMGuider", model=loader[0])[0], sampler=sampler[0], sigmas=sigmas[0],
    )  # fmt: skip


def assert_close(found: torch.Tensor, expected: torch.Tensor) -> None:
    """float32, through sigmas up to 20,000 there and back: 2e-3 of the latents' own size."""
    assert expected.isfinite().all()
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-3 * float(expected.std()))


@pytest.mark.parametrize("name", SCHEDULES)
def test_euler_of_the_host_is_ddim(graph, save_latent, models, write_checkpoint, name):
    """The same method in another space: so x_0, timestep and noise level are those of the schedule in each step."""
    expected = sample_latents(write(models, write_checkpoint, name, SCHEDULES[name]), [3], 6, grid="trailing")
    loader = graph.checkpoint(f"schedule-{name}")
    assert_close(
        save_latent(graph, advanced(graph, loader, graph.add("KSamplerSelect", sampler_name="euler"))), expected
    )  # fmt: skip


@pytest.mark.parametrize("sampler", ["ddim", "unipc"])
@pytest.mark.parametrize("name", ["v", "x0-zero", "v-zero", "clipped"])
def test_our_samplers_among_the_hosts_parts(graph, save_latent, models, write_checkpoint, name, sampler):
    """Zero SNR and clipping too, which the host's own samplers do not know."""
    model = write(models, write_checkpoint, name, (SCHEDULES | {"clipped": CLIPPED})[name])
    expected = sample_latents(model, [3], 6, sampler=sampler, grid="trailing")
    loader = graph.checkpoint(f"schedule-{name}")
    chosen = graph.add("LDMSamplerSelect", sampler=sampler, eta=0.0)
    assert_close(save_latent(graph, advanced(graph, loader, chosen)), expected)


@pytest.mark.parametrize("name", ["linear", "v", "x0", "v-zero"])
def test_ksampler(graph, save_latent, models, write_checkpoint, name):
    """With the host's own noise, sigmas and conditioning; 27 of its uniform steps fall on whole timesteps."""
    model = write(models, write_checkpoint, name, SCHEDULES[name])
    timesteps = list(range(999, 0, -37))
    pairs = list(zip(timesteps, [*timesteps[1:], CLEAN], strict=True))
    expected = sample("ddim", model.unet, draw_noise([3], (3, 16, 16)), model.schedule, pairs)
    loader, nothing = graph.checkpoint(f"schedule-{name}"), graph.add("LDMEmptyConditioning")
    found = graph.add(
        "KSampler", model=loader[0], seed=3, steps=27, cfg=1.0, sampler_name="euler", scheduler="sgm_uniform",
        positive=nothing[0], negative=nothing[0], latent_image=graph.empty()[0], denoise=1.0,
    )  # fmt: skip
    assert_close(save_latent(graph, found), expected)
