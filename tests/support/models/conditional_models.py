"""Tiny models of every task that sees something beside the noise, always with the same random weights, for tests."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
import yaml
from compvis_writer import DATA, compvis_state_dict
from model_folder import TINY, write_model_folder
from safetensors.torch import save_file
from torch import Tensor

import ldm_backend
from ldm_backend.checkpoints.checkpoint import read_checkpoint
from ldm_backend.checkpoints.conversion import convert_to_folder
from ldm_backend.config.conditioning import (
    LowResolutionConfig,
    MaskedImageConfig,
    SegmentationConfig,
    conditioning_to_json,
)
from ldm_backend.config.model import LDMConfig, ScheduleConfig
from ldm_backend.networks.conditioners.spatial_rescaler import SpatialRescaler
from ldm_backend.networks.first_stage import build_first_stage
from ldm_backend.networks.unet import UNet

SUPER_RESOLUTION = LDMConfig(
    unet=replace(TINY.unet, in_channels=6),
    first_stage=TINY.first_stage,
    schedule=ScheduleConfig(beta_end=0.0155),
    conditioning=LowResolutionConfig(),
)
INPAINTING = LDMConfig(
    unet=replace(
        TINY.unet,
        in_channels=7,
        attention_head_dim=None,
        num_attention_heads=2,
        downsample_type="resnet",
        upsample_type="resnet",
    ),
    first_stage=replace(TINY.first_stage, mid_block_add_attention=False),
    schedule=ScheduleConfig(beta_end=0.0205),
    conditioning=MaskedImageConfig(),
)
# The UNet has the shapes of that for super-resolution: only the conditioning tells the two apart.
SEMANTIC = LDMConfig(
    unet=replace(TINY.unet, in_channels=6),
    first_stage=TINY.first_stage,
    schedule=ScheduleConfig(beta_end=0.0205),
    conditioning=SegmentationConfig(n_labels=5),
)
CONFIGS = {one.task: one for one in (SUPER_RESOLUTION, INPAINTING, SEMANTIC)}
RELEASES = {
    "bsr_sr": "super-resolution-4x",
    "inpainting_big": "inpainting-512",
    "semantic_synthesis256": "semantic-synthesis-256",
    "semantic_synthesis512": "semantic-synthesis-512",
}


class Weights(NamedTuple):
    """Tensors of a model under our names."""

    unet: dict[str, Tensor]
    first_stage: dict[str, Tensor]
    conditioner: dict[str, Tensor]


def random_weights(config: LDMConfig, seed: int = 0) -> Weights:
    """Of a whole model."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        unet, stage = UNet(config.unet).state_dict(), build_first_stage(config.first_stage).state_dict()
        one = config.conditioning
        return Weights(unet, stage, SpatialRescaler(one).state_dict() if isinstance(one, SegmentationConfig) else {})


def compvis_tensors(config: LDMConfig, ema: bool = True) -> dict[str, Tensor]:
    """A whole checkpoint in the layout of CompVis, its averaged weights twice the raw ones."""
    weights = random_weights(config)
    averaged = {key: 2 * tensor for key, tensor in weights.unet.items()} if ema else None
    state = compvis_state_dict(config, weights.unet, weights.first_stage, averaged)
    state |= {f"cond_stage_model.{key}": tensor for key, tensor in weights.conditioner.items()}
    if isinstance(config.conditioning, MaskedImageConfig):
        copies = {key: tensor for key, tensor in state.items() if key.startswith("first_stage_model.")}
        state |= {key.replace("first_stage_model", "cond_stage_model"): tensor for key, tensor in copies.items()}
    return state


def write_conditional_folder(folder: Path, config: LDMConfig) -> Path:
    """The Hugging Face layout of such a model."""
    write_model_folder(folder, config)
    conditioner = random_weights(config).conditioner
    if isinstance(config.conditioning, LowResolutionConfig):
        (folder / "model_index.json").write_text(json.dumps({"_class_name": "LDMSuperResolutionPipeline"}))
    elif config.conditioning is not None:
        (folder / "conditioner").mkdir()
        (folder / "conditioner" / "config.json").write_text(json.dumps(conditioning_to_json(config.conditioning)))
    if conditioner:
        save_file(conditioner, folder / "conditioner" / "diffusion_pytorch_model.safetensors")
    return folder


def write_pipeline_folder(folder: Path, config: LDMConfig = SUPER_RESOLUTION) -> Path:
    """A tiny upscaler, as diffusers' pipeline reads it."""
    with TemporaryDirectory() as scratch:
        tiny = write_conditional_folder(Path(scratch) / "tiny", config)
        convert_to_folder(read_checkpoint(tiny), folder)
    return folder


def released_yaml(name: str) -> dict[str, Any]:
    """The published YAML of a model."""
    return yaml.safe_load((DATA / f"{name}.yaml").read_text())


def load_conditional(folder: Path, config: LDMConfig) -> ldm_backend.LatentDiffusion:
    """A model of that configuration on the CPU, by way of a folder that must not be there yet."""
    return ldm_backend.load(write_conditional_folder(folder, config), "cpu")
