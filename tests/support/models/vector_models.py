"""Tiny models that draw pictures of vectors of CLIP, always with the same random weights, for tests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from class_models import UNGUIDED
from compvis_writer import compvis_state_dict
from conditional_models import Weights
from conditional_models import random_weights as weights_of_others
from torch import Tensor

import ldm_backend
from ldm_backend.checkpoints.single_file import fill_single_file
from ldm_backend.config.conditioning import VectorsConfig
from ldm_backend.config.first_stage import KLConfig
from ldm_backend.config.model import LDMConfig
from ldm_backend.sampling.noise import draw_noise

# As rdm768x768 is: a KL first stage, and channels of a head fixed.
VECTORS = LDMConfig(
    unet=replace(UNGUIDED.unet, in_channels=4, out_channels=4),
    first_stage=KLConfig(
        sample_size=32, block_out_channels=(8, 16, 16), layers_per_block=1, norm_num_groups=4, scale_factor=0.25
    ),
    conditioning=VectorsConfig(embed_dim=12),
)
RELEASES = {"rdm768x768": "retrieval-768"}


def random_weights(config: LDMConfig = VECTORS) -> Weights:
    """Of a whole model."""
    return weights_of_others(config)


def write_ckpt(folder: Path, config: LDMConfig = VECTORS, ema: bool = False) -> Path:
    """As training leaves it."""
    weights = random_weights(config)
    averaged = {key: 2 * tensor for key, tensor in weights.unet.items()} if ema else None
    state = compvis_state_dict(config, weights.unet, weights.first_stage, averaged)
    torch.save({"state_dict": state, "global_step": 7}, folder / "model.ckpt")
    return folder / "model.ckpt"


def write_vector_file(file: Path, config: LDMConfig = VECTORS) -> Path:
    """As LDM Checkpoint Save writes it, with the configuration inside."""
    weights = random_weights(config)
    fill_single_file(file, config, weights.unet, weights.first_stage, "fp32", None, weights.conditioner)
    return file


def load_vectors(folder: Path, config: LDMConfig = VECTORS) -> ldm_backend.LatentDiffusion:
    """A model of that configuration on the CPU, by way of a checkpoint in an empty folder."""
    return ldm_backend.load(write_ckpt(folder, config), "cpu", config=config)


def some_vectors(number: int, seed: int = 5, width: int = 12) -> Tensor:
    """(number, width) of any length."""
    return 3 * draw_noise([seed], (1, number, width))[0, 0]
