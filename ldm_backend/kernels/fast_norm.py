"""GroupNorm, with or without SiLU, of large channels_last images in float32 on the CPU.

torch's own kernel adds up a whole image in float32 one pixel after another where it is channels_last: at 256x256 its
error is twenty times that of the contiguous kernel. Sums of parts, added up in float64, are as near to the truth as
that, and parts that stay in the cache are faster.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import silu

from .fast_conv import is_plain

_PIXELS = 64 * 64  # up to here torch's kernel is as exact and faster
_PART = 2**18  # values of a part: 1 MiB


def group_norm(norm: Any, x: Tensor, activate: bool) -> Tensor:
    """GroupNorm, then SiLU if asked.

    Args:
        norm: The layer, with num_groups, eps, weight and bias.
        x: (N, C, H, W).
        activate: Apply SiLU.

    Returns:
        (N, C, H, W), never the memory of `x`.
    """
    large = x.shape[2] * x.shape[3] > _PIXELS and x.is_contiguous(memory_format=torch.channels_last)
    if not (large and is_plain(norm, x)):
        h = norm(x)
        # In the memory of the norm's result, where no gradient will ask for that.
        return silu(h, inplace=not torch.is_grad_enabled()) if activate else h
    pixels = x.permute(0, 2, 3, 1).flatten(1, 2)  # (N, HW, C)
    out = torch.empty_like(pixels)
    for source, target in zip(pixels, out, strict=True):
        _normalise(norm, source, target, activate)
    return out.view(x.shape[0], *x.shape[2:], x.shape[1]).permute(0, 3, 1, 2)


def normaliser(norm: Any, x: Tensor) -> Callable[[Tensor], Tensor]:
    """GroupNorm and SiLU by the mean and variance of one image, for any rows of it.

    Args:
        norm: The layer.
        x: (1, C, H, W), channels_last, see `is_plain`.

    Returns:
        Maps (1, C, h, W) to new memory of the same size, channels_last.
    """
    scale, shift = (factor[:, None, None] for factor in _affine(norm, x.permute(0, 2, 3, 1).flatten(1, 2)[0]))
    return lambda rows: silu(torch.addcmul(shift, rows, scale), inplace=True)


def _normalise(norm: Any, source: Tensor, target: Tensor, activate: bool) -> None:
    """One image, (HW, C) to `target`."""
    scale, shift = _affine(norm, source)
    rows = _rows_of_a_part(source)
    for part, place in zip(source.split(rows), target.split(rows), strict=True):
        torch.addcmul(shift, part, scale, out=place)
        if activate:
            silu(place, inplace=True)


def _affine(norm: Any, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and shift (C,) of the channels of one image (HW, C)."""
    channels = pixels.shape[1]
    parts = pixels.split(_rows_of_a_part(pixels))
    squares = torch.empty_like(parts[0])
    sums = torch.zeros((2, channels), dtype=torch.float64)
    for part in parts:
        sums[0] += part.sum(0)
        sums[1] += torch.mul(part, part, out=squares[: len(part)]).sum(0)
    width = channels // norm.num_groups
    mean, square = sums.unflatten(1, (-1, width)).sum(2) / (len(pixels) * width)
    scale = torch.rsqrt((square - mean * mean).clamp(min=0) + norm.eps).repeat_interleave(width) * norm.weight.double()
    shift = norm.bias.double() - mean.repeat_interleave(width) * scale
    return scale.float(), shift.float()


def _rows_of_a_part(pixels: Tensor) -> int:
    return max(1, _PART // pixels.shape[1])
