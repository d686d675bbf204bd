"""What nodes give that turn a picture into a conditioning: it, and the empty latents that belong to it."""

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ...ldm_backend.config.model import LDMConfig
from ..host.conditioning import conditioning_of
from ..host.model import intermediate_device
from .latent_batch import DOWNSCALE_KEY


def conditioned_outputs() -> list[Any]:
    """What `conditioned` makes."""
    return [
        io.Conditioning.Output(
            display_name="CONDITIONING",
            tooltip="For positive and negative of KSampler, or conditioning of BasicGuider, with the same MODEL.",
        ),
        io.Latent.Output(display_name="LATENT", tooltip="Empty latents of its size, for latent_image of the sampler."),
    ]


def side_outputs(sides: str) -> list[Any]:
    """Width and height of a picture whose latents are larger; `sides` says which."""
    return [
        io.Int.Output(
            display_name="width", tooltip=f"Of the finished picture, {sides}: for Image Crop after decoding."
        ),
        io.Int.Output(display_name="height", tooltip="Likewise. What lies beyond was continued by reflection."),
    ]


def conditioned(config: LDMConfig, c: Tensor) -> tuple[list[Any], dict[str, Any]]:
    """CONDITIONING and LATENT of `c` (N, C, h, w), what a model with this configuration sees beside the noise."""
    device = intermediate_device()
    empty = torch.zeros(len(c), config.first_stage.z_channels, *c.shape[2:], device=device)
    return conditioning_of(config.task, c.to(device)), {"samples": empty, DOWNSCALE_KEY: config.first_stage.downscale}
