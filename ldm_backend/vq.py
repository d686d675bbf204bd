"""The first stage VQ-f4: images to latents and back. Attribute names are diffusers' VQModel keys.

Source: CompVis VQModelInterface (ldm/models/autoencoder.py:264-282): encoding does not quantise, decoding does.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from .config import VQConfig
from .errors import InputError
from .layers import Downsample, MidBlock, ResnetBlock, Upsample

_EPS = 1e-6  # of every GroupNorm in the first stage (CompVis model.py:38); the UNet has 1e-5
_ROWS = 1024  # latent cells compared with the codebook at once: 32 MB of distances at 8192 codes


class VQModel(nn.Module):
    """Encoder, codebook and decoder.

    Args:
        config: widths, levels, codebook size.
        operations: namespace that provides the layers with weights.
        dtype, device: of the weights; device "meta" builds without memory.
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
        factory = {"dtype": dtype, "device": device}
        self.encoder = Encoder(config, operations, **factory)
        self.quant_conv = operations.Conv2d(config.latent_channels, config.vq_embed_dim, 1, **factory)
        self.quantize = Codebook(config.num_vq_embeddings, config.vq_embed_dim, operations, **factory)
        self.post_quant_conv = operations.Conv2d(config.vq_embed_dim, config.latent_channels, 1, **factory)
        self.decoder = Decoder(config, operations, **factory)

    @property
    def downscale(self) -> int:
        """Pixels a latent cell covers along one side."""
        return self.config.downscale

    def encode(self, x: Tensor) -> Tensor:
        """Encode images without quantising; the diffusion model is trained on these latents.

        Args:
            x: (N, 3, H, W) in [-1, 1], H and W multiples of `downscale`.
        Returns: (N, C, H / downscale, W / downscale) latents z.
        Raises: InputError: another number of channels, or H, W no multiple of `downscale`.
        """
        channels, step = self.config.in_channels, self.downscale
        if x.ndim != 4 or x.shape[1] != channels or x.shape[2] % step or x.shape[3] % step:
            raise InputError(
                f"The image tensor has shape {tuple(x.shape)}; expected (N, {channels}, H, W), multiples of {step}. "
                "Crop or resize the image first."
            )
        return self.quant_conv(self.encoder(x))

    def decode(self, z: Tensor, quantize: bool = True) -> Tensor:
        """Decode latents.

        Args:
            z: (N, C, h, w) latents.
            quantize: replace each latent cell by its nearest code first, as the reference does.
        Returns: (N, 3, h * downscale, w * downscale), about [-1, 1], not clamped.
        Raises: InputError: another number of latent channels.
        """
        channels = self.config.vq_embed_dim
        if z.ndim != 4 or z.shape[1] != channels:
            raise InputError(
                f"The latent has shape {tuple(z.shape)}; this first stage expects (N, {channels}, H, W). A latent of "
                "another model family does not fit."
            )
        if quantize:
            z = self.quantize(z)[0]
        return self.decoder(self.post_quant_conv(z))


class Codebook(nn.Module):
    """Nearest-code lookup, always in float32: a code that flips is a visible change."""

    def __init__(self, codes: int, dim: int, operations: Any, **factory: Any) -> None:
        super().__init__()
        self.embedding = operations.Embedding(codes, dim, **factory)

    def forward(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Quantise.

        Args:
            z: (N, C, h, w) latents.
        Returns: z_q like z, and the int64 indices of the codes (N, h, w).
        """
        codes = self.embedding.weight.to(z.device, torch.float32)
        cells = z.movedim(1, -1)  # (N, h, w, C)
        rows = cells.reshape(-1, z.shape[1]).float()
        # cdist, not an own formula: its rounding decides near-ties, and the reference decides them with cdist.
        indices = torch.cat([torch.cdist(chunk, codes).argmin(dim=1) for chunk in rows.split(_ROWS)])
        z_q = codes[indices].to(z.dtype).view(cells.shape).movedim(-1, 1).contiguous()
        return z_q, indices.view(cells.shape[:-1])


class Encoder(nn.Module):
    """Image to latent."""

    def __init__(self, config: VQConfig, operations: Any, **factory: Any) -> None:
        super().__init__()
        channels, groups = config.block_out_channels, config.norm_num_groups
        self.conv_in = operations.Conv2d(config.in_channels, channels[0], 3, padding=1, **factory)
        self.down_blocks = nn.ModuleList()
        for level, width in enumerate(channels):
            inputs = [channels[max(level - 1, 0)]] + [width] * (config.layers_per_block - 1)
            block = Level(inputs, width, groups, operations, **factory)
            if level < len(channels) - 1:
                block.downsamplers = nn.ModuleList([Downsample(width, operations, pad_both_sides=False, **factory)])
            self.down_blocks.append(block)
        self.mid_block = MidBlock(channels[-1], channels[-1], groups, _EPS, operations, **factory)
        self.conv_norm_out = operations.GroupNorm(groups, channels[-1], eps=_EPS, **factory)
        self.conv_out = operations.Conv2d(channels[-1], config.latent_channels, 3, padding=1, **factory)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, 3, H, W) to (N, C, H / downscale, W / downscale)."""
        h = self.conv_in(x)
        for block in self.down_blocks:
            h = block(h)
        return self.conv_out(silu(self.conv_norm_out(self.mid_block(h))))


class Decoder(nn.Module):
    """Latent to image; one resnet more at each level than the encoder."""

    def __init__(self, config: VQConfig, operations: Any, **factory: Any) -> None:
        super().__init__()
        channels, groups = config.block_out_channels[::-1], config.norm_num_groups  # coarsest first
        self.conv_in = operations.Conv2d(config.latent_channels, channels[0], 3, padding=1, **factory)
        self.mid_block = MidBlock(channels[0], channels[0], groups, _EPS, operations, **factory)
        self.up_blocks = nn.ModuleList()
        for level, width in enumerate(channels):
            inputs = [channels[max(level - 1, 0)]] + [width] * config.layers_per_block
            block = Level(inputs, width, groups, operations, **factory)
            if level < len(channels) - 1:
                block.upsamplers = nn.ModuleList([Upsample(width, operations, **factory)])
            self.up_blocks.append(block)
        self.conv_norm_out = operations.GroupNorm(groups, channels[-1], eps=_EPS, **factory)
        self.conv_out = operations.Conv2d(channels[-1], config.out_channels, 3, padding=1, **factory)

    def forward(self, z: Tensor) -> Tensor:
        """Map (N, C, h, w) to images (N, 3, h * downscale, w * downscale)."""
        h = self.mid_block(self.conv_in(z))
        for block in self.up_blocks:
            h = block(h)
        return self.conv_out(silu(self.conv_norm_out(h)))


class Level(nn.Module):
    """The resnets of one resolution, then the change of resolution that its owner adds, if any."""

    def __init__(self, inputs: list[int], channels: int, groups: int, operations: Any, **factory: Any) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(ResnetBlock(c, channels, groups, _EPS, operations, **factory) for c in inputs)
        self.downsamplers: nn.ModuleList = nn.ModuleList()
        self.upsamplers: nn.ModuleList = nn.ModuleList()

    def forward(self, h: Tensor) -> Tensor:
        """Map (N, C_in, H, W) to (N, C, H, W), halved or doubled where the level ends so."""
        for layer in (*self.resnets, *self.downsamplers, *self.upsamplers):
            h = layer(h)
        return h
