"""The conditioning of the inpainting model: the latent of the picture with a black hole, and the mask of the hole.

Source: CompVis scripts/inpaint.py:11-83. There the picture is multiplied by 1 - mask in [0, 1] and then mapped to
[-1, 1]: the hole is black, which is -1. The mask is -1 and 1, not 0 and 1. The latent comes first, neither quantised
nor scaled (ddpm.py get_learned_conditioning, beside get_first_stage_encoding).
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import max_pool2d

from ..errors import InputError, check_choice
from ..memory.chunks import Chunks
from ..memory.estimates import encoder_bytes
from ..networks.decoding import most_at_once
from ..networks.first_stage import FirstStage

# How a mask becomes smaller: a cell is filled if any of its pixels is, or if its first one is, as in the original.
ANY, NEAREST = "any", "nearest"
MASK_REDUCTIONS = (ANY, NEAREST)


def filled_pixels(masks: np.ndarray | Tensor, shape: tuple[int, int, int]) -> Tensor:
    """Which pixels are to be filled: those of 0.5 or more.

    Args:
        masks: (N, H, W), (1, H, W) or (H, W), the last two for all pictures: bool, uint8 from 0 to 255, or float
            from 0 to 1.
        shape: (N, H, W) of the pictures.

    Returns:
        (N, H, W) bool.

    Raises:
        InputError: Another size, number or type.
    """
    if isinstance(masks, np.ndarray):
        masks = torch.from_numpy(np.ascontiguousarray(masks))
    found = masks[None] if masks.ndim == 2 else masks
    if found.ndim != 3 or tuple(found.shape[1:]) != shape[1:] or len(found) not in (1, shape[0]):
        raise InputError(
            f"The masks have shape {tuple(masks.shape)}; the images are {shape[0]} of {shape[1]} rows and {shape[2]} "
            f"columns, so expected ({shape[0]}, {shape[1]}, {shape[2]}), or one mask for all. Crop or resize images "
            "and masks in the same way."
        )
    if found.dtype == torch.bool:
        filled = found
    elif found.dtype == torch.uint8:
        filled = found >= 128  # 127 is below a half of 255
    elif found.is_floating_point() and bool(torch.isfinite(found).all()):
        filled = found >= 0.5
    else:
        raise InputError(
            f"The masks are {found.dtype}, or not finite; expected bool, uint8, or float numbers from 0 to 1."
        )
    return filled.expand(shape)


@torch.no_grad()
def masked_image(
    first_stage: FirstStage, pictures: Tensor, filled: Tensor, reduction: str = ANY, chunks: Chunks | None = None
) -> Tensor:
    """What the UNet of an inpainting model sees beside the noise.

    Args:
        first_stage: Of the model, on the device to work on.
        pictures: (N, C, H, W) in [-1, 1], H and W multiples of what the networks halve.
        filled: (N, H, W) bool, True where the picture is to be made anew; what is there is not seen.
        reduction: "any", by which thin strokes survive, or "nearest", which is the original.
        chunks: Decides how many pictures are encoded at once.

    Returns:
        (N, z + 1, h, w) float32 on the device of the first stage: the latent, then the mask of -1 and 1.

    Raises:
        InputError: Another reduction, or pictures that the first stage cannot take.
        TooLargeError: A single picture does not fit into memory.
    """
    check_choice("mask_reduction", reduction, MASK_REDUCTIONS, InputError)
    device, config = next(first_stage.parameters()).device, first_stage.config
    hole = torch.where(filled[:, None].to(pictures.device), -1.0, pictures)
    latents = (chunks or Chunks("Encoder")).whole(
        lambda part: first_stage.encode(hole[part].to(device)),
        hole.shape,
        device,
        lambda n: encoder_bytes(config, n, hole.shape[2], hole.shape[3], first_stage.dtype.itemsize),
        most_at_once(device, elsewhere=1),
    )
    latents = latents / config.scale_factor  # that of the diffusion model's latents; its conditioning has none
    return torch.cat([latents, reduced(filled, config.downscale, reduction).to(latents.device)], dim=1)


def reduced(filled: Tensor, downscale: int, reduction: str) -> Tensor:
    """A mask at the size of latents.

    Args:
        filled: (N, H, W) bool.
        downscale: Pixels to a cell along one side.
        reduction: One of MASK_REDUCTIONS.

    Returns:
        (N, 1, h, w) float32, 1 where a cell is to be filled, -1 elsewhere.
    """
    if reduction == NEAREST:
        cells = filled[:, None, ::downscale, ::downscale].float()
    else:
        cells = max_pool2d(filled[:, None].float(), downscale)
    return cells * 2.0 - 1.0
