"""Tiles that overlap, and what makes of their results one without a seam.

Each step of a sampler evaluates all tiles and averages the noise that they predict where they overlap, so that the
tiles agree before the next step (MultiDiffusion, arXiv 2302.08113). Tiles that are sampled apart would each invent
details of their own.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import product

import torch
from torch import Tensor

from ..errors import InputError, short_repr


def check_tile(tile: int, unit: int) -> None:
    """Raise InputError unless a tile has a side that the network can halve and enough cells to overlap.

    Args:
        tile: Side in latent cells.
        unit: What the network's sides are multiples of.
    """
    if isinstance(tile, bool) or not isinstance(tile, int) or tile < 4 * unit or tile % unit:
        raise InputError(f"tile is {tile!r}; expected a multiple of {unit} latent cells, at least {4 * unit}.")


def averaged_over_tiles(
    predict: Callable[[Tensor, Tensor], Tensor],
    x: Tensor,
    c: Tensor,
    tile: int,
    unit: int,
    report: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Evaluate tile by tile.

    Args:
        predict: Takes tiles of `x` and of `c`, and returns (N, C, h, w).
        x: (N, C, H, W) latents.
        c: (N, C', H, W) what the network sees beside them.
        tile: Side of a tile in cells, see `check_tile`; a side of `x` that is shorter is not divided.
        unit: Tiles begin at multiples of it, so that the network halves the same cells together as in the whole.
        report: Called after each tile with how many are done, and how many there are.

    Returns:
        (N, C, H, W) the mean of all tiles, each weighted less towards its edges.
    """
    height, width = (min(tile, side) for side in x.shape[2:])
    overlap = _overlap(tile, unit)
    weight = _ramps(height, overlap, x)[:, None] * _ramps(width, overlap, x)[None, :]
    total, weights = torch.zeros_like(x), torch.zeros_like(x[:1, :1])
    tops, lefts = starts(x.shape[2], height, overlap, unit), starts(x.shape[3], width, overlap, unit)
    for done, (top, left) in enumerate(product(tops, lefts), 1):
        part = (..., slice(top, top + height), slice(left, left + width))
        total[part] += weight * predict(x[part], c[part])
        weights[part] += weight
        if report is not None:
            report(done, len(tops) * len(lefts))
    return total / weights


def starts(length: int, tile: int, overlap: int, unit: int) -> list[int]:
    """Where the tiles along one side begin: evenly, at multiples of `unit`, the first and the last at the ends.

    Args:
        length: Of the side, a multiple of `unit` as `tile` is.
        tile: Not longer.
        overlap: Cells that neighbours share, two units or more; after rounding it may be one unit less.
        unit: See above.
    """
    if tile >= length:
        return [0]
    gaps = math.ceil((length - tile) / (tile - overlap))
    return [round(index * (length - tile) / gaps / unit) * unit for index in range(gaps + 1)]


def _overlap(tile: int, unit: int) -> int:
    """A quarter of the tile."""
    return max(2, tile // 4 // unit) * unit


def _ramps(tile: int, overlap: int, like: Tensor) -> Tensor:
    """Weights along one side: smooth up, level, smooth down; above 0 everywhere."""
    distance = torch.arange(tile, dtype=torch.float32, device=like.device) + 0.5
    distance = torch.minimum(distance, tile - distance).clamp(max=overlap)
    return torch.sin(math.pi / 2 * distance / overlap) ** 2


def check_goes_together(conditioned: bool, tile: int | None, others: tuple[int, int | None, int | None]) -> None:
    """Raise InputError for what counts only with a conditioning, or only without: `others` are those of the latter."""
    if not conditioned and tile is not None:
        raise InputError(f"tile is {short_repr(tile)}, and no conditioning is given; expected both or none.")
    if conditioned and others != (1, None, None):
        raise InputError(
            f"cache_interval, height and width are {short_repr(others)}; with a conditioning, which says the size, "
            "expected 1, None and None: leave them out."
        )
