"""Tokens of a text to what the UNet attends to. Attribute names are the keys of diffusers' LDMBertModel below `model.`.

Source: CompVis BERTEmbedder (ldm/modules/encoders/modules.py:80-101) and ldm/modules/x_transformer.py. It is a pre-norm
transformer over the vocabulary of BERT, not BERT. Tokens that fill a text up are attended to like all others.
"""

from __future__ import annotations

from typing import Any

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import gelu, scaled_dot_product_attention

from ...config.conditioning import TextConfig
from ...errors import InputError


class TextEncoder(nn.Module):
    """Embeddings of tokens and of their places, layers of attention and feed-forward, and a norm.

    Args:
        config: Vocabulary, length, width and layers.
        operations: Namespace that provides the layers with weights.
        dtype, device: Of the weights; device "meta" builds without memory.
    """

    def __init__(
        self,
        config: TextConfig,
        operations: Any = nn,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        factory = {"dtype": dtype, "device": device}
        self.embed_tokens = operations.Embedding(config.vocab_size, config.embed_dim, **factory)
        self.embed_positions = operations.Embedding(config.max_tokens, config.embed_dim, **factory)
        self.layers = nn.ModuleList(_Layer(config, operations, factory) for _ in range(config.layers))
        self.layer_norm = operations.LayerNorm(config.embed_dim, **factory)

    def forward(self, tokens: Tensor) -> Tensor:
        """Encode.

        Args:
            tokens: (N, T) whole numbers below the size of the vocabulary, T at most as many as the model knows.

        Returns:
            (N, T, D) in the format of the weights.

        Raises:
            InputError: Not such tokens.
        """
        self._check(tokens)
        places = torch.arange(tokens.shape[1], device=tokens.device)
        h = self.embed_tokens(tokens) + self.embed_positions(places)
        for layer in self.layers:
            h = layer(h)
        return self.layer_norm(h)

    def _check(self, tokens: Tensor) -> None:
        most, words = self.config.max_tokens, self.config.vocab_size
        if tokens.ndim != 2 or tokens.is_floating_point() or not 1 <= tokens.shape[1] <= most:
            raise InputError(
                f"tokens are {tokens.dtype} of shape {tuple(tokens.shape)}; expected whole numbers (N, 1 to {most})."
            )
        low, high = (int(end) for end in tokens.aminmax()) if len(tokens) else (0, 0)
        if low < 0 or high >= words:
            raise InputError(
                f"tokens reach from {low} to {high}; expected 0 to {words - 1}. Take the vocabulary of this model."
            )


class _Layer(nn.Module):
    """Attention among the tokens and a feed-forward; a norm before each, and a residual connection around."""

    def __init__(self, config: TextConfig, operations: Any, factory: dict[str, Any]) -> None:
        super().__init__()
        width, wide = config.embed_dim, 4 * config.embed_dim
        self.self_attn_layer_norm = operations.LayerNorm(width, **factory)
        self.self_attn = _Attention(config, operations, factory)
        self.final_layer_norm = operations.LayerNorm(width, **factory)
        self.fc1 = operations.Linear(width, wide, **factory)
        self.fc2 = operations.Linear(wide, width, **factory)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, T, D) to the same shape."""
        x = x + self.self_attn(self.self_attn_layer_norm(x))
        return x + self.fc2(gelu(self.fc1(self.final_layer_norm(x))))


class _Attention(nn.Module):
    """Among all tokens, in heads whose width does not follow from that of the tokens."""

    def __init__(self, config: TextConfig, operations: Any, factory: dict[str, Any]) -> None:
        super().__init__()
        self.heads, inner = config.heads, config.heads * config.head_dim
        self.q_proj, self.k_proj, self.v_proj = (
            operations.Linear(config.embed_dim, inner, bias=False, **factory) for _ in range(3)
        )
        self.out_proj = operations.Linear(inner, config.embed_dim, **factory)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, T, D) to the same shape."""
        q, k, v = (
            rearrange(projection(x), "n tokens (heads d) -> n heads tokens d", heads=self.heads)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        h = scaled_dot_product_attention(q, k, v)
        return self.out_proj(rearrange(h, "n heads tokens d -> n tokens (heads d)"))
