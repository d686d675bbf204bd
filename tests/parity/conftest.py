"""The reference: diffusers' UNet2DModel, VQModel and DDIMScheduler, and the model card's unrolled loop over them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from diffusers.models.autoencoders.vq_model import VQModel
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor

import ldm_backend

DATA = Path(__file__).parents[1] / "data"
DEMO = Path(__file__).parents[2] / "demo" / "portraits-128"


class Reference(NamedTuple):
    """One model in diffusers."""

    unet: Any
    vq: Any
    scheduler: Any

    @torch.no_grad()
    def unrolled_loop(self, seed: int, steps: int, eta: float = 0.0) -> Tensor:
        """Latents of the model card's loop; its `torch.manual_seed(seed)` becomes a generator of the same draws."""
        generator = torch.Generator().manual_seed(seed)
        size = self.unet.config.sample_size
        image = torch.randn((1, self.unet.config.in_channels, size, size), generator=generator)
        self.scheduler.set_timesteps(num_inference_steps=steps)
        for t in self.scheduler.timesteps:
            residual = self.unet(image, t)["sample"]
            image = self.scheduler.step(residual, t, image, eta=eta, generator=generator)["prev_sample"]
        return image

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        return self.vq.decode(latents)["sample"]

    def image(self, seed: int, steps: int, eta: float = 0.0) -> np.ndarray:
        """The model card's picture, uint8 (H, W, 3)."""
        decoded = self.decode(self.unrolled_loop(seed, steps, eta)).permute(0, 2, 3, 1)
        return ((decoded + 1.0) * 127.5).clamp(0, 255).numpy().astype(np.uint8)[0]


def load_reference(folder: Path) -> Reference:
    classes: tuple[Any, ...] = (UNet2DModel, VQModel, DDIMScheduler)
    parts = ("unet", "vqvae", "scheduler")
    unet, vq, scheduler = (
        cls.from_pretrained(folder, subfolder=part) for cls, part in zip(classes, parts, strict=True)
    )
    return Reference(unet.eval(), vq.eval(), scheduler)


def random_reference(seed: int) -> Reference:
    """The real model's configuration with random weights, and a codebook as spread out as trained latents are."""

    def config(part: str) -> dict[str, Any]:
        return json.loads((DATA / "ldm-celebahq-256" / part).read_text())

    unet: Any
    vq: Any
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        unet = UNet2DModel.from_config(config("unet/config.json"))
        vq = VQModel.from_config(config("vqvae/config.json"))
        torch.nn.init.normal_(vq.quantize.embedding.weight)
    return Reference(unet.eval(), vq.eval(), DDIMScheduler.from_config(config("scheduler/scheduler_config.json")))


# Of a module, not of the session: gigabytes of memory and of disk that only two modules use.
@pytest.fixture(scope="module")
def full_size_reference() -> Reference:
    """The real model's size with random weights, in diffusers."""
    return random_reference(seed=0)


@pytest.fixture(scope="module")
def full_size_folder(full_size_reference: Reference, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The same as a folder, by `save_pretrained`."""
    folder = tmp_path_factory.mktemp("full-size")
    for part, module in zip(("unet", "vqvae", "scheduler"), full_size_reference, strict=True):
        module.save_pretrained(folder / part)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def full_size(full_size_reference: Reference, full_size_folder: Path) -> tuple[ldm_backend.LatentDiffusion, Reference]:
    """Ours and diffusers."""
    return ldm_backend.load(full_size_folder, device="cpu"), full_size_reference


@pytest.fixture(scope="session")
def demo() -> tuple[ldm_backend.LatentDiffusion, Reference]:
    """The demo checkpoint, in both."""
    return ldm_backend.load(DEMO, device="cpu"), load_reference(DEMO)
