"""The denoiser: predicts the noise in a latent at a timestep. Attribute names are diffusers' UNet2DModel keys."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from .config import UNetConfig
from .errors import InputError
from .layers import Attention, Downsample, MidBlock, ResnetBlock, Upsample, timestep_embedding


class UNet(nn.Module):
    """Convolutional UNet with self-attention at the coarser levels (LDM paper, appendix E).

    Args:
        config: widths, levels, heads.
        operations: namespace that provides the layers with weights.
        dtype, device: of the weights; device "meta" builds without memory.
    """

    def __init__(
        self,
        config: UNetConfig,
        operations: Any = nn,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        factory = {"dtype": dtype, "device": device}
        channels = config.block_out_channels
        temb_channels = 4 * channels[0]
        self.conv_in = operations.Conv2d(config.in_channels, channels[0], 3, padding=1, **factory)
        self.time_embedding = TimeEmbedding(channels[0], temb_channels, operations, **factory)
        self.down_blocks = nn.ModuleList()
        previous = channels[0]
        for level, block_type in enumerate(config.down_block_types):
            last = level == len(channels) - 1
            block = DownBlock(previous, channels[level], config, "Attn" in block_type, not last, operations, **factory)
            self.down_blocks.append(block)
            previous = channels[level]
        self.mid_block = MidBlock(
            previous,
            config.attention_head_dim,
            config.norm_num_groups,
            config.norm_eps,
            operations,
            temb_channels,
            **factory,
        )
        self.up_blocks = nn.ModuleList()
        for index, block_type in enumerate(config.up_block_types):
            level = len(channels) - 1 - index
            skip_end = channels[max(level - 1, 0)]  # the last skip of a level comes from the next finer level
            block = UpBlock(
                previous, channels[level], skip_end, config, "Attn" in block_type, level > 0, operations, **factory
            )
            self.up_blocks.append(block)
            previous = channels[level]
        self.conv_norm_out = operations.GroupNorm(config.norm_num_groups, channels[0], eps=config.norm_eps, **factory)
        self.conv_out = operations.Conv2d(channels[0], config.out_channels, 3, padding=1, **factory)

    @property
    def size_multiple(self) -> int:
        """Height and width of a latent must be multiples of this (8 for CelebA-HQ), or the skips do not fit."""
        return 2 ** (len(self.config.block_out_channels) - 1)

    def check_input(self, shape: tuple[int, ...] | torch.Size) -> None:
        """Raise InputError if a latent of this shape cannot pass, with the nearest shape that can."""
        multiple, channels = self.size_multiple, self.config.in_channels
        if len(shape) != 4 or shape[1] != channels:
            raise InputError(
                f"The latent has shape {tuple(shape)}; this model expects (N, {channels}, H, W). A latent of another "
                "model family does not fit: make it with LDM Latent Noise, or encode an image with this model's VAE."
            )
        height, width = shape[2:]
        if height % multiple or width % multiple or not height or not width:
            nearest = [max(multiple, round(side / multiple) * multiple) for side in (height, width)]
            raise InputError(
                f"The latent is {height}x{width}; this model needs multiples of {multiple}. "
                f"The nearest size is {nearest[0]}x{nearest[1]} ({nearest[0] * 4}x{nearest[1] * 4} pixels for VQ-f4)."
            )

    def forward(self, x: Tensor, t: Tensor | float) -> Tensor:
        """Predict eps.

        Args:
            x: (N, C, H, W) noisy latents x_t.
            t: timestep 0..T-1, a number, a scalar tensor, or one per image (N,).
        Returns: (N, C, H, W) predicted noise, dtype of `x`.
        Raises: InputError: wrong number of channels, or H, W no multiple of `size_multiple`.
        """
        self.check_input(x.shape)
        # 1. time
        t = torch.as_tensor(t, device=x.device).reshape(-1).expand(x.shape[0])
        temb = self.time_embedding(timestep_embedding(t, self.config.block_out_channels[0]).to(x.dtype))
        # 2. down, keeping every intermediate for the way up
        h = self.conv_in(x)
        skips = [h]
        for block in self.down_blocks:
            h = block(h, temb, skips)
        # 3. middle
        h = self.mid_block(h, temb)
        # 4. up
        for block in self.up_blocks:
            h = block(h, temb, skips)
        # 5. out
        return self.conv_out(silu(self.conv_norm_out(h)))


class TimeEmbedding(nn.Module):
    """Two linear layers on top of the sinusoids."""

    def __init__(self, in_channels: int, channels: int, operations: Any, **factory: Any) -> None:
        super().__init__()
        self.linear_1 = operations.Linear(in_channels, channels, **factory)
        self.linear_2 = operations.Linear(channels, channels, **factory)

    def forward(self, x: Tensor) -> Tensor:
        """Map sinusoids (N, C) to the embedding (N, 4 C)."""
        return self.linear_2(silu(self.linear_1(x)))


class DownBlock(nn.Module):
    """One level on the way down; appends each output to the skips."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        config: UNetConfig,
        attention: bool,
        downsample: bool,
        operations: Any,
        **factory: Any,
    ) -> None:
        super().__init__()
        groups, eps, temb_channels = config.norm_num_groups, config.norm_eps, 4 * config.block_out_channels[0]
        inputs = [in_channels] + [channels] * (config.layers_per_block - 1)
        self.resnets = nn.ModuleList(
            ResnetBlock(c, channels, groups, eps, operations, temb_channels, **factory) for c in inputs
        )
        self.attentions = nn.ModuleList()
        if attention:
            self.attentions.extend(
                Attention(channels, config.attention_head_dim, groups, eps, operations, **factory) for _ in inputs
            )
        self.downsamplers = nn.ModuleList()
        if downsample:
            self.downsamplers.append(Downsample(channels, operations, pad_both_sides=True, **factory))

    def forward(self, h: Tensor, temb: Tensor, skips: list[Tensor]) -> Tensor:
        """Map (N, C_in, H, W) to the level's output, and append each intermediate to `skips`."""
        for index, resnet in enumerate(self.resnets):
            h = resnet(h, temb)
            if self.attentions:
                h = self.attentions[index](h)
            skips.append(h)
        for downsample in self.downsamplers:
            h = downsample(h)
            skips.append(h)
        return h


class UpBlock(nn.Module):
    """One level on the way up; takes one skip for each resnet, last in first out."""

    def __init__(
        self,
        in_channels: int,
        channels: int,
        skip_end: int,
        config: UNetConfig,
        attention: bool,
        upsample: bool,
        operations: Any,
        **factory: Any,
    ) -> None:
        super().__init__()
        groups, eps, temb_channels = config.norm_num_groups, config.norm_eps, 4 * config.block_out_channels[0]
        layers = config.layers_per_block + 1
        skips = [channels] * (layers - 1) + [skip_end]
        inputs = [in_channels] + [channels] * (layers - 1)
        self.resnets = nn.ModuleList(
            ResnetBlock(c + skip, channels, groups, eps, operations, temb_channels, **factory)
            for c, skip in zip(inputs, skips, strict=True)
        )
        self.attentions = nn.ModuleList()
        if attention:
            self.attentions.extend(
                Attention(channels, config.attention_head_dim, groups, eps, operations, **factory) for _ in inputs
            )
        self.upsamplers = nn.ModuleList()
        if upsample:
            self.upsamplers.append(Upsample(channels, operations, **factory))

    def forward(self, h: Tensor, temb: Tensor, skips: list[Tensor]) -> Tensor:
        """Map (N, C_in, H, W) to the level's output, taking its skips off the end of `skips`."""
        for index, resnet in enumerate(self.resnets):
            h = resnet(torch.cat([h, skips.pop()], dim=1), temb)
            if self.attentions:
                h = self.attentions[index](h)
        for upsample in self.upsamplers:
            h = upsample(h)
        return h
