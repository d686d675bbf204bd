"""A tiny model of the real classes, in memory and as a Hugging Face folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import ldm_backend
from ldm_backend.config import LDMConfig, UNetConfig, VQConfig
from ldm_backend.unet import UNet
from ldm_backend.vq import VQModel

TINY = LDMConfig(
    unet=UNetConfig(
        sample_size=8,
        block_out_channels=(8, 16),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        attention_head_dim=8,
        norm_num_groups=4,
    ),
    vq=VQConfig(
        sample_size=32, block_out_channels=(8, 8, 16), layers_per_block=1, num_vq_embeddings=64, norm_num_groups=4
    ),
)


def write_folder(folder: Path, config: LDMConfig = TINY) -> Path:
    """Random weights (seed 0) and their configuration as a Hugging Face folder."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        modules = {"unet": UNet(config.unet), "vqvae": VQModel(config.vq)}
    for name, part in (("unet", config.unet), ("vqvae", config.vq)):
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text(json.dumps(part.to_dict()))
        save_file(modules[name].state_dict(), folder / name / "diffusion_pytorch_model.safetensors")
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(config.schedule.to_dict()))
    return folder


@pytest.fixture
def tiny_folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "tiny")


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> ldm_backend.LatentDiffusion:
    return ldm_backend.load(write_folder(tmp_path_factory.mktemp("models") / "tiny"), device="cpu")
