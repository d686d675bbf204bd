"""Pictures of classes beside diffusers' network and scheduler, with guidance written out, image by image.

Tiny networks with random weights, the same in both. Latents may differ by 1e-4, as in test_samplers.py and for its
reasons: the schedule's tables and coefficients in float32, and sums in another order, through the steps of a run.
diffusers has no pipeline for classes: the loop is that of its LDMTextToImagePipeline, whose guidance is the original's
(ldm/models/diffusion/ddim.py:170-177), over its networks.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from class_models import GUIDED, UNGUIDED, random_weights, write_ckpt
from diffusers.models.autoencoders.vq_model import VQModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor
from torch.nn.functional import embedding

import ldm_backend
from ldm_backend.checkpoints.checkpoint import read_checkpoint
from ldm_backend.checkpoints.conversion import convert_to_folder
from ldm_backend.config.model import LDMConfig
from ldm_backend.pipeline import sample_latents

pytestmark = pytest.mark.parity

SEEDS, CLASSES, STEPS = [3, 2**63, 11], [0, 4, 0], 6


class Both:
    """A model here, from a checkpoint of the original's layout, and its networks in diffusers."""

    def __init__(self, folder: Path, config: LDMConfig) -> None:
        ckpt = write_ckpt(folder, config)
        self.ours = ldm_backend.load(ckpt, "cpu", config=config)
        convert_to_folder(read_checkpoint(ckpt, config=config), folder / "theirs")
        unet: Any = UNet2DConditionModel.from_pretrained(folder / "theirs", subfolder="unet")
        vq: Any = VQModel.from_pretrained(folder / "theirs", subfolder="vqvae")
        self.unet, self.vq = unet.eval(), vq.eval()
        self.scheduler: Any = DDIMScheduler.from_pretrained(folder / "theirs", subfolder="scheduler")
        self.table = random_weights(config).conditioner["embedding.weight"]

    @torch.no_grad()
    def ddim(self, seed: int, one: int, cfg: float, eta: float) -> Tensor:
        """Latents of one image, from the noise of its seed."""
        generator = torch.Generator().manual_seed(seed)
        x = torch.randn((1, 3, 8, 8), generator=generator)
        self.scheduler.set_timesteps(STEPS)
        none, wanted = (embedding(torch.tensor([[row]]), self.table) for row in (len(self.table) - 1, one))
        for t in self.scheduler.timesteps:
            if cfg == 1:
                eps = self.unet(x, t, wanted).sample
            else:
                eps_none, eps_wanted = self.unet(torch.cat([x, x]), t, torch.cat([none, wanted])).sample.chunk(2)
                eps = eps_none + cfg * (eps_wanted - eps_none)
            x = self.scheduler.step(eps, t, x, eta=eta, generator=generator).prev_sample
        return x


@pytest.fixture(scope="module")
def guided(tmp_path_factory: pytest.TempPathFactory) -> Both:
    return Both(tmp_path_factory.mktemp("guided"), GUIDED)


@pytest.mark.parametrize(("cfg", "eta"), [(1.0, 0.0), (3.0, 0.0), (1.5, 1.0), (0.0, 0.0)])
def test_the_whole_loop_is_that_of_diffusers(guided, cfg, eta):
    found = sample_latents(guided.ours, SEEDS, STEPS, eta, classes=CLASSES, cfg=cfg)
    for z, seed, one in zip(found, SEEDS, CLASSES, strict=True):
        torch.testing.assert_close(z, guided.ddim(seed, one, cfg, eta)[0], rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_pictures_are_those_of_diffusers(guided):
    """Less than a level of 255, so that truncation makes it at most one."""
    found = ldm_backend.generate(guided.ours, SEEDS, STEPS, classes=CLASSES, cfg=2.0)
    for image, seed, one in zip(found, SEEDS, CLASSES, strict=True):
        decoded = guided.vq.decode(guided.ddim(seed, one, 2.0, 0.0)).sample
        expected = ((decoded.permute(0, 2, 3, 1) + 1.0) * 127.5).clamp(0, 255).to(torch.uint8)[0]
        assert int((torch.from_numpy(image).int() - expected.int()).abs().max()) <= 1


def test_a_model_without_a_class_that_is_none(tmp_path):
    both = Both(tmp_path, UNGUIDED)
    found = sample_latents(both.ours, SEEDS, STEPS, classes=CLASSES)
    for z, seed, one in zip(found, SEEDS, CLASSES, strict=True):
        torch.testing.assert_close(z, both.ddim(seed, one, 1.0, 0.0)[0], rtol=1e-4, atol=1e-4)
