"""Blocks that the UNet and the first stages share. Attribute names are the diffusers checkpoint keys.

Every layer with weights comes from `operations`, a namespace with `Linear`, `Conv2d`, `GroupNorm`, `LayerNorm` and
`Embedding` (default `torch.nn`), so that a host can stream or cast weights in its own way.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d, interpolate, linear, pad, scaled_dot_product_attention, silu

from ..kernels.fast_conv import SMALL_TILE, doubled, fast_convolution, fold
from ..kernels.fast_norm import group_norm
from ..kernels.rows import resnet_in_rows, suits
from ..kernels.weight_forms import Formed
from ..kernels.winograd import Workspace

_FUSED = 256  # widest head that torch's fused attention takes on a card
_SCORES = 2**25  # query-key pairs of wider heads at once: 128 MB, and as much for their softmax


def timestep_embedding(t: Tensor, channels: int, cosines_first: bool = True, shift: int = 0) -> Tensor:
    """Sinusoidal embedding of timesteps.

    Args:
        t: (N,) timesteps, any real dtype.
        channels: Width of the embedding; the last of an odd one is 0.
        cosines_first: As in CompVis; else the sines, as in the code of DDPM.
        shift: Of the divisor of the exponents; DDPM has 1.

    Returns:
        (N, channels) float32.

    Source: CompVis ldm/modules/diffusionmodules/util.py:151-171, i.e. diffusers' flip_sin_to_cos with freq_shift 0.
    """
    half = channels // 2
    exponents = torch.arange(half, dtype=torch.float32, device=t.device) / (half - shift)
    angles = t.float()[:, None] * torch.exp(-math.log(10000.0) * exponents)[None, :]
    parts = (angles.cos(), angles.sin()) if cosines_first else (angles.sin(), angles.cos())
    embedding = torch.cat(parts, dim=1)
    return pad(embedding, (0, 1)) if channels % 2 else embedding


@dataclass(frozen=True)
class Layers:
    """Makes the layers of one network, so that blocks need to know only their channels.

    Attributes:
        operations: Namespace that provides the layers with weights.
        groups, eps: Of every GroupNorm.
        head_dim: Channels of a block -> channels of one attention head.
        temb_channels: Width of the time embedding; None where there is none.
        scale_shift: The time embedding scales and shifts the second norm, instead of being added before it.
        keep: The network is evaluated many times, so that its convolutions hold on to transformed kernels.
        kept_tile: Of these, LARGE_TILE where the speed is worth four times the memory of the weights.
        factory: Dtype and device of the weights.
        workspace: Memory that the convolutions share.
    """

    operations: Any
    groups: int
    eps: float
    head_dim: Callable[[int], int]
    temb_channels: int | None = None
    scale_shift: bool = False
    keep: bool = False
    kept_tile: int = SMALL_TILE
    factory: dict[str, Any] = field(default_factory=dict)
    workspace: Workspace = field(default_factory=Workspace)

    def norm(self, channels: int, groups: int | None = None, eps: float | None = None) -> nn.Module:
        """GroupNorm, of other groups and eps where they are given."""
        return self.operations.GroupNorm(groups or self.groups, channels, eps=eps or self.eps, **self.factory)

    def token_norm(self, channels: int) -> nn.Module:
        """LayerNorm over the channels of a token."""
        return self.operations.LayerNorm(channels, **self.factory)

    def conv(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int = 3,
        stride: int = 1,
        padding: int = 1,
    ) -> Any:
        """Convolution, by default 3x3 that keeps the size."""
        layer: Any = fast_convolution(self.operations.Conv2d)(
            in_channels,
            out_channels,
            kernel,
            stride=stride,
            padding=padding,
            **self.factory,
        )
        layer.keep, layer.kept_tile, layer.workspace = self.keep, self.kept_tile, self.workspace
        return layer

    def linear(self, in_features: int, out_features: int, bias: bool = True) -> nn.Module:
        """Linear layer."""
        return self.operations.Linear(in_features, out_features, bias=bias, **self.factory)


def _shrink(x: Tensor) -> Tensor:
    return avg_pool2d(x, 2)


def _grow(x: Tensor) -> Tensor:
    return interpolate(x, scale_factor=2.0, mode="nearest")


class Projected(NamedTuple):
    """The time embedding as all resnets of a network need it, computed in one product.

    Attributes:
        values: (N, sum of the widths of all resnets); each knows its `columns`.
    """

    values: Tensor


TimeInput = Tensor | Projected | None  # the time embedding (N, temb_channels), for networks that have one


class ResnetBlock(nn.Module):
    """GroupNorm, SiLU, 3x3 convolution, twice, around a skip; the time embedding joins between the two.

    Args:
        layers: Settings of the network.
        in_channels: C_in.
        out_channels: C_out.
        resample: "down" or "up" halves or doubles height and width before the first convolution, and in the skip.

    Attributes:
        columns: Of `Projected.values` that are for this resnet.
    """

    columns = slice(0)

    def __init__(
        self,
        layers: Layers,
        in_channels: int,
        out_channels: int,
        resample: str | None = None,
    ) -> None:
        super().__init__()
        self.resample = {"down": _shrink, "up": _grow, None: None}[resample]
        self.scale_shift = layers.scale_shift
        self.norm1 = layers.norm(in_channels)
        self.conv1 = layers.conv(in_channels, out_channels)
        if layers.temb_channels is not None:
            self.time_emb_proj = layers.linear(layers.temb_channels, out_channels * (2 if layers.scale_shift else 1))
        self.norm2 = layers.norm(out_channels)
        self.conv2 = layers.conv(out_channels, out_channels)
        self.conv_shortcut = None
        if in_channels != out_channels:
            self.conv_shortcut = layers.conv(in_channels, out_channels, kernel=1, padding=0)

    def forward(self, x: Tensor, temb: TimeInput = None) -> Tensor:
        """Map (N, C_in, H, W) and the embedding (N, temb_channels), if any, to (N, C_out, H, W), H and W resampled."""
        if temb is None and self.resample is None and suits(self.conv1, x):
            return resnet_in_rows(self, x)
        h = group_norm(self.norm1, x, activate=True)
        if self.resample is not None:
            h, x = self.resample(h), self.resample(x)
        h = self.conv1(h)
        emb = None if temb is None else self._projected(temb)[:, :, None, None]
        if emb is None or not self.scale_shift:
            h = group_norm(self.norm2, h if emb is None else h.add_(emb), activate=True)
        else:
            scale, shift = emb.chunk(2, dim=1)
            h = silu(self.norm2(h) * (1 + scale) + shift)
        h = self.conv2(h)
        return h.add_(x if self.conv_shortcut is None else self.conv_shortcut(x))

    def _projected(self, temb: Tensor | Projected) -> Tensor:
        if isinstance(temb, Projected):
            return temb.values[:, self.columns]
        return self.time_emb_proj(silu(temb))


class Attention(Formed):
    """Self-attention over the H*W positions, with a residual connection.

    Args:
        layers: Settings of the network.
        channels: C.
        groups: Of its norm, where they are not those of the network; 0 for no norm.

    Attributes:
        form: Weight (3 C, C) and bias of q, k and v in one product.
    """

    def __init__(self, layers: Layers, channels: int, groups: int | None = None) -> None:
        super().__init__()
        self.head_dim = layers.head_dim(channels)
        self.group_norm = None if groups == 0 else layers.norm(channels, groups)
        self.to_q = layers.linear(channels, channels)
        self.to_k = layers.linear(channels, channels)
        self.to_v = layers.linear(channels, channels)
        self.to_out = nn.ModuleList([layers.linear(channels, channels)])

    def forward(self, x: Tensor, _context: Tensor | None = None) -> Tensor:
        """Map (N, C, H, W) to the same shape."""
        normed = x if self.group_norm is None else group_norm(self.group_norm, x, activate=False)
        tokens = rearrange(normed, "n c h w -> n (h w) c")
        if self.form is None:
            qkv = [projection(tokens) for projection in (self.to_q, self.to_k, self.to_v)]
        else:
            qkv = linear(tokens.contiguous(), *self.form).chunk(3, dim=2)
        q, k, v = (rearrange(part, "n tokens (heads d) -> n heads tokens d", d=self.head_dim) for part in qkv)
        h = rearrange(attended(q, k, v), "n heads tokens d -> n tokens (heads d)")
        return x + rearrange(self.to_out[0](h), "n (h w) c -> n c h w", h=x.shape[2])

    def make_form(self) -> None:
        """Join the weights."""
        layers: list[Any] = [self.to_q, self.to_k, self.to_v]
        self.form = torch.cat([layer.weight for layer in layers]), torch.cat([layer.bias for layer in layers])


def attended(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """`scaled_dot_product_attention` in bounded memory; (N, heads, tokens, head_dim) each, and returned.

    On a card torch makes the scores of all tokens in one piece where heads are wider than `_FUSED`, for its kernels
    that work in blocks do not take those. That of the CPU does.
    """
    if q.device.type == "cpu" or q.shape[-1] <= _FUSED:
        return scaled_dot_product_attention(q, k, v)
    return attended_in_parts(q, k, v, _SCORES)


def attended_in_parts(q: Tensor, k: Tensor, v: Tensor, scores: int) -> Tensor:
    """Likewise, with as many queries at a time as make at most `scores` query-key pairs, over the whole batch."""
    queries, keys, values = (x.flatten(0, 1) for x in (q, k, v))  # (N * heads, tokens, head_dim)
    at_once = max(1, scores // (keys.shape[0] * keys.shape[1]))
    exact = torch.promote_types(q.dtype, torch.float32)  # of the softmax; a sum of many in a short format is none

    def part(some: Tensor) -> Tensor:
        # beta=0: what is added to the product is not read. So the product is scaled before it is rounded.
        products = torch.baddbmm(some.new_empty(()), some, keys.mT, beta=0, alpha=some.shape[-1] ** -0.5)
        return torch.bmm(products.softmax(dim=-1, dtype=exact).to(v.dtype), values)

    return torch.cat([part(some) for some in queries.split(at_once, dim=1)], dim=1).view(q.shape)


# Of a level with so many channels; what it makes maps (N, C, H, W) and the context, if any, to the same shape.
MakeAttention = Callable[[int], nn.Module]


class Downsample(nn.Module):
    """Strided 3x3 convolution. The UNet pads both sides, the encoder only right and bottom, as they were trained."""

    def __init__(self, layers: Layers, channels: int, pad_both_sides: bool) -> None:
        super().__init__()
        self.pad_both_sides = pad_both_sides
        self.conv = layers.conv(channels, channels, stride=2, padding=int(pad_both_sides))

    def forward(self, x: Tensor, _temb: TimeInput = None) -> Tensor:
        """Map (N, C, H, W) to (N, C, H / 2, W / 2)."""
        return self.conv(x if self.pad_both_sides else pad(x, (0, 1, 0, 1)))


class Upsample(Formed):
    """Nearest-neighbour doubling, then a 3x3 convolution.

    Attributes:
        form: Kernels and bias that do both at once.
    """

    def __init__(self, layers: Layers, channels: int) -> None:
        super().__init__()
        self.conv = layers.conv(channels, channels)

    def forward(self, x: Tensor, _temb: TimeInput = None) -> Tensor:
        """Map (N, C, H, W) to (N, C, 2 H, 2 W)."""
        return self.conv.forward_doubled(x) if self.form is None else doubled(x, *self.form)

    def make_form(self) -> None:
        """Fold the doubling into the kernels."""
        self.form = fold(self.conv.weight), self.conv.bias.repeat(4)


class MidBlock(nn.Module):
    """Resnet, attention, resnet at the coarsest level.

    Args:
        layers: Settings of the network.
        channels: C.
        attention: Makes the attention there, if the network has one.
    """

    def __init__(self, layers: Layers, channels: int, attention: MakeAttention | None) -> None:
        super().__init__()
        self.resnets = nn.ModuleList([ResnetBlock(layers, channels, channels) for _ in range(2)])
        self.attentions = nn.ModuleList([attention(channels)] if attention else [])

    def forward(self, x: Tensor, temb: TimeInput = None, context: Tensor | None = None) -> Tensor:
        """Map (N, C, H, W), and the embedding and the context of the attention if any, to the same shape."""
        x = self.resnets[0](x, temb)
        for attention in self.attentions:
            x = attention(x, context)
        return self.resnets[1](x, temb)
