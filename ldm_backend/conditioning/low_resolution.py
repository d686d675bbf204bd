"""The conditioning of super-resolution: the small picture itself, each pixel beside the latent cell in its place.

Source: CompVis configs of bsr_sr, cond_stage_config torch.nn.Identity; ldm/data/imagenet.py:361-370 for the range.
"""

from __future__ import annotations

import numpy as np
from torch import Tensor

from ..config.model import LDMConfig
from .pictures import as_pictures, reflected


def low_resolution(images: np.ndarray | Tensor, config: LDMConfig) -> Tensor:
    """Small pictures as the UNet sees them.

    Args:
        images: uint8 or float (N, H, W, C), see `as_pictures`; of any size.
        config: Of a model for super-resolution.

    Returns:
        (N, C, h, w) float32 in [-1, 1], H and W grown by reflection to multiples of what the UNet halves. It has the
        size of the latents, whose picture is `first_stage.downscale` times as large.

    Raises:
        InputError: As `as_pictures`.
    """
    return reflected(as_pictures(images, config.first_stage.in_channels), config.unet.size_multiple)
