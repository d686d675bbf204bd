"""Pictures of CLIP's vectors beside diffusers' networks and scheduler, with guidance from zeros written out.

Tiny networks with random weights, the same in both. The tolerance and its reasons are those of test_classes.py.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from vector_models import VECTORS, some_vectors, write_ckpt

import ldm_backend
from ldm_backend.checkpoints.checkpoint import read_checkpoint
from ldm_backend.checkpoints.conversion import convert_to_folder

pytestmark = pytest.mark.parity

SEEDS, STEPS, CFG = [3, 2**63], 6, 5.0


@torch.no_grad()
@pytest.mark.parametrize("number", [1, 21])
def test_pictures_are_those_of_diffusers(tmp_path, number):
    """Less than a level of 255, so that truncation makes it at most one; the scale of the latents counts."""
    ckpt = write_ckpt(tmp_path)
    convert_to_folder(read_checkpoint(ckpt, config=VECTORS), tmp_path / "theirs")
    parts: dict[str, Any] = {"unet": UNet2DConditionModel, "vqvae": AutoencoderKL, "scheduler": DDIMScheduler}
    unet, kl, scheduler = (kind.from_pretrained(tmp_path / "theirs", subfolder=name) for name, kind in parts.items())
    vectors = some_vectors(number)
    ours = ldm_backend.load(ckpt, "cpu", config=VECTORS)
    found = ldm_backend.generate(ours, SEEDS, STEPS, vectors=vectors, cfg=CFG)
    context = (vectors / vectors.norm(dim=-1, keepdim=True))[None]
    scheduler.set_timesteps(STEPS)
    for image, seed in zip(found, SEEDS, strict=True):
        x = torch.randn((1, 4, 8, 8), generator=torch.Generator().manual_seed(seed))
        for t in scheduler.timesteps:
            both = torch.cat([torch.zeros_like(context), context])
            none, wanted = unet.eval()(torch.cat([x, x]), t, both).sample.chunk(2)
            x = scheduler.step(none + CFG * (wanted - none), t, x).prev_sample
        decoded = kl.eval().decode(x / 0.25).sample
        expected = ((decoded.permute(0, 2, 3, 1) + 1.0) * 127.5).clamp(0, 255).to(torch.uint8)[0]
        assert int((torch.from_numpy(image).int() - expected.int()).abs().max()) <= 1
