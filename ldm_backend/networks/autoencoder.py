"""Encoder and decoder that both kinds of first stage share. Attribute names are the diffusers checkpoint keys."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..config.model import FirstStageConfig
from ..errors import InputError, short_repr
from ..kernels.fast_norm import group_norm
from ..kernels.weight_forms import in_forms
from .layers import Attention, Downsample, Layers, MidBlock, ResnetBlock, Upsample

_EPS = 1e-6  # of every GroupNorm in a first stage (CompVis model.py:38); the UNet has 1e-5


def first_stage_layers(
    config: FirstStageConfig,
    operations: Any,
    dtype: torch.dtype | None,
    device: torch.device | str | None,
) -> Layers:
    """Layers of a first stage: attention with a single head, and no time embedding."""
    return Layers(
        operations,
        config.norm_num_groups,
        _EPS,
        head_dim=lambda channels: channels,
        factory={"dtype": dtype, "device": device},
    )


class Encoder(nn.Module):
    """Image to latent.

    Args:
        layers: Settings of the network.
        config: Widths and levels.
        out_channels: Latent channels, twice as many where mean and log variance are predicted.
    """

    def __init__(self, layers: Layers, config: FirstStageConfig, out_channels: int) -> None:
        super().__init__()
        channels = config.block_out_channels
        self.conv_in = layers.conv(config.in_channels, channels[0])
        self.down_blocks = nn.ModuleList()
        for level, width in enumerate(channels):
            inputs = [channels[max(level - 1, 0)]] + [width] * (config.layers_per_block - 1)
            block = Level(layers, inputs, width, attended=level in config.encoder_attention)
            if level < len(channels) - 1:
                block.downsamplers.append(Downsample(layers, width, pad_both_sides=False))
            self.down_blocks.append(block)
        self.mid_block = MidBlock(
            layers, channels[-1], partial(Attention, layers) if config.mid_block_add_attention else None
        )
        self.conv_norm_out = layers.norm(channels[-1])
        self.conv_out = layers.conv(channels[-1], out_channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map images (N, 3, H, W) to (N, out_channels, H / downscale, W / downscale), in the format of the images."""
        with in_forms(self, x):
            h = self.conv_in(x.to(self.conv_in.weight.dtype))
            for layer in _layers(self.down_blocks):
                h = layer(h)
            return self.conv_out(group_norm(self.conv_norm_out, self.mid_block(h), activate=True)).to(x.dtype)


class Decoder(nn.Module):
    """Latent to image; one resnet more at each level than the encoder.

    Args:
        layers: Settings of the network.
        config: Widths and levels.
    """

    def __init__(self, layers: Layers, config: FirstStageConfig) -> None:
        super().__init__()
        channels = config.block_out_channels[::-1]  # coarsest first
        self.conv_in = layers.conv(config.latent_channels, channels[0])
        self.mid_block = MidBlock(
            layers, channels[0], partial(Attention, layers) if config.mid_block_add_attention else None
        )
        self.up_blocks = nn.ModuleList()
        for level, width in enumerate(channels):
            inputs = [channels[max(level - 1, 0)]] + [width] * config.layers_per_block
            block = Level(layers, inputs, width, attended=len(channels) - 1 - level in config.decoder_attention)
            if level < len(channels) - 1:
                block.upsamplers.append(Upsample(layers, width))
            self.up_blocks.append(block)
        self.conv_norm_out = layers.norm(channels[-1])
        self.conv_out = layers.conv(channels[-1], config.out_channels)

    @property
    def dtype(self) -> torch.dtype:
        """Format of the arithmetic, see `precision`."""
        return self.conv_in.weight.dtype

    def forward(self, z: Tensor) -> Tensor:
        """Map (N, C, h, w) to images (N, 3, h * downscale, w * downscale), in the format of `z`."""
        with in_forms(self, z):
            h = self.mid_block(self.conv_in(z.to(self.dtype)))
            for layer in _layers(self.up_blocks):
                h = layer(h)
            return self.conv_out(group_norm(self.conv_norm_out, h, activate=True)).to(z.dtype)


class Level(nn.Module):
    """The resnets of one resolution, then the change of resolution that its owner adds, if any.

    Args:
        layers: Settings of the network.
        inputs: Channels that each resnet reads.
        channels: That each writes.
        attended: An attention follows each resnet.
    """

    def __init__(self, layers: Layers, inputs: list[int], channels: int, attended: bool) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(ResnetBlock(layers, c, channels) for c in inputs)
        self.attentions = nn.ModuleList(Attention(layers, channels) for _ in inputs if attended)
        self.downsamplers = nn.ModuleList()
        self.upsamplers = nn.ModuleList()

    def layers(self) -> Iterator[nn.Module]:
        """In the order in which they run.

        Not called from here, so that what one has read is given back before the next one runs.
        """
        for index, resnet in enumerate(self.resnets):
            yield resnet
            yield from self.attentions[index : index + 1]
        yield from self.downsamplers
        yield from self.upsamplers


def _layers(levels: Iterable[Any]) -> Iterator[nn.Module]:
    for level in levels:
        yield from level.layers()


def check_image(x: Tensor, config: FirstStageConfig) -> None:
    """Raise InputError unless `x` is (N, 3, H, W) with H and W multiples of the downscale."""
    step = config.downscale
    if x.ndim != 4 or x.shape[1] != config.in_channels or x.shape[2] % step or x.shape[3] % step:
        raise InputError(
            f"The image tensor has shape {tuple(x.shape)}; expected (N, {config.in_channels}, H, W), multiples of "
            f"{step}. Crop or resize the image first."
        )


def check_latent(z: Tensor, config: FirstStageConfig) -> None:
    """Raise InputError unless `z` is (N, C, h, w) with this first stage's number of channels."""
    if not isinstance(z, Tensor) or z.ndim != 4 or z.shape[1] != config.z_channels:
        found = f"has shape {tuple(z.shape)}" if isinstance(z, Tensor) else f"is {short_repr(z)}"
        raise InputError(
            f"The latent {found}; this first stage expects (N, {config.z_channels}, H, W). A latent "
            "of another model family does not fit: take one that a sampler made with this model."
        )
