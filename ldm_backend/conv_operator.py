"""The faster convolutions under torch.compile, which takes them as one operator each and compiles what is between.

What the compiler would make of a convolution's insides is slower than they are. An operator cannot be given a layer, so
that it finds the layer by its number in the network that runs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import torch
from torch import Tensor

_running: ContextVar[Sequence[Any]] = ContextVar("layers of the network that runs")


@contextmanager
def running(layers: Sequence[Any]) -> Iterator[None]:
    """Within this block, numbers mean these layers."""
    token = _running.set(layers)
    try:
        yield
    finally:
        _running.reset(token)


# Two copies of this module in a process are two operators.
@torch.library.custom_op(f"{re.sub(r'[^0-9A-Za-z]', '_', __name__)}::convolve", mutates_args=())
def convolve(x: Tensor, number: int, shape: Sequence[int], doubled: bool) -> Tensor:
    """What the layer does outside of a compiler.

    Args:
        x: (N, C_in, H, W).
        number: of the layer.
        shape: of the result.
        doubled: double `x` to the nearest pixel before.
    Returns: (N, C_out, H', W'), channels_last.
    """
    layer = _running.get()[number]
    out = layer.forward_doubled(x) if doubled else layer(x)
    return out.contiguous(memory_format=torch.channels_last)


@convolve.register_fake
def _(x: Tensor, number: int, shape: Sequence[int], doubled: bool) -> Tensor:
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
