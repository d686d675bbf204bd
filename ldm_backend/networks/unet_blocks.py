"""The levels of the UNet, and its time embedding. Attribute names are diffusers' UNet2DModel keys."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import silu

from .layers import Downsample, Layers, MakeAttention, ResnetBlock, TimeInput, Upsample


class TimeEmbedding(nn.Module):
    """Two linear layers on top of the sinusoids."""

    def __init__(self, layers: Layers, in_channels: int) -> None:
        super().__init__()
        channels = 4 * in_channels
        self.linear_1: Any = layers.linear(in_channels, channels)
        self.linear_2 = layers.linear(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        """Map sinusoids (N, C) of any format to the embedding (N, 4 C) in that of the weights."""
        return self.linear_2(silu(self.linear_1(x.to(self.linear_1.weight.dtype))))


class DownBlock(nn.Module):
    """One level on the way down; appends each output to the skips.

    Args:
        layers: Settings of the network.
        inputs: C_in of each resnet.
        channels: C_out.
        attention: Makes the attention after each resnet, if there is one.
        shrink: How the level ends: "conv", "resnet" or, for the coarsest, None.
        pad_both_sides: Of the convolution that ends it.
    """

    def __init__(
        self,
        layers: Layers,
        inputs: list[int],
        channels: int,
        attention: MakeAttention | None,
        shrink: str | None,
        pad_both_sides: bool,
    ) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(ResnetBlock(layers, c, channels) for c in inputs)
        self.attentions = nn.ModuleList(attention(channels) for _ in inputs if attention)
        self.downsamplers = nn.ModuleList()
        if shrink == "conv":
            self.downsamplers.append(Downsample(layers, channels, pad_both_sides))
        elif shrink == "resnet":
            self.downsamplers.append(ResnetBlock(layers, channels, channels, resample="down"))

    def forward(self, h: Tensor, temb: TimeInput, skips: list[Tensor], context: Tensor | None = None) -> Tensor:
        """Map (N, C_in, H, W) to the level's output, and append each intermediate to `skips`."""
        return self.shrink(self.process(h, temb, skips, context), temb, skips)

    def process(self, h: Tensor, temb: TimeInput, skips: list[Tensor], context: Tensor | None = None) -> Tensor:
        """Run the resnets and attentions, which keep height and width; the context (N, tokens, D) is for the latter."""
        for index, resnet in enumerate(self.resnets):
            h = resnet(h, temb)
            if self.attentions:
                h = self.attentions[index](h, context)
            skips.append(h)
        return h

    def shrink(self, h: Tensor, temb: TimeInput, skips: list[Tensor]) -> Tensor:
        """Halve height and width; the coarsest level returns `h` as it is."""
        for downsample in self.downsamplers:
            h = downsample(h, temb)
            skips.append(h)
        return h


class UpBlock(nn.Module):
    """One level on the way up; takes one skip for each resnet, last in first out.

    Args:
        layers: Settings of the network.
        inputs: C_in of each resnet, its skip included.
        channels: C_out.
        attention: Makes the attention after each resnet, if there is one.
        grow: How the level ends: "conv", "resnet" or, for the finest, None.
    """

    def __init__(
        self,
        layers: Layers,
        inputs: list[int],
        channels: int,
        attention: MakeAttention | None,
        grow: str | None,
    ) -> None:
        super().__init__()
        self.resnets = nn.ModuleList(ResnetBlock(layers, c, channels) for c in inputs)
        self.attentions = nn.ModuleList(attention(channels) for _ in inputs if attention)
        self.upsamplers = nn.ModuleList()
        if grow == "conv":
            self.upsamplers.append(Upsample(layers, channels))
        elif grow == "resnet":
            self.upsamplers.append(ResnetBlock(layers, channels, channels, resample="up"))

    def forward(self, h: Tensor, temb: TimeInput, skips: list[Tensor], context: Tensor | None = None) -> Tensor:
        """Map (N, C_in, H, W) to the level's output, taking its skips off the end of `skips`."""
        for index, resnet in enumerate(self.resnets):
            h = resnet(torch.cat([h, skips.pop()], dim=1), temb)
            if self.attentions:
                h = self.attentions[index](h, context)
        for upsample in self.upsamplers:
            h = upsample(h, temb)
        return h
