"""The first stage with a codebook, VQ-f4: images to latents and back. Attribute names are diffusers' VQModel keys.

Source: CompVis VQModelInterface (ldm/models/autoencoder.py:264-282): encoding does not quantise, decoding does.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ..config.model import VQConfig
from ..kernels.fp32 import in_fp32
from .autoencoder import Decoder, Encoder, check_image, check_latent, first_stage_layers

_ROWS = 1024  # latent cells compared with the codebook at once: 32 MB of distances at 8192 codes


class VQModel(nn.Module):
    """Encoder, codebook and decoder.

    Args:
        config: Widths, levels, codebook size.
        operations: Namespace that provides the layers with weights.
        dtype, device: Of the weights; device "meta" builds without memory.
    """

    def __init__(
        self,
        config: VQConfig,
        operations: Any = nn,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        layers = first_stage_layers(config, operations, dtype, device)
        self.encoder = Encoder(layers, config, config.latent_channels)
        self.quant_conv = layers.conv(config.latent_channels, config.vq_embed_dim, kernel=1, padding=0)
        self.quantize = Codebook(layers, config.num_vq_embeddings, config.vq_embed_dim)
        self.post_quant_conv = layers.conv(config.vq_embed_dim, config.latent_channels, kernel=1, padding=0)
        self.decoder = Decoder(layers, config)

    @property
    def downscale(self) -> int:
        """Pixels a latent cell covers along one side."""
        return self.config.downscale

    @property
    def dtype(self) -> torch.dtype:
        """Format of the arithmetic in encoder and decoder; what is around them may have a longer one."""
        return self.decoder.dtype

    @in_fp32
    def encode(self, x: Tensor) -> Tensor:
        """Encode images without quantising; the diffusion model is trained on these latents.

        Args:
            x: (N, 3, H, W) in [-1, 1], H and W multiples of `downscale`.

        Returns:
            (N, C, H / downscale, W / downscale) latents z.

        Raises:
            InputError: Another number of channels, or H, W no multiple of `downscale`.
        """
        check_image(x, self.config)
        return self.quant_conv(self.encoder(x)) * self.config.scale_factor

    @in_fp32
    def decode(self, z: Tensor, quantize: bool = True) -> Tensor:
        """Decode latents.

        Args:
            z: (N, C, h, w) latents.
            quantize: Replace each latent cell by its nearest code first, as the reference does.

        Returns:
            (N, 3, h * downscale, w * downscale), about [-1, 1], not clamped.

        Raises:
            InputError: Another number of latent channels.
        """
        return self.decoder(self.decoder_input(z, quantize))

    @in_fp32
    def decoder_input(self, z: Tensor, quantize: bool = True) -> Tensor:
        """What the decoder turns into an image: arguments, shape and errors of `decode` but (N, C, h, w) returned."""
        check_latent(z, self.config)
        z = z / self.config.scale_factor
        if quantize:
            z = self.quantize(z)[0]
        return self.post_quant_conv(z)


class Codebook(nn.Module):
    """Nearest-code lookup, always in IEEE float32: a code that flips is a visible change."""

    def __init__(self, layers: Any, codes: int, dim: int) -> None:
        super().__init__()
        self.embedding = layers.operations.Embedding(codes, dim, **layers.factory)

    @in_fp32
    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Quantise.

        Args:
            z: (N, C, h, w) latents of the first stage.

        Returns:
            z_q like z, and the int64 indices of the codes (N, h, w).
        """
        codes = self.embedding.weight.to(z.device, torch.float32)
        cells = z.movedim(1, -1)  # (N, h, w, C)
        rows = cells.reshape(-1, z.shape[1]).float()
        # cdist, not an own formula: its rounding decides near-ties, and the reference decides them with cdist. It takes
        # a matrix product, which a host may have allowed to round its inputs; not here.
        # Written in place: a small result of each turn, kept between large ones, would leave the heap full of holes.
        indices = torch.empty(rows.shape[0], dtype=torch.int64, device=z.device)
        for chunk, part in zip(rows.split(_ROWS), indices.split(_ROWS), strict=True):
            part.copy_(torch.cdist(chunk, codes).argmin(dim=1))
        z_q = codes[indices].to(z.dtype).view(cells.shape).movedim(-1, 1).contiguous()
        return z_q, indices.view(cells.shape[:-1])
