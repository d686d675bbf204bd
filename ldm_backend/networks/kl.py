"""The first stage with a Gaussian posterior, KL-f8 (LSUN-Churches). Attribute names are diffusers' AutoencoderKL keys.

Source: CompVis AutoencoderKL (ldm/models/autoencoder.py:285-352).
"""

from __future__ import annotations

from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from ..config.model import KLConfig
from ..errors import InputError
from ..kernels.fp32 import in_fp32
from .autoencoder import Decoder, Encoder, check_image, check_latent, first_stage_layers


class KLModel(nn.Module):
    """Encoder and decoder; latents of the diffusion model are `scale_factor` times those of the networks.

    Args:
        config: Widths, levels, scale factor.
        operations: Namespace that provides the layers with weights.
        dtype, device: Of the weights; device "meta" builds without memory.
    """

    def __init__(
        self,
        config: KLConfig,
        operations: Any = nn,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        layers = first_stage_layers(config, operations, dtype, device)
        self.encoder = Encoder(layers, config, 2 * config.latent_channels)
        # Mean and log variance.
        self.quant_conv = layers.conv(2 * config.latent_channels, 2 * config.z_channels, kernel=1, padding=0)
        self.post_quant_conv = layers.conv(config.z_channels, config.latent_channels, kernel=1, padding=0)
        self.decoder = Decoder(layers, config)

    @property
    def downscale(self) -> int:
        """Pixels a latent cell covers along one side."""
        return self.config.downscale

    @property
    def dtype(self) -> torch.dtype:
        """Format of the arithmetic in encoder and decoder; what is around them may have a longer one."""
        return self.decoder.dtype

    def codebook(self) -> NoReturn:
        """Raise InputError: there is none."""
        raise InputError(
            "This first stage is a KL autoencoder: its latents are continuous and there are no codes to show. Take a "
            "model with a codebook (VQ-f4), such as CelebA-HQ, FFHQ or LSUN-Bedrooms."
        )

    def spread_latents(self, count: int) -> Tensor:
        """Latent cells of all kinds, (count, C) float32 on the CPU: normal draws, always the same ones."""
        return torch.randn((self.config.z_channels, count), generator=torch.Generator().manual_seed(0)).T

    @in_fp32
    def encode(self, x: Tensor) -> Tensor:
        """Encode images to the posterior's mean, so that the same image always has the same latent.

        Args:
            x: (N, 3, H, W) in [-1, 1], H and W multiples of `downscale`.

        Returns:
            (N, C, H / downscale, W / downscale) latents z, scaled.

        Raises:
            InputError: Another number of channels, or H, W no multiple of `downscale`.
        """
        check_image(x, self.config)
        mean, _log_variance = self.quant_conv(self.encoder(x)).chunk(2, dim=1)
        return mean * self.config.scale_factor

    @in_fp32
    def decode(self, z: Tensor) -> Tensor:
        """Decode latents.

        Args:
            z: (N, C, h, w) latents, scaled.

        Returns:
            (N, 3, h * downscale, w * downscale), about [-1, 1], not clamped.

        Raises:
            InputError: Another number of latent channels.
        """
        return self.decoder(self.decoder_input(z))

    @in_fp32
    def decoder_input(self, z: Tensor) -> Tensor:
        """What the decoder turns into an image, (N, C, h, w); latents and errors as for `decode`."""
        check_latent(z, self.config)
        return self.post_quant_conv(z / self.config.scale_factor)
