"""Convolution layers that take a faster way to the same sums, in float32 on the CPU, where there is one.

`faster(operations.Conv2d)` is what the networks build their convolutions from. It computes as its base class does
wherever the fast ways do not suit: on other devices, at other precisions, for training, or when the host streams,
casts or patches the weights. The weights stay the layer's own; transformed copies are made from them when needed.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad, unfold

from ..memory.mapped import release_pages
from . import winograd

# Below these sizes Winograd's transforms cost more than they save, or its kernels more memory than they are worth.
SIDE = 32
_CHANNELS = 128
# Kernels that are kept pay down to here. Below, the weights are most of what a convolution reads: it pays to keep them
# in oneDNN's order.
_SIDE_OF_SMALL = 16
# From here on oneDNN's passing copy of a weight, which one image may spare, is worth speaking of.
_LARGE_WEIGHT = 8 * 2**20
# Numbers that the doubling makes before it sorts them into the picture.
_DOUBLED = 2**23
# Tiles of transformed kernels: with the large one they take four times the memory of the weights, with the small one
# twice, and more time. Those that are made at each call are of large ones.
SMALL_TILE = 2
LARGE_TILE = 4


@cache
def fast_convolution(base: type[nn.Module]) -> type[nn.Module]:
    """A subclass of a convolution layer that takes the faster ways. One class for each base, so that they compare."""
    return type(f"Fast{base.__name__}", (_FastConv2d, base), {"__doc__": _FastConv2d.__doc__})


def is_plain(layer: Any, x: Tensor) -> bool:
    """Whether a layer works in float32 on the CPU, without gradients, and nobody but torch decides on its weights."""
    weight = layer.weight
    return (
        x.dtype == weight.dtype == torch.float32
        and x.device.type == weight.device.type == "cpu"
        and type(weight) in (Tensor, nn.Parameter)
        and not torch.compiler.is_compiling()
        and not (torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad))
        # ComfyUI's layers: weights cast, streamed or patched at each call
        and not getattr(layer, "comfy_cast_weights", False)
        and not getattr(layer, "weight_function", None)
        and not getattr(layer, "bias_function", None)
    )


def empty_caches(network: nn.Module) -> None:
    """Give back the memory that a network needs only while it runs.

    Transformed kernels stay but those of large tiles, which are of few weights, and take the longest of all to read.

    Args:
        network: Of this project, on any device. The next evaluation works as ever.
    """
    for layer in network.modules():
        if isinstance(layer, _FastConv2d):
            layer.workspace.clear()
            if layer.keep and layer.kept_tile == LARGE_TILE:
                layer.__dict__.pop("_copy", None)
    end_run: Any = getattr(network, "end_run", None)  # the UNet's, for what it has on a card
    if end_run is not None:
        end_run()
    release_pages(network.parameters())


def kernel_bytes(network: nn.Module) -> int:
    """Bytes that a network on the CPU takes for transformed kernels beyond those that it has already.

    Args:
        network: Of this project. Kept kernels are counted for all layers, the passing ones for the largest.
    """
    kept, passing = 0.0, 0.0
    for layer in network.modules():
        if isinstance(layer, _FastConv2d) and layer.weight.device.type == "cpu":
            if not layer.keep:
                passing = max(passing, layer.weight.nbytes * (LARGE_TILE + 2) ** 2 / 9)
            elif "_copy" not in layer.__dict__:
                kept += layer.weight.nbytes * (layer.kept_tile + 2) ** 2 / 9
    return round(kept + passing)


class _FastConv2d(nn.Module):
    """A convolution that takes the fastest way to its sums.

    Attributes:
        keep: Hold on to transformed kernels between calls, as suits a network that is evaluated many times.
        workspace: Shared by the layers of a network.
        kept_tile: Of the kernels that are kept.
    """

    keep: bool
    kept_tile: int
    workspace: winograd.Workspace
    weight: Tensor
    bias: Tensor | None
    kernel_size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C_in, H, W) to (N, C_out, H', W')."""
        if not is_plain(self, x):
            return super().forward(x)
        side = min(x.shape[2:])
        if self.keep and side < _SIDE_OF_SMALL:
            return _direct(x, self._kept("packed", x), self.bias, self.stride, self.padding)
        if self._keeps_size() and min(self.weight.shape[:2]) >= _CHANNELS and (self.keep or side >= SIDE):
            return self._winograd(x)
        if side >= SIDE:
            return super().forward(x.contiguous(memory_format=torch.channels_last))
        if len(x) == 1 and self._keeps_size() and self.weight.nbytes >= _LARGE_WEIGHT:
            return _product(x, self.weight, self.bias)
        return super().forward(x.contiguous())  # with channels_last, torch would turn the weights, the larger part

    def _winograd(self, x: Tensor) -> Tensor:
        if self.keep:
            return winograd.convolve(x, self._kept("winograd", x), self.bias, self.kept_tile, self.workspace)
        shape = winograd.kernel_shape(self.weight, LARGE_TILE)
        with self.workspace.borrow(math.prod(shape)) as memory:
            kernel = winograd.transform_kernel(self.weight, LARGE_TILE, memory.view(shape))
            return winograd.convolve(x, kernel, self.bias, LARGE_TILE, self.workspace)

    def forward_doubled(self, x: Tensor) -> Tensor:
        """Double (N, C_in, H, W) to the nearest pixel, then convolve: (N, C_out, 2 H, 2 W)."""
        if not is_plain(self, x):
            return self(interpolate(x, scale_factor=2.0, mode="nearest"))
        bias = None if self.bias is None else self.bias.repeat(4)
        folded = self._kept("doubled", x) if self.keep else fold(self.weight)
        return _doubled_in_rows(x, folded, bias, self.weight.shape[0])

    def _keeps_size(self) -> bool:
        """A 3x3 convolution with stride 1 and padding 1."""
        return (self.kernel_size, self.stride, self.padding) == ((3, 3), (1, 1), (1, 1))

    def _kept(self, form: str, x: Tensor) -> Tensor:
        """Kernels in that form, made anew when the weights are not what they were when these were made."""
        weight = self.weight.detach()
        # Where no version tells (inference tensors, writes through `.data`): all that changes weights in place there (a
        # merge, a LoRA) changes those of the first channel too.
        version = 0 if weight.is_inference() else weight._version
        source = (form, weight.data_ptr(), version, weight[0].clone())
        kept, made = self.__dict__.get("_copy", (None, None))
        if kept is None or made is None or kept[:3] != source[:3] or not torch.equal(kept[3], source[3]):
            made = _made(form, weight, self, x)
            self.__dict__["_copy"] = (source, made)
            release_pages([weight])
        return made

    def __reduce__(self) -> tuple[Any, ...]:
        """Copied and pickled by its base, for the class is made; and without what was made from the weights."""
        state = {name: value for name, value in self.__dict__.items() if name != "_copy"}
        return _unfilled, (type(self).__bases__[1],), state

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        """Moved or cast: what was made from the weights is void."""
        self.__dict__.pop("_copy", None)
        return super()._apply(fn, recurse)


def _unfilled(base: type[nn.Module]) -> nn.Module:
    """A layer of `fast_convolution(base)` whose attributes are still to come."""
    kind = fast_convolution(base)
    return kind.__new__(kind)


def _product(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """3x3 convolution of one small image as a matrix product: as fast as oneDNN's, without its copy of the weights."""
    windows = unfold(x, 3, padding=1)[0]
    product = weight.flatten(1) @ windows if bias is None else torch.addmm(bias[:, None], weight.flatten(1), windows)
    return product.view(1, -1, *x.shape[2:])


def _made(form: str, weight: Tensor, layer: Any, x: Tensor) -> Tensor:
    if form == "packed":
        return _pack(weight, x, layer.stride, layer.padding)
    if form == "doubled":
        return _pack(fold(weight), x, (1, 1), (1, 1))
    shape = winograd.kernel_shape(weight, layer.kept_tile)
    return winograd.transform_kernel(weight, layer.kept_tile, weight.new_empty(shape))


def _pack(weight: Tensor, x: Tensor, stride: tuple[int, int], padding: tuple[int, int]) -> Tensor:
    """The weight in oneDNN's own order, which it would otherwise make anew at each call."""
    if not torch.backends.mkldnn.is_available():
        return weight
    # The operators that torch.compile itself uses when it freezes a model for the CPU.
    return torch.ops.mkldnn._reorder_convolution_weight(
        weight.contiguous(memory_format=torch.channels_last), padding, stride, (1, 1), 1, list(x.shape)
    )


def _direct(
    x: Tensor, weight: Tensor, bias: Tensor | None, stride: tuple[int, int], padding: tuple[int, int]
) -> Tensor:
    """Convolution with a weight that `_pack` may have prepared."""
    if weight.is_mkldnn:
        x = x.contiguous(memory_format=torch.channels_last)
        return torch.ops.mkldnn._convolution_pointwise(x, weight, bias, padding, stride, (1, 1), 1, "none", [], "")
    return torch.conv2d(x, weight, bias, stride, padding)


def fold(weight: Tensor) -> Tensor:
    """The 2x2 kernels that do a doubling and a 3x3 convolution at once: (4 C_out, C_in, 2, 2).

    Each of the four output pixels of an input pixel sees only 2x2 different input pixels, so taps that meet the same
    pixel are added up: 16 multiplications instead of 36, and no enlarged image in memory. There are C_out channels for
    each of the output pixels (0, 0), (0, 1), (1, 0), (1, 1).
    """
    exact = weight.to(torch.promote_types(weight.dtype, torch.float32))
    # Sums of taps that are neighbours, and of those at the ends alone: a, a + b, b + c, c. The first output pixel takes
    # the even ones of them, the second the odd ones.
    taps = pad(exact, (1, 1, 1, 1))
    taps = taps[:, :, :-1] + taps[:, :, 1:]
    taps = taps[..., :-1] + taps[..., 1:]
    return torch.cat([taps[:, :, row::2, column::2] for row in range(2) for column in range(2)]).to(weight.dtype)


def doubled(x: Tensor, kernels: Tensor, bias: Tensor) -> Tensor:
    """A doubling and a convolution at once, on a card.

    Args:
        x: (N, C_in, H, W).
        kernels: From `fold`.
        bias: (4 C_out,).

    Returns:
        (N, C_out, 2 H, 2 W).
    """
    windows = torch.conv2d(x, kernels, bias, padding=1)  # (N, 4 C, H + 1, W + 1)
    height, width = x.shape[2:]
    parts = windows.unflatten(1, (2, 2, -1))
    rows = [
        torch.stack([parts[:, row, column, :, row:, column:][..., :height, :width] for column in range(2)], dim=-1)
        for row in range(2)
    ]
    return torch.stack(rows, dim=3).flatten(4, 5).flatten(2, 3)  # (N, C, H, 2, W, 2), then pixels


def _doubled_in_rows(x: Tensor, folded: Tensor, bias: Tensor | None, channels: int) -> Tensor:
    """As many rows at a time as keep what the folded kernels make small beside the result, which is channels_last."""
    n, _, height, width = x.shape
    out = x.new_empty((n, height, 2, width, 2, channels))
    rows = max(1, _DOUBLED // (n * 4 * channels * width))
    for top in range(0, height, rows):
        bottom = min(top + rows, height)
        above, below = int(top > 0), int(bottom < height)
        windows = _direct(x[:, :, top - above : bottom + below], folded, bias, (1, 1), (1, 1))
        _interleave(windows[:, :, above : above + bottom - top + 1], out[:, top:bottom])
    return out.view(n, 2 * height, 2 * width, -1).permute(0, 3, 1, 2)


def _interleave(windows: Tensor, out: Tensor) -> None:
    """Pixels `out`, (N, H, 2, W, 2, C), of what the folded kernels made of each window, (N, 4 C, H + 1, W + 1)."""
    _, height, _, width, _, _ = out.shape
    windows = windows.permute(0, 2, 3, 1).unflatten(3, (2, 2, -1))
    for row in range(2):
        for column in range(2):
            out[:, :, row, :, column] = windows[:, row : row + height, column : column + width, row, column]
