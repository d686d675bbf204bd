"""From the decoder's range to pictures: the one place that rounds."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def as_channels(x: Tensor, channels: int, dim: int = 1) -> Tensor:
    """Pictures with 1 (grey) or 3 channels as pictures with `channels`, of these two; others pass unchanged.

    Args:
        x: In any range.
        channels: 3 repeats grey; 1 takes the luma of ITU-R BT.601, which is exact where the three are the same.
        dim: Of the channels.
    """
    if x.shape[dim] == 1 and channels == 3:
        return x.repeat_interleave(3, dim=dim)
    if x.shape[dim] != 3 or channels != 1:
        return x
    red, green, blue = x.split(1, dim=dim)
    return red + 0.587 * (green - red) + 0.114 * (blue - red)


def to_unit(x: Tensor) -> Tensor:
    """(N, C, H, W) in about [-1, 1] to (N, H, W, C) float32 in [0, 1], clamped."""
    return ((x.float() + 1.0) / 2.0).clamp(0.0, 1.0).movedim(1, -1).contiguous()


def to_uint8(x: Tensor) -> np.ndarray:
    """(N, C, H, W) in about [-1, 1] to uint8 (N, H, W, C): (x + 1) * 127.5, clamped, then truncated.

    Source: the model card's unrolled loop, whose `astype(np.uint8)` truncates; diffusers' own pipelines round.
    """
    return ((x.float() + 1.0) * 127.5).clamp(0.0, 255.0).to(torch.uint8).movedim(1, -1).contiguous().cpu().numpy()


def from_uint8(images: np.ndarray) -> Tensor:
    """uint8 (N, H, W, C) to float32 (N, C, H, W) in [-1, 1], what the encoder was trained on: x / 127.5 - 1."""
    return torch.from_numpy(images).movedim(-1, 1).float() / 127.5 - 1.0
