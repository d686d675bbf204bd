"""Pictures with a hole as a model for inpainting sees them, by the VAE of a node."""

from __future__ import annotations

import torch
from torch import Tensor

from ...ldm_backend.conditioning.masked_image import filled_pixels, masked_image
from ...ldm_backend.conditioning.pictures import as_pictures, grown, reflected
from ...ldm_backend.config.model import LDMConfig
from ...ldm_backend.kernels.fp32 import fp32
from ...ldm_backend.memory.estimates import Size
from ..host.vae import LDMVAE
from .limits import check_composite


def cells_of(config: LDMConfig, height: int, width: int) -> tuple[int, int]:
    """The latent of a picture of this size, whose sides are grown to what the networks halve."""
    scale = config.first_stage.downscale
    unit = config.unet.size_multiple * scale
    return grown(height, unit) // scale, grown(width, unit) // scale


def hole_of(task: str, vae: LDMVAE, config: LDMConfig, image: Tensor, mask: Tensor) -> Tensor:
    """Which pixels of IMAGEs (N, H, W, C) a MASK means.

    Returns:
        (N, H, W) bool on the device of the image.

    Raises:
        TooLargeError: The images cannot be composited and encoded; `task` is named.
        InputError: A mask of another size.
    """
    images, height, width = image.shape[:3]
    check_composite(task, Size(images, height, width), image.device)
    scale = config.first_stage.downscale
    high, wide = cells_of(config, height, width)
    vae.check_encode(Size(images, scale * high, scale * wide))
    return filled_pixels(mask.to(image.device), (images, height, width))


def masked_channels(vae: LDMVAE, config: LDMConfig, image: Tensor, filled: Tensor, reduction: str) -> Tensor:
    """What the UNet sees beside the noise.

    Args:
        vae: Of the model.
        config: Of the model.
        image: (N, H, W, C) IMAGE of 1 or 3 channels.
        filled: Its hole, from `hole_of`: True where the picture is to be made anew.
        reduction: One of `MASK_REDUCTIONS`.

    Returns:
        (N, z + 1, h, w) float32 on the device of the VAE.

    Raises:
        InputError: Another reduction.
        CheckpointError: The file of the weights was changed since it was loaded.
    """
    unit = config.unet.size_multiple * config.first_stage.downscale
    pictures = reflected(as_pictures(image, config.first_stage.in_channels), unit)
    hole = reflected(filled[:, None], unit)[:, 0]  # also of what is mirrored the hole must not be seen
    vae.load(vae.memory_used_encode(pictures.shape, torch.float32))
    with fp32():
        return masked_image(vae.first_stage_model, pictures, hole, reduction, vae.encoding)
