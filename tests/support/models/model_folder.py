"""Writes models with random weights as Hugging Face folders, for tests."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from ldm_backend.config.model import LDMConfig
from ldm_backend.networks.first_stage import build_first_stage
from ldm_backend.networks.unet import UNet


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
