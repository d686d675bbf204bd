"""Writes models with random weights as Hugging Face folders, for tests."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from ldm_backend.config.model import LDMConfig, UNetConfig, VQConfig
from ldm_backend.networks.first_stage import build_first_stage
from ldm_backend.networks.unet import UNet

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
    first_stage=VQConfig(
        sample_size=32, block_out_channels=(8, 8, 16), layers_per_block=1, num_vq_embeddings=64, norm_num_groups=4
    ),
)


def write_model_folder(folder: Path, config: LDMConfig) -> Path:
    """A model of that configuration, always with the same weights."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet, stage = UNet(config.unet), build_first_stage(config.first_stage)
    parts = {"unet": (config.unet, unet), "vqvae": (config.first_stage, stage)}
    for name, (part, module) in parts.items():
        (folder / name).mkdir(parents=True)
        (folder / name / "config.json").write_text(json.dumps(part.to_dict()))
        save_file(module.state_dict(), folder / name / "diffusion_pytorch_model.safetensors")
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(config.schedule.to_dict()))
    return folder
