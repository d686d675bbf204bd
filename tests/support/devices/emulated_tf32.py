"""TF32 without a card: products and convolutions on the CPU whose inputs are rounded as a card would round them.

Only while torch's settings allow that to a card at this moment, so that code that takes care of them is not touched.
Of fused attention it shows nothing: there torch's kernels decide by themselves.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

_DISTANCES = "aten::_euclidean_dist"  # what torch.cdist becomes: a product, in which torch hides it
_PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm", _DISTANCES)
_CONVOLUTIONS = ("aten::convolution", "mkldnn::_convolution_pointwise")
_HALF, _KEPT = 1 << 12, ~((1 << 13) - 1)  # of the 23 bits of a mantissa 10 stay


def rounded(x: Tensor) -> Tensor:
    """float32 with the mantissa rounded to 10 bits, to nearest, halves away from zero; other formats as they are."""
    if x.dtype != torch.float32:
        return x
    return ((x.contiguous().view(torch.int32) + _HALF) & _KEPT).view(torch.float32).view(x.shape)


class EmulatedTF32(TorchDispatchMode):
    """Rounds what a card would round.

    Attributes:
        operations: how many were rounded.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name
        backends: Any = torch.backends
        allowed = (name in _PRODUCTS and backends.cuda.matmul.fp32_precision == "tf32") or (
            name in _CONVOLUTIONS and backends.cudnn.conv.fp32_precision == "tf32"
        )
        if not allowed:
            return func(*args, **kwargs)
        self.operations += 1
        if name == _DISTANCES:
            return _distances(*args)
        # What is added to a product or a convolution is not rounded.
        added = {"aten::addmm": 0, "aten::baddbmm": 0, "aten::convolution": 2, "mkldnn::_convolution_pointwise": 2}
        new = [
            tree_map(lambda leaf: rounded(leaf) if isinstance(leaf, Tensor) else leaf, arg)
            if place != added.get(name)
            else arg
            for place, arg in enumerate(args)
        ]
        return func(*new, **kwargs)


def _distances(a: Tensor, b: Tensor) -> Tensor:
    """torch's own formula, its product rounded."""
    squares_a, squares_b = (x.pow(2).sum(dim=-1, keepdim=True) for x in (a, b))
    left = torch.cat([-2 * a, squares_a, torch.ones_like(squares_a)], dim=-1)
    right = torch.cat([b, torch.ones_like(squares_b), squares_b], dim=-1)
    return (rounded(left) @ rounded(right).mT).clamp_min(0).sqrt()


def as_on_a_card(network: nn.Module) -> nn.Module:
    """The network with plain convolutions, as on a card, and not the CPU's faster ways: its layers are told that a host
    decides on their weights."""
    for layer in network.modules():
        vars(layer)["comfy_cast_weights"] = True
    return network
