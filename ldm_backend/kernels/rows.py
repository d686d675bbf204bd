"""The resnets of a first stage on the CPU, some rows of a large picture at a time.

Whole, such a resnet holds its input, the input normalised and what the convolution makes of it: five pictures of its
output's size where it halves the channels. Here a strip of rows is normalised, convolved and forgotten, and the second
convolution writes over what it reads: three.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from .fast_conv import LARGE_TILE, SIDE, is_plain
from .fast_norm import normaliser

LARGE = 2**25  # bytes of a picture from which it is worth it
_STRIP = 2**24  # bytes of a strip, about
_HALO = LARGE_TILE  # rows beyond a strip; one would do, but so Winograd's tiles are those of the whole


def suits(layer: Any, x: Tensor) -> bool:
    """Whether `x` is one large image in float32, channels_last, that nobody needs a gradient of."""
    return (
        len(x) == 1 and x.nbytes >= LARGE and x.is_contiguous(memory_format=torch.channels_last) and is_plain(layer, x)
    )


def resnet_in_rows(block: Any, x: Tensor) -> Tensor:
    """What a resnet without time embedding gives, which leaves `x` as it is.

    Args:
        block: With its layers norm1, conv1, norm2 and conv2, and conv_shortcut, or None, for the skip.
        x: (1, C_in, H, W), see `suits`.

    Returns:
        (1, C_out, H, W), channels_last.
    """
    first = normaliser(block.norm1, x)
    h = torch.empty((1, block.conv1.out_channels, *x.shape[2:]), memory_format=torch.channels_last)
    for strip, inner, outer in _strips(x):
        h[:, :, strip] = block.conv1(first(x[:, :, outer]))[:, :, inner]
    second = normaliser(block.norm2, h)
    above = h[:, :, :0].clone()  # the rows over the next strip as they were
    for strip, inner, outer in _strips(x):
        made = block.conv2(second(torch.cat([above, h[:, :, strip.start : outer.stop]], 2)))[:, :, inner]
        above = h[:, :, max(0, strip.stop - _HALO) : strip.stop].clone()
        skip = x[:, :, strip]
        h[:, :, strip] = made.add_(skip if block.conv_shortcut is None else block.conv_shortcut(skip))
    return h


def _strips(x: Tensor) -> Iterator[tuple[slice, slice, slice]]:
    """Rows of each strip; these rows among those that it is made of; and the latter among all."""
    height = x.shape[2]
    rows = max(SIDE, _STRIP * height // x.nbytes // _HALO * _HALO)
    for top in range(0, height, rows):
        # What is left at the end, if too low for the way that the whole takes, belongs to the strip before.
        bottom = height if height - top - rows < SIDE else top + rows
        start, stop = max(0, top - _HALO), min(height, bottom + _HALO)
        yield slice(top, bottom), slice(top - start, bottom - start), slice(start, stop)
        if bottom == height:
            return
