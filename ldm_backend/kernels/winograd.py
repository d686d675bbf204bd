"""3x3 convolutions in float32 on the CPU with fewer multiplications: Winograd's minimal filtering, F(m x m, 3x3).

Instead of 9 multiplications for each output pixel and pair of channels it takes (m + 2)^2 for a tile of m x m pixels:
4 with m = 2, 2.25 with m = 4, as one batch of matrix products. Source: Lavin and Gray (arXiv 1509.09308), section 4.

The usual points for m = 4 (0, 1, -1, 2, -2) lose a decimal digit. With 0 and plus or minus sqrt(1/2) and sqrt(2) the
result is as near to the truth as the direct sum's; with m = 2 it is nearer.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

_POINTS = {2: (0.0, 1.0, -1.0), 4: (0.0, math.sqrt(0.5), -math.sqrt(0.5), math.sqrt(2.0), -math.sqrt(2.0))}
# Tiles are worked on in groups whose transformed values stay in the cache.
_TILES = {2: 256, 4: 128}
_GROUP_BYTES = 4 * 2**20


@dataclass(frozen=True)
class Transforms:
    """Matrices of F(m, 3) with n = m + 2, float32: y = output @ ((kernel @ g) * (input @ d)).

    Attributes:
        tile: m.
        input: (n, n).
        kernel: (n, 3).
        output: (m, n).
    """

    tile: int
    input: Tensor
    kernel: Tensor
    output: Tensor


@cache
def transforms(tile: int) -> Transforms:
    """The matrices for tiles of 2x2 or 4x4 pixels, by the Cook-Toom construction over the points and infinity."""
    points = _POINTS[tile]
    size = tile + 2
    others = [[other for other in points if other != point] for point in points]
    scales = [math.prod(point - other for other in rest) for point, rest in zip(points, others, strict=True)]
    inputs = np.zeros((size, size))
    for row, roots in enumerate([*others, points]):  # coefficients of the polynomials with these roots, constant first
        inputs[row, : len(roots) + 1] = np.poly(roots)[::-1]
    kernel = np.array(
        [[point**power / scale for power in range(3)] for point, scale in zip(points, scales, strict=True)]
    )
    output = np.array([[point**power for point in points] for power in range(tile)])
    # A power of two moved from the input's rows to the kernel's keeps the products of one size, and rounds nothing.
    balance = 2.0 ** np.round(np.log2(np.abs(inputs).sum(axis=1) / 4)) if tile == 4 else np.ones(size)
    kernel = np.vstack([kernel, [0.0, 0.0, 1.0]]) * balance[:, None]
    output = np.hstack([output, np.eye(tile)[:, -1:]])
    made = (torch.from_numpy(matrix).float() for matrix in (inputs / balance[:, None], kernel, output))
    return Transforms(tile, *made)


class Workspace:
    """Memory for intermediate values, which the convolutions of a network use one after another.

    Fresh memory for each of them would cost as much time as their arithmetic: the system hands it out page by page.
    Threads that evaluate a network at the same time each get their own.
    """

    def __init__(self) -> None:
        self._free: list[Tensor] = []

    def __reduce__(self) -> tuple[type[Workspace], tuple[()]]:
        """Copied and pickled as what has nothing to lend yet."""
        return Workspace, ()

    @contextmanager
    def borrow(self, count: int) -> Iterator[Tensor]:
        """Lend `count` float32 values, of any content."""
        try:
            memory = self._free.pop()
        except IndexError:
            memory = torch.empty(0)
        if len(memory) < count:
            with torch.inference_mode(False):  # or it could only be written to in that mode
                memory = torch.empty(count)
        try:
            yield memory[:count]
        finally:
            self._free.append(memory)

    def clear(self) -> None:
        """Give the memory back."""
        self._free.clear()


def kernel_shape(weight: Tensor, tile: int) -> tuple[int, int, int]:
    """Shape of what `transform_kernel` makes of (C_out, C_in, 3, 3) weights."""
    return (tile + 2) ** 2, weight.shape[1], weight.shape[0]


def transform_kernel(weight: Tensor, tile: int, out: Tensor) -> Tensor:
    """Kernels as `convolve` wants them.

    Args:
        weight: (C_out, C_in, 3, 3) float32.
        tile: 2 or 4.
        out: Of `kernel_shape`, where they are written.

    Returns:
        `out`: by column, then row of the tile.
    """
    matrix = transforms(tile).kernel.double()
    taps = weight.permute(3, 2, 1, 0).reshape(9, -1)  # column, row, C_in * C_out
    torch.mm(torch.kron(matrix, matrix).float(), taps, out=out.view(len(out), -1))
    return out


def convolve(x: Tensor, kernel: Tensor, bias: Tensor | None, tile: int, workspace: Workspace) -> Tensor:
    """3x3 convolution with stride 1 and padding 1.

    Args:
        x: (N, C_in, H, W) float32, best channels_last; any H and W.
        kernel: Of `transform_kernel` with the same `tile`.
        bias: (C_out,).
        tile: 2 or 4.
        workspace: Of the network.

    Returns:
        (N, C_out, H, W), channels_last.
    """
    images = x.permute(0, 2, 3, 1)
    count, height, width, channels = images.shape
    rows, columns = -(-height // tile), -(-width // tile)
    out = x.new_empty((count, tile * rows, tile * columns, kernel.shape[2]))
    group = min(_TILES[tile], _GROUP_BYTES // (4 * channels * (tile + 2) ** 2))
    at_once = min(rows, max(1, group // columns))
    border = (tile * at_once + 2, tile * columns + 2, channels)
    values = (tile + 2) ** 2 * at_once * (columns + 1) * max(kernel.shape[1:])
    with workspace.borrow(math.prod(border) + 2 * values) as memory:
        band, *pair = memory.split((math.prod(border), values, values))
        band = band.view(border)
        band[:, 0] = band[:, width + 1 :] = 0
        for image, target in zip(images, out, strict=True):
            for first in range(0, rows, at_once):
                some = min(at_once, rows - first)
                _copy_rows(image, tile * first - 1, band[: tile * some + 2, 1 : width + 1])
                part = target[tile * first : tile * (first + some)].view(some, tile, columns, tile, -1)
                _convolve_band(band, kernel, bias, part, pair)
    return out[:, :height, :width].contiguous().permute(0, 3, 1, 2)


def _copy_rows(image: Tensor, top: int, band: Tensor) -> None:
    """Fill `band` with rows of the image (H, W, C) from `top` on, zeros where there are none."""
    first, last = max(top, 0), min(top + len(band), len(image))
    band[: first - top] = 0
    band[first - top : last - top] = image[first:last]
    band[last - top :] = 0


def _convolve_band(band: Tensor, kernel: Tensor, bias: Tensor | None, target: Tensor, pair: list[Tensor]) -> None:
    """Compute `target` (rows, m, columns, m, C_out) from rows of the image with their border."""
    rows, tile, columns, _, out_channels = target.shape
    size, width, channels, tiles = tile + 2, band.shape[1], band.shape[2], rows * columns
    into, back = transforms(tile).input, transforms(tile).output

    def memory(which: int, *shape: int) -> Tensor:
        return pair[which][: math.prod(shape)].view(shape)

    # Down the image the windows of a row of tiles lie one after another, so that they need not be copied.
    windows = band.as_strided((rows, size, width * channels), (tile * width * channels, width * channels, 1))
    down = torch.bmm(into.expand(rows, -1, -1), windows, out=memory(0, rows, size, width * channels))
    strides = (channels, width * channels, size * width * channels, tile * channels, 1)
    across = down.as_strided((size, size, rows, columns, channels), strides)
    across = memory(1, *across.shape).copy_(across).view(size, -1)
    across = torch.mm(into, across, out=memory(0, *across.shape)).view(size * size, tiles, channels)
    products = torch.bmm(across, kernel, out=memory(1, size * size, tiles, out_channels)).view(size, -1)
    lines = torch.mm(back, products, out=memory(0, tile, products.shape[1])).view(tile, size, -1)
    pixels = torch.bmm(back.expand(tile, -1, -1), lines, out=memory(1, tile, tile, lines.shape[2]))
    pixels = pixels.view(tile, tile, rows, columns, out_channels).permute(2, 1, 3, 0, 4)
    if bias is None:
        target.copy_(pixels)
    else:
        torch.add(pixels, bias, out=target)
