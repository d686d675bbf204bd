"""Super-resolution, inpainting and semantic synthesis beside diffusers' networks and pipeline, image by image.

Tiny networks with random weights, the same in both. Latents may differ by 1e-4, as in test_samplers.py and for its
reasons: the schedule's tables and coefficients in float32, and sums in another order, through the steps of a run. In
pictures that is less than a level of 255, so that truncation makes it at most one. What diffusers has no pipeline for
is written out here from the original's scripts, over diffusers' networks.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conditional_models import CONFIGS, SUPER_RESOLUTION, load_conditional
from diffusers.models.autoencoders.vq_model import VQModel
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion_superresolution import LDMSuperResolutionPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from torch import Tensor
from torch.nn.functional import conv2d, interpolate, one_hot

import ldm_backend
from ldm_backend.checkpoints.checkpoint import read_checkpoint
from ldm_backend.checkpoints.conversion import convert_to_folder
from ldm_backend.conditioning.low_resolution import low_resolution
from ldm_backend.pipeline import sample_latents
from ldm_backend.sampling.noise import StepNoise, draw_noise

pytestmark = pytest.mark.parity

RNG = np.random.default_rng(2)
SEEDS = [3, 2**63, 11]
STEPS = 6


class Both:
    """A model here and its networks in diffusers."""

    def __init__(self, folder: Path, task: str) -> None:
        self.folder, config = folder, CONFIGS[task]
        self.ours = load_conditional(folder, config)
        settings = json.loads((folder / "unet" / "config.json").read_text())
        if config.unet.num_attention_heads:  # which UNet2DModel has no key for; here only 16 channels are attended
            (folder / "unet" / "config.json").write_text(json.dumps(settings | {"attention_head_dim": 16 // 2}))
        unet: Any = UNet2DModel.from_pretrained(folder, subfolder="unet")
        vq: Any = VQModel.from_pretrained(folder, subfolder="vqvae")
        self.unet, self.vq = unet.eval(), vq.eval()
        self.scheduler: Any = DDIMScheduler.from_pretrained(folder, subfolder="scheduler")

    @torch.no_grad()
    def ddim(self, c: Tensor, seed: int, eta: float = 0.0) -> Tensor:
        """The picture of one image's (1, C, h, w) conditioning, (1, 3, H, W) in about [-1, 1]."""
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn((1, 3, *c.shape[2:]), generator=generator)
        self.scheduler.set_timesteps(STEPS)
        for t in self.scheduler.timesteps:
            eps = self.unet(torch.cat([x, c], dim=1), t).sample
            x = self.scheduler.step(eps, t, x, eta=eta, generator=generator).prev_sample
        return self.vq.decode(x).sample


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Both]:
    folder = tmp_path_factory.mktemp("models")
    return {task: Both(folder / task, task) for task in CONFIGS}


def assert_same_levels(found: np.ndarray, expected: np.ndarray) -> None:
    """At most one level apart, and that seldom."""
    difference = np.abs(found.astype(int) - expected.astype(int))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.01


def truncated(images: Tensor) -> np.ndarray:
    return ((images + 1.0) * 127.5).clamp(0, 255).permute(0, 2, 3, 1).numpy().astype(np.uint8)


@torch.no_grad()
@pytest.mark.parametrize("task", CONFIGS)
def test_one_evaluation(models, task):
    """1e-5: sums in another order."""
    both = models[task]
    x = draw_noise(SEEDS, (both.ours.config.unet.in_channels, 16, 24))
    for t in (0, 500, 999):
        torch.testing.assert_close(both.ours.unet(x, t), both.unet(x, t).sample, rtol=1e-5, atol=1e-5)


class Streams:
    """Stands for diffusers' `randn_tensor`, whose pipeline hands no generator to the steps."""

    def __init__(self, seeds: list[int], shape: tuple[int, ...]) -> None:
        self.noise = StepNoise(seeds, shape)  # type: ignore[arg-type]

    def __call__(self, shape: Any, **_: Any) -> Tensor:
        return self.noise()


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("size", [(16, 16), (8, 24)])
def test_upscale_is_the_pipeline_of_diffusers(models, monkeypatch, eta, size):
    """With all noise injected; the small pictures are a batch there and here."""
    both, small = models["super-resolution"], RNG.integers(0, 256, (len(SEEDS), *size, 3), np.uint8)
    streams = Streams(SEEDS, (3, *size))
    monkeypatch.setattr("diffusers.schedulers.scheduling_ddim.randn_tensor", streams)
    pipeline: Any = LDMSuperResolutionPipeline(both.vq, both.unet, both.scheduler)
    pipeline.set_progress_bar_config(disable=True)
    expected = pipeline(
        torch.from_numpy(small).permute(0, 3, 1, 2).float() / 127.5 - 1.0,
        num_inference_steps=STEPS,
        eta=eta,
        generator=[torch.Generator().manual_seed(seed) for seed in SEEDS],
        output_type="pt",
    ).images
    found = ldm_backend.upscale(both.ours, small, SEEDS, STEPS, eta, sampler="ddim", grid="leading")
    assert found.shape == (len(SEEDS), 4 * size[0], 4 * size[1], 3)
    assert_same_levels(found, truncated(expected * 2.0 - 1.0))


def test_upscale_with_dpmpp_2m_is_diffusers_solver(models):
    """DPM-Solver++ of second order, on a grid that both have: even steps in the log-SNR diffusers would round."""
    both, small = models["super-resolution"], RNG.integers(0, 256, (1, 16, 16, 3), np.uint8)
    scheduler: Any = DPMSolverMultistepScheduler.from_config(
        both.scheduler.config, timestep_spacing="linspace", final_sigmas_type="zero", solver_order=2
    )
    pipeline: Any = LDMSuperResolutionPipeline(both.vq, both.unet, scheduler)
    pipeline.set_progress_bar_config(disable=True)
    expected = pipeline(
        torch.from_numpy(small).permute(0, 3, 1, 2).float() / 127.5 - 1.0,
        num_inference_steps=STEPS,
        generator=torch.Generator().manual_seed(5),
        output_type="pt",
    ).images
    found = ldm_backend.upscale(both.ours, small, [5], STEPS, sampler="dpmpp_2m", grid="linspace_open")
    assert_same_levels(found, truncated(expected * 2.0 - 1.0))


def test_latents_of_upscale(models):
    both, small = models["super-resolution"], RNG.integers(0, 256, (1, 16, 16, 3), np.uint8)
    c = low_resolution(small, SUPER_RESOLUTION)
    with torch.no_grad():
        z = sample_latents(both.ours, [9], STEPS, 0.0, "ddim", "leading", conditioning=c)
        found = both.vq.decode(z).sample
    torch.testing.assert_close(found, both.ddim(c, 9), rtol=0, atol=1e-4)


def test_diffusers_reads_our_folder_and_we_read_its_own(models, tmp_path):
    """Converted, saved again by its pipeline, and read back: the same tensors and the same pictures."""
    checkpoint = read_checkpoint(models["super-resolution"].folder)
    convert_to_folder(checkpoint, tmp_path / "ours")
    pipeline: Any = LDMSuperResolutionPipeline.from_pretrained(tmp_path / "ours")
    pipeline.save_pretrained(tmp_path / "theirs")
    again = read_checkpoint(tmp_path / "theirs")
    assert again.config == checkpoint.config == SUPER_RESOLUTION
    for part in ("unet", "first_stage"):
        expected, found = getattr(checkpoint, part), getattr(again, part)
        assert expected.keys() == found.keys()
        assert all(torch.equal(found[key], tensor) for key, tensor in expected.items())


# scripts/inpaint.py from line 11 on, written out.
def inpainted_by_the_original(both: Both, image: np.ndarray, mask: np.ndarray, seed: int) -> np.ndarray:
    pixels = torch.from_numpy(image.astype(np.float32)[None].transpose(0, 3, 1, 2) / 255.0)
    hole = torch.from_numpy(mask.astype(np.float32)[None, None] / 255.0)
    hole[hole < 0.5] = 0
    hole[hole >= 0.5] = 1
    batch = {"image": pixels, "mask": hole, "masked_image": (1 - hole) * pixels}
    batch = {name: tensor * 2.0 - 1.0 for name, tensor in batch.items()}
    with torch.no_grad():
        c = both.vq.encode(batch["masked_image"]).latents
    c = torch.cat([c, interpolate(batch["mask"], size=c.shape[-2:])], dim=1)
    made = both.ddim(c, seed)
    unit = {name: ((tensor + 1.0) / 2.0).clamp(0.0, 1.0) for name, tensor in {**batch, "made": made}.items()}
    result = (1 - unit["mask"]) * unit["image"] + unit["mask"] * unit["made"]
    # The original truncates here, by which float32 loses a level of some pixels that it kept; rounding keeps them.
    kept = (result.numpy().transpose(0, 2, 3, 1)[0] * 255).round().astype(np.uint8)
    new = (result.numpy().transpose(0, 2, 3, 1)[0] * 255).astype(np.uint8)
    return np.where(hole[0, 0, ..., None].numpy() > 0, new, kept)


@pytest.mark.parametrize("size", [(32, 32), (24, 40)])
def test_inpaint_is_the_script_of_the_original(models, size):
    both = models["inpainting"]
    images = RNG.integers(0, 256, (len(SEEDS), *size, 3), np.uint8)
    masks = RNG.integers(0, 256, (len(SEEDS), *size), np.uint8)
    masks[1] = 0
    masks[1, 4:20, 8:16] = 255
    found = ldm_backend.inpaint(
        both.ours, images, masks, SEEDS, STEPS, sampler="ddim", grid="leading", mask_reduction="nearest"
    )
    for index, seed in enumerate(SEEDS):
        expected = inpainted_by_the_original(both, images[index], masks[index], seed)
        assert_same_levels(found[index], expected)
        kept = masks[index] < 128
        assert np.array_equal(found[index][kept], expected[kept])


@pytest.mark.parametrize("eta", [0.0, 1.0])
@pytest.mark.parametrize("size", [(32, 32), (16, 48)])
def test_synthesise_is_the_original(models, eta, size):
    """One-hot, halved twice, a 1x1 convolution, and DDIM over that."""
    both = models["semantic-synthesis"]
    labels = RNG.integers(0, 5, (len(SEEDS), *size))
    weight = both.ours.conditioner.channel_mapper.weight.detach()
    h = one_hot(torch.from_numpy(labels), 5).movedim(-1, 1).float()
    for _ in range(2):
        h = interpolate(h, scale_factor=0.5, mode="bilinear")
    c = conv2d(h, weight)
    found = ldm_backend.synthesise(both.ours, labels, SEEDS, STEPS, eta, sampler="ddim", grid="leading")
    for index, seed in enumerate(SEEDS):
        assert_same_levels(found[index], truncated(both.ddim(c[index : index + 1], seed, eta))[0])
