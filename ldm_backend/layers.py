"""Blocks that the UNet and the first stage share. Attribute names are the diffusers checkpoint keys.

Every layer with weights comes from `operations`, a namespace with `Linear`, `Conv2d`, `GroupNorm` and `Embedding`
(default `torch.nn`), so that a host can stream or cast weights in its own way.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate, pad, scaled_dot_product_attention, silu


def timestep_embedding(t: Tensor, channels: int) -> Tensor:
    """Sinusoidal embedding of timesteps, cosines first.

    Args:
        t: (N,) timesteps, any real dtype.
        channels: even width of the embedding.
    Returns: (N, channels) float32.
    Source: CompVis ldm/modules/diffusionmodules/util.py:151-171, i.e. diffusers' flip_sin_to_cos with freq_shift 0.
    """
    half = channels // 2
    frequencies = torch.exp(-math.log(10000.0) * torch.arange(half, dtype=torch.float32, device=t.device) / half)
    angles = t.float()[:, None] * frequencies[None, :]
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class ResnetBlock(nn.Module):
    """GroupNorm, SiLU, 3x3 convolution, twice, around a skip; the time embedding joins between the two."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        groups: int,
        eps: float,
        operations: Any,
        temb_channels: int | None = None,
        **factory: Any,
    ) -> None:
        super().__init__()
        self.norm1 = operations.GroupNorm(groups, in_channels, eps=eps, **factory)
        self.conv1 = operations.Conv2d(in_channels, out_channels, 3, padding=1, **factory)
        if temb_channels is not None:
            self.time_emb_proj = operations.Linear(temb_channels, out_channels, **factory)
        self.norm2 = operations.GroupNorm(groups, out_channels, eps=eps, **factory)
        self.conv2 = operations.Conv2d(out_channels, out_channels, 3, padding=1, **factory)
        self.conv_shortcut = None
        if in_channels != out_channels:
            self.conv_shortcut = operations.Conv2d(in_channels, out_channels, 1, **factory)

    def forward(self, x: Tensor, temb: Tensor | None = None) -> Tensor:
        """Map (N, C_in, H, W) and the embedding (N, temb_channels), if any, to (N, C_out, H, W)."""
        h = self.conv1(silu(self.norm1(x)))
        if temb is not None:
            h = h + self.time_emb_proj(silu(temb))[:, :, None, None]
        h = self.conv2(silu(self.norm2(h)))
        return (x if self.conv_shortcut is None else self.conv_shortcut(x)) + h


class Attention(nn.Module):
    """Self-attention over the H*W positions, with a residual connection."""

    def __init__(self, channels: int, head_dim: int, groups: int, eps: float, operations: Any, **factory: Any) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.group_norm = operations.GroupNorm(groups, channels, eps=eps, **factory)
        self.to_q = operations.Linear(channels, channels, **factory)
        self.to_k = operations.Linear(channels, channels, **factory)
        self.to_v = operations.Linear(channels, channels, **factory)
        self.to_out = nn.ModuleList([operations.Linear(channels, channels, **factory)])

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to the same shape."""
        n, c, height, width = x.shape
        tokens = self.group_norm(x).flatten(2).transpose(1, 2)  # (N, HW, C)
        q, k, v = (
            projection(tokens).view(n, -1, c // self.head_dim, self.head_dim).transpose(1, 2)  # (N, heads, HW, d)
            for projection in (self.to_q, self.to_k, self.to_v)
        )
        h = scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(n, -1, c)
        return x + self.to_out[0](h).transpose(1, 2).reshape(n, c, height, width)


class Downsample(nn.Module):
    """Strided 3x3 convolution. The UNet pads both sides, the encoder only right and bottom, as they were trained."""

    def __init__(self, channels: int, operations: Any, pad_both_sides: bool, **factory: Any) -> None:
        super().__init__()
        self.pad_both_sides = pad_both_sides
        self.conv = operations.Conv2d(channels, channels, 3, stride=2, padding=int(pad_both_sides), **factory)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C, H / 2, W / 2)."""
        return self.conv(x if self.pad_both_sides else pad(x, (0, 1, 0, 1)))


class Upsample(nn.Module):
    """Nearest-neighbour doubling, then a 3x3 convolution."""

    def __init__(self, channels: int, operations: Any, **factory: Any) -> None:
        super().__init__()
        self.conv = operations.Conv2d(channels, channels, 3, padding=1, **factory)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) to (N, C, 2 H, 2 W)."""
        return self.conv(interpolate(x, scale_factor=2.0, mode="nearest"))


class MidBlock(nn.Module):
    """Resnet, attention, resnet at the coarsest level."""

    def __init__(
        self,
        channels: int,
        head_dim: int,
        groups: int,
        eps: float,
        operations: Any,
        temb_channels: int | None = None,
        **factory: Any,
    ) -> None:
        super().__init__()
        block = (channels, channels, groups, eps, operations, temb_channels)
        self.resnets = nn.ModuleList([ResnetBlock(*block, **factory), ResnetBlock(*block, **factory)])
        self.attentions = nn.ModuleList([Attention(channels, head_dim, groups, eps, operations, **factory)])

    def forward(self, x: Tensor, temb: Tensor | None = None) -> Tensor:
        """Map (N, C, H, W) and the embedding, if any, to the same shape."""
        x = self.resnets[0](x, temb)
        return self.resnets[1](self.attentions[0](x), temb)
