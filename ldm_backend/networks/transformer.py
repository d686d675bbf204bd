"""Attention to a context, in the place of the UNet's plain attention. Attribute names are CompVis' and diffusers' keys.

Source: CompVis ldm/modules/attention.py:152-261. Its norm over the picture has an eps of its own, not the UNet's.
"""

from __future__ import annotations

from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import gelu

from ..kernels.fast_norm import group_norm
from .layers import Layers, attended

_EPS = 1e-6  # attention.py:77
_WIDER = 4  # how much wider the middle of a feed-forward is


class SpatialTransformer(nn.Module):
    """Attention among the H*W positions and of each to a context, with a residual connection.

    Args:
        layers: Settings of the network.
        channels: C.
        context_channels: D, width of the context's tokens.
        depth: Blocks one after the other.
    """

    def __init__(self, layers: Layers, channels: int, context_channels: int, depth: int) -> None:
        super().__init__()
        self.norm = layers.norm(channels, eps=_EPS)
        self.proj_in = layers.conv(channels, channels, kernel=1, padding=0)
        self.transformer_blocks = nn.ModuleList(
            TransformerBlock(layers, channels, context_channels) for _ in range(depth)
        )
        self.proj_out = layers.conv(channels, channels, kernel=1, padding=0)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """Map (N, C, H, W), with the context (N, tokens, D), to the same shape."""
        tokens = rearrange(self.proj_in(group_norm(self.norm, x, activate=False)), "n c h w -> n (h w) c")
        for block in self.transformer_blocks:
            tokens = block(tokens, context)
        return self.proj_out(rearrange(tokens, "n (h w) c -> n c h w", h=x.shape[2])).add_(x)


class TransformerBlock(nn.Module):
    """Self-attention, attention to the context, feed-forward; a norm before each, and a residual connection around."""

    def __init__(self, layers: Layers, channels: int, context_channels: int) -> None:
        super().__init__()
        self.norm1 = layers.token_norm(channels)
        self.attn1 = TokenAttention(layers, channels, channels)
        self.norm2 = layers.token_norm(channels)
        self.attn2 = TokenAttention(layers, channels, context_channels)
        self.norm3 = layers.token_norm(channels)
        self.ff = FeedForward(layers, channels)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """Map tokens (N, HW, C), with the context (N, tokens, D), to the same shape."""
        normed = self.norm1(x)
        x = x + self.attn1(normed, normed)
        x = x + self.attn2(self.norm2(x), context)
        return x + self.ff(self.norm3(x))


class TokenAttention(nn.Module):
    """Attention of tokens to others.

    Args:
        layers: Settings of the network.
        channels: C of the tokens.
        context_channels: D of the others.
    """

    def __init__(self, layers: Layers, channels: int, context_channels: int) -> None:
        super().__init__()
        self.head_dim = layers.head_dim(channels)
        self.to_q = layers.linear(channels, channels, bias=False)
        self.to_k = layers.linear(context_channels, channels, bias=False)
        self.to_v = layers.linear(context_channels, channels, bias=False)
        self.to_out = nn.ModuleList([layers.linear(channels, channels)])

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        """What tokens (N, HW, C) find in others (N, tokens, D): (N, HW, C), or (N, 1, C) that is the same for all."""
        if context.shape[1] == 1:  # a class: softmax over one is 1, whatever asks
            return self.to_out[0](self.to_v(context))
        projected = (self.to_q(x), self.to_k(context), self.to_v(context))
        q, k, v = (rearrange(part, "n tokens (heads d) -> n heads tokens d", d=self.head_dim) for part in projected)
        return self.to_out[0](rearrange(attended(q, k, v), "n heads tokens d -> n tokens (heads d)"))


class GatedLinear(nn.Module):
    """A linear layer, gated by the GELU of a second one (GEGLU, arXiv 2002.05202); both are in one product."""

    def __init__(self, layers: Layers, in_features: int, out_features: int) -> None:
        super().__init__()
        self.proj = layers.linear(in_features, 2 * out_features)

    def forward(self, x: Tensor) -> Tensor:
        """Map the last dimension."""
        values, gate = self.proj(x).chunk(2, dim=-1)
        return gelu(gate).mul_(values)


class FeedForward(nn.Module):
    """Two layers over each token alone."""

    def __init__(self, layers: Layers, channels: int) -> None:
        super().__init__()
        wide = _WIDER * channels
        # The second is the dropout of training, which has no weights but a number in the keys.
        self.net = nn.ModuleList([GatedLinear(layers, channels, wide), nn.Identity(), layers.linear(wide, channels)])

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, HW, C) to the same shape."""
        return self.net[2](self.net[0](x))
