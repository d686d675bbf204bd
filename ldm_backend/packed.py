"""Convolutions for inference in float32 on the CPU: the same sums with fewer multiplications and no layout copies.

`pack` replaces the convolutions of a network. At its first call each takes the form that suits the size of its input,
and gives up the weights that it was loaded with, so that memory hardly grows. The network computes the same function,
but its weights can no longer be read or changed. Activations are channels_last throughout.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from .layers import Upsample

# Below these sizes Winograd's transforms cost more than they save.
_WINOGRAD_SIDE = 16
_WINOGRAD_CHANNELS = 128

_TILES = 256  # output tiles of 2x2 pixels worked on at once: their 16 transformed values stay in the cache

# F(2x2, 3x3): 16 multiplications where the direct sum takes 36. Its error is below that of the direct sum, which adds
# up one long row. F(4x4, 3x3) would take 36 for 144, but costs a digit of accuracy.
# Source: Lavin and Gray (arXiv 1509.09308) section 4.1.
_B = torch.tensor([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]], dtype=torch.float64)
_G = torch.tensor([[1, 0, 0], [0.5, 0.5, 0.5], [0.5, -0.5, 0.5], [0, 0, 1]], dtype=torch.float64)
_A = torch.tensor([[1, 1, 1, 0], [0, 1, -1, -1]], dtype=torch.float64)


def pack(network: nn.Module) -> None:
    """Prepare a network of this project for inference in float32 on the CPU.

    Args:
        network: changed in place. Any size and batch works afterwards; the first one decides what is fastest.
    """
    for name, layer in list(network.named_children()):
        if isinstance(layer, Upsample):
            network.register_module(name, PackedUpsample(layer))
        elif isinstance(layer, nn.Conv2d):
            network.register_module(name, PackedConv2d(layer))
        else:
            pack(layer)


class PackedConv2d(nn.Module):
    """A convolution that changes its form at its first call.

    Args:
        conv: the convolution, which is let go once its weights are packed.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__()
        self.out_channels = conv.out_channels
        self.conv: nn.Conv2d | None = conv

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C_in, H, W) to (N, C_out, H', W')."""
        if self.conv is not None:
            self._run = _packed(self.conv, x.shape)
            self.conv = None
        return self._run(x)


class PackedUpsample(Upsample):
    """Nearest-neighbour doubling and a 3x3 convolution as one 2x2 convolution of the small image.

    Each of the four output pixels of an input pixel sees only 2x2 different input pixels, so kernel entries that meet
    the same pixel are added up beforehand: 16 multiplications instead of 36, and no enlarged image in memory.

    Args:
        upsample: the layer, whose convolution is let go once its weights are packed.
    """

    def __init__(self, upsample: Upsample) -> None:
        nn.Module.__init__(self)  # not Upsample's: it would make a convolution
        self.conv: Any = upsample.conv  # None once its weights are packed

    def forward(self, x: Tensor, _temb: Tensor | None = None) -> Tensor:
        """Map (N, C, H, W) to (N, C, 2 H, 2 W)."""
        if self.conv is not None:
            self._run = _direct(_phases(self.conv), x.shape)
            self.conv = None
        n, _, height, width = x.shape
        windows = self._run(x).permute(0, 2, 3, 1).unflatten(3, (2, 2, -1))  # (N, H + 1, W + 1, 2, 2, C)
        out = x.new_empty((n, height, 2, width, 2, windows.shape[-1]))
        for row in range(2):
            for column in range(2):
                out[:, :, row, :, column] = windows[:, row : row + height, column : column + width, row, column]
        return out.view(n, 2 * height, 2 * width, -1).permute(0, 3, 1, 2)


def _phases(conv: nn.Conv2d) -> nn.Conv2d:
    """The 2x2 convolution to 4 C_out channels: C_out for each of the output pixels (0, 0), (0, 1), (1, 0), (1, 1)."""
    even = torch.tensor(
        [[1.0, 0, 0], [0, 1, 1]], dtype=torch.float64
    )  # of three kernel rows one meets the pixel before
    odd = torch.tensor([[1.0, 1, 0], [0, 0, 1]], dtype=torch.float64)  # one meets the pixel after
    fold = torch.stack([even, odd])
    weight = torch.einsum("pia,ocab,qjb->pqocij", fold, conv.weight.double(), fold).flatten(0, 2).float()
    made = nn.Conv2d(conv.in_channels, 4 * conv.out_channels, 2, padding=1, device="meta")
    made.weight = nn.Parameter(weight, requires_grad=False)
    made.bias = nn.Parameter(_bias(conv).repeat(4), requires_grad=False)
    return made


def _packed(conv: nn.Conv2d, shape: torch.Size) -> Callable[[Tensor], Tensor]:
    is_plain = (conv.kernel_size, conv.stride, conv.padding) == ((3, 3), (1, 1), (1, 1))
    is_large = min(shape[2:]) >= _WINOGRAD_SIDE and min(conv.in_channels, conv.out_channels) >= _WINOGRAD_CHANNELS
    return Winograd(conv) if is_plain and is_large else _direct(conv, shape)


def _direct(conv: nn.Conv2d, shape: torch.Size) -> Callable[[Tensor], Tensor]:
    """The convolution with its weight in oneDNN's own layout, which it would otherwise make anew at each call."""
    weight = conv.weight.detach().contiguous(memory_format=torch.channels_last)
    bias = _bias(conv)
    geometry = (conv.padding, conv.stride, conv.dilation, conv.groups)
    if not torch.backends.mkldnn.is_available():
        return lambda x: torch.conv2d(x, weight, bias, conv.stride, conv.padding)
    # The operators that torch.compile itself uses when it freezes a model for the CPU.
    packed = torch.ops.mkldnn._reorder_convolution_weight(weight, *geometry, list(shape))

    def run(x: Tensor) -> Tensor:
        x = x.contiguous(memory_format=torch.channels_last)
        return torch.ops.mkldnn._convolution_pointwise(x, packed, bias, *geometry, "none", [], "")

    return run


def _bias(conv: nn.Conv2d) -> Tensor:
    return torch.zeros(conv.out_channels) if conv.bias is None else conv.bias.detach()


class Winograd:
    """3x3 convolution with stride 1 and padding 1 by F(2x2, 3x3).

    Args:
        conv: the convolution; nothing of it is kept but the bias.
    """

    def __init__(self, conv: nn.Conv2d) -> None:
        taps = conv.weight.detach().permute(2, 3, 1, 0).reshape(9, -1).double()  # (9, C_in * C_out)
        shape = (16, conv.in_channels, conv.out_channels)
        self.weight = torch.mm(torch.kron(_G, _G), taps).float().view(shape)
        self.input_transform = torch.kron(_B, _B).float()  # (16, 16)
        self.output_transform = torch.kron(_A, _A).float()  # (4, 16)
        # Of the 16 products this one adds to all four pixels of a tile alike.
        self.bias = torch.zeros(16, 1, conv.out_channels)
        self.bias[5, 0] = _bias(conv)

    def __call__(self, x: Tensor) -> Tensor:
        """Map (N, C_in, H, W) to (N, C_out, H, W), channels_last."""
        n, _, height, width = x.shape
        rows, columns = (height + 1) // 2, (width + 1) // 2  # odd sides get a row or column of zeros
        padded = pad(x, (1, 1 + width % 2, 1, 1 + height % 2)).permute(0, 2, 3, 1).contiguous()
        out = x.new_empty((n, rows, 2, columns, 2, self.weight.shape[2]))
        at_once = max(1, _TILES // columns)
        for image, target in zip(padded, out, strict=True):
            for first in range(0, rows, at_once):
                self._rows(image[2 * first :], target[first : first + at_once])
        whole = out.view(n, 2 * rows, 2 * columns, -1)[:, :height, :width]
        return whole.contiguous().permute(0, 3, 1, 2)

    def _rows(self, image: Tensor, target: Tensor) -> None:
        """Compute `target` (rows, 2, columns, 2, C_out) from the top of a padded image (H, W, C_in)."""
        rows, _, columns, _, out_channels = target.shape
        channels = image.shape[2]
        down, right, _ = image.stride()
        patches = image.as_strided((4, 4, rows, columns, channels), (down, right, 2 * down, 2 * right, 1))
        v = torch.mm(self.input_transform, patches.reshape(16, -1)).view(16, -1, channels)
        m = torch.baddbmm(self.bias, v, self.weight)
        y = torch.mm(self.output_transform, m.view(16, -1)).view(2, 2, rows, columns, out_channels)
        target.copy_(y.permute(2, 0, 3, 1, 4))
