"""Tiny models that draw pictures of classes, always with the same random weights, for tests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from compvis_writer import compvis_state_dict
from conditional_models import Weights
from conditional_models import random_weights as weights_of_others
from model_folder import TINY
from torch import Tensor

import ldm_backend
from ldm_backend.checkpoints.single_file import fill_single_file
from ldm_backend.config.conditioning import ClassConfig
from ldm_backend.config.model import LDMConfig
from ldm_backend.networks.conditioners.class_embedder import ClassEmbedder

GUIDED = LDMConfig(
    unet=replace(
        TINY.unet,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=None,
        num_attention_heads=1,
        cross_attention_dim=12,
    ),
    first_stage=TINY.first_stage,
    conditioning=ClassConfig(n_classes=6, embed_dim=12),
)
# As cin256 is: channels of a head fixed, and no class that is none.
UNGUIDED = replace(
    GUIDED,
    unet=replace(GUIDED.unet, attention_head_dim=8, num_attention_heads=None),
    conditioning=ClassConfig(n_classes=5, embed_dim=12, last_is_none=False),
)
# As cin256-v2 is: the 1000 classes of ImageNet, and none.
IMAGENET = replace(GUIDED, conditioning=ClassConfig(n_classes=1001, embed_dim=12))
RELEASES = {"cin256-v2": "imagenet-256", "cin256": "imagenet-256-f8"}


def random_weights(config: LDMConfig) -> Weights:
    """Of a whole model."""
    weights, one = weights_of_others(config), config.conditioning
    assert isinstance(one, ClassConfig)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return weights._replace(conditioner=ClassEmbedder(one).state_dict())


def compvis_tensors(config: LDMConfig, ema: bool = False) -> dict[str, Tensor]:
    """A whole checkpoint in the layout of CompVis; averaged weights, if any, are twice the raw ones."""
    weights = random_weights(config)
    averaged = {key: 2 * tensor for key, tensor in weights.unet.items()} if ema else None
    state = compvis_state_dict(config, weights.unet, weights.first_stage, averaged)
    return state | {f"cond_stage_model.{key}": tensor for key, tensor in weights.conditioner.items()}


def write_ckpt(folder: Path, config: LDMConfig, ema: bool = False, changes: Mapping[str, Tensor] | None = None) -> Path:
    """As training leaves it: a pickle with the optimiser's state beside the tensors; some may be changed."""
    adam = {"state": {0: {"step": 1, "exp_avg": torch.ones(7)}}, "param_groups": [{"lr": 1e-6, "params": [0]}]}
    table = {
        "state_dict": compvis_tensors(config, ema) | dict(changes or {}),
        "optimizer_states": [adam],
        "global_step": 7,
    }
    torch.save(table, folder / "model.ckpt")
    return folder / "model.ckpt"


def write_class_file(file: Path, config: LDMConfig = GUIDED) -> Path:
    """As LDM Checkpoint Save writes it, with the configuration inside."""
    weights = random_weights(config)
    fill_single_file(file, config, weights.unet, weights.first_stage, "fp32", None, weights.conditioner)
    return file


def load_classes(folder: Path, config: LDMConfig = GUIDED) -> ldm_backend.LatentDiffusion:
    """A model of that configuration on the CPU, by way of a checkpoint in an empty folder."""
    return ldm_backend.load(write_ckpt(folder, config), "cpu", config=config)
