"""Whether a value is a tensor that holds numbers. Imports torch only."""

from __future__ import annotations

import math
from typing import Any, TypeGuard

import torch
from torch import Tensor

_MOST = torch.finfo(torch.float32).max


FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
"""What networks here take; whatever it is, they compute in formats of their own."""


def is_plain(value: Any) -> TypeGuard[Tensor]:
    """Whether a value is a tensor with data: not nested, sparse, quantised or on the device meta."""
    whole = isinstance(value, Tensor) and not value.is_nested and value.layout is torch.strided
    return whole and not value.is_quantized and value.device.type != "meta"


def all_finite(tensor: Tensor) -> bool:
    """Whether no number of a tensor is NaN, infinite, or beyond float32, in which everything here computes.

    Takes no memory, unlike `torch.isfinite`, and looks once at what an expanded tensor repeats, so that it takes no
    longer than what the tensor really holds.

    Args:
        tensor: Plain, of one of `FLOATS`, of any shape.
    """
    for axis, stride in enumerate(tensor.stride()):
        if stride == 0 and tensor.shape[axis] > 1:
            tensor = tensor.narrow(axis, 0, 1)
    if not tensor.numel():
        return True
    least, most = torch.stack(torch.aminmax(tensor.detach())).cpu().tolist()  # both are NaN if one number is
    return math.isfinite(least) and least >= -_MOST and most <= _MOST
