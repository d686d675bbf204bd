"""From the decoder's range to pictures: the one place that rounds."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def to_unit(x: Tensor) -> Tensor:
    """(N, 3, H, W) in about [-1, 1] to (N, H, W, 3) float32 in [0, 1], clamped."""
    return ((x.float() + 1.0) / 2.0).clamp(0.0, 1.0).movedim(1, -1).contiguous()


def to_uint8(x: Tensor) -> np.ndarray:
    """(N, 3, H, W) in about [-1, 1] to uint8 (N, H, W, 3): (x + 1) * 127.5, clamped, then truncated.

    Source: the model card's unrolled loop, whose `astype(np.uint8)` truncates; diffusers' own pipelines round.
    """
    return ((x.float() + 1.0) * 127.5).clamp(0.0, 255.0).to(torch.uint8).movedim(1, -1).contiguous().cpu().numpy()


def from_uint8(images: np.ndarray) -> Tensor:
    """uint8 (N, H, W, 3) to float32 (N, 3, H, W) in [-1, 1], what the encoder was trained on: x / 127.5 - 1."""
    return torch.from_numpy(images).movedim(-1, 1).float() / 127.5 - 1.0
