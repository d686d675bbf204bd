"""Pictures of any size as the networks take them: in [-1, 1], with sides that can be halved."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..views.images import as_channels, from_uint8


def as_pictures(images: np.ndarray | Tensor, channels: int) -> Tensor:
    """Pictures as the encoder and the UNet see them.

    Args:
        images: uint8 (N, H, W, C), or float (N, H, W, C) in [0, 1], which is clamped; C is 3 or 1 (grey).
        channels: What the model takes, 3 or 1.

    Returns:
        (N, channels, H, W) float32 in [-1, 1]: uint8 divided by 127.5, minus 1; for a float number that a level of
        uint8 becomes when it is divided by 255, what that level gives, to the bit.

    Raises:
        InputError: Another shape or type, no pictures, or numbers that are not finite.
    """
    if images.ndim != 4 or images.shape[3] not in (1, 3) or 0 in images.shape:
        raise InputError(
            f"The images have shape {tuple(images.shape)}; expected (N, H, W, 3), or (N, H, W, 1) of grey ones. Remove "
            "a channel of transparency first."
        )
    if isinstance(images, np.ndarray):
        images = torch.from_numpy(np.ascontiguousarray(images))
    if images.dtype == torch.uint8:
        pictures = from_uint8(images.numpy(force=True))
    elif images.is_floating_point():
        if not bool(torch.isfinite(images).all()):
            raise InputError("The images hold NaN or infinity; expected numbers from 0 to 1.")
        unit = images.float().clamp(0.0, 1.0).movedim(-1, 1)
        levels = (unit * 255.0).round()
        pictures = torch.where(levels / 255.0 == unit, levels / 127.5, unit * 2.0) - 1.0
    else:
        raise InputError(f"The images are {images.dtype}; expected uint8, or float numbers from 0 to 1.")
    return as_channels(pictures, channels).contiguous()


def grown(side: int, multiple: int) -> int:
    """The next multiple, which may be the side itself."""
    return math.ceil(side / multiple) * multiple


def reflected(x: Tensor, multiple: int) -> Tensor:
    """Grow the sides to the next multiples, at the right and at the bottom, by what is mirrored there.

    A picture that is smaller than what is added is mirrored to and fro. The original is what is left of the result
    when rows and columns behind it are cut off.

    Args:
        x: (N, C, H, W), at least 1x1.
        multiple: 1 or more.
    """
    for dim in (2, 3):
        side = x.shape[dim]
        if side % multiple:
            period = max(1, 2 * (side - 1))
            place = torch.arange(grown(side, multiple), device=x.device) % period
            x = x.index_select(dim, torch.minimum(place, period - place) if side > 1 else place * 0)
    return x
