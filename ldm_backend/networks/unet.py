"""The denoiser: predicts the noise in a latent at a timestep. Attribute names are the keys of diffusers' UNets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, silu

from ..config.model import UNetConfig
from ..errors import InputError
from ..kernels.compiled import Compiled
from ..kernels.cuda_graphs import CudaGraphs
from ..kernels.fast_conv import LARGE_TILE, SIDE
from ..kernels.fast_norm import group_norm
from ..kernels.fp32 import fp32
from ..kernels.weight_forms import Formed, WeightForms
from .layers import (
    Attention,
    Layers,
    MakeAttention,
    MidBlock,
    Projected,
    ResnetBlock,
    TimeInput,
    timestep_embedding,
)
from .transformer import SpatialTransformer
from .unet_blocks import DownBlock, TimeEmbedding, UpBlock


class UNet(Formed):
    """Convolutional UNet with attention at the coarser levels (LDM paper, appendix E), to a context in some models.

    Args:
        config: Widths, levels, heads.
        operations: Namespace that provides the layers with weights.
        dtype, device: Of the weights; device "meta" builds without memory.

    Attributes:
        tf32: Where the weights are float32, let cards compute in TF32.
        form: Weight and bias of all time projections in one product.
    """

    tf32 = False
    down_blocks: Any  # ModuleLists of DownBlock and UpBlock; a ModuleList does not tell a type checker its members
    up_blocks: Any

    def __init__(
        self,
        config: UNetConfig,
        operations: Any = nn,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        channels = config.block_out_channels
        layers = Layers(
            operations,
            config.norm_num_groups,
            config.norm_eps,
            config.head_dim,
            temb_channels=4 * channels[0],
            scale_shift=config.resnet_time_scale_shift == "scale_shift",
            keep=True,
            factory={"dtype": dtype, "device": device},
        )
        self.conv_in = layers.conv(config.in_channels, channels[0])
        self.time_embedding = TimeEmbedding(layers, channels[0])
        self.down_blocks = nn.ModuleList()
        previous = channels[0]
        attention, middle = _attentions(layers, config)
        both_sides = config.downsample_padding == 1
        for level, (block_type, shrink) in enumerate(zip(config.down_block_types, config.shrinks, strict=True)):
            inputs = [previous] + [channels[level]] * (config.layers_per_block - 1)
            attended = attention if "Attn" in block_type else None
            level_layers = _layers_of(level, layers, config)
            self.down_blocks.append(DownBlock(level_layers, inputs, channels[level], attended, shrink, both_sides))
            previous = channels[level]
        self.mid_block = MidBlock(layers, previous, middle)
        self.up_blocks = nn.ModuleList()
        for index, (block_type, grow) in enumerate(zip(config.up_block_types, config.grows, strict=True)):
            level = len(channels) - 1 - index
            width = channels[level]
            skips = [width] * config.layers_per_block + [channels[max(level - 1, 0)]]  # the last is of the finer level
            inputs = [c + skip for c, skip in zip([previous] + [width] * config.layers_per_block, skips, strict=True)]
            attended = attention if "Attn" in block_type else None
            level_layers = _layers_of(level, layers, config)
            self.up_blocks.append(UpBlock(level_layers, inputs, width, attended, grow))
            previous = width
        self.conv_norm_out = layers.norm(channels[0])
        self.conv_out = layers.conv(channels[0], config.out_channels)
        self.compiled: Compiled | None = None
        self._forms, self._graphs = WeightForms(), CudaGraphs()
        start = 0
        for resnet in self._resnets():
            resnet.columns = slice(start, start + resnet.time_emb_proj.out_features)
            start = resnet.columns.stop

    @property
    def dtype(self) -> torch.dtype:
        """Format of the arithmetic; the time embedding may have a longer one, see `precision`."""
        return self.conv_in.weight.dtype

    @property
    def size_multiple(self) -> int:
        """See `UNetConfig.size_multiple`."""
        return self.config.size_multiple

    def check_input(self, shape: tuple[int, ...] | torch.Size) -> None:
        """Raise InputError if a latent of this shape cannot pass, with the nearest shape that can."""
        multiple, channels = self.size_multiple, self.config.in_channels
        if len(shape) != 4 or shape[1] != channels:
            raise InputError(
                f"The latent has shape {tuple(shape)}; this model expects (N, {channels}, H, W). A latent of another "
                "model does not fit: connect this MODEL to LDM Latent Noise or LDM Empty Latent, or encode an "
                "image with its VAE."
            )
        height, width = shape[2:]
        if height % multiple or width % multiple or not height or not width:
            nearest = [max(multiple, round(side / multiple) * multiple) for side in (height, width)]
            raise InputError(
                f"The latent is {height}x{width}; this model needs multiples of {multiple}. "
                f"The nearest size is {nearest[0]}x{nearest[1]} ({nearest[0] * 4}x{nearest[1] * 4} pixels for VQ-f4)."
            )

    def check_context(self, context: Tensor | None, images: int) -> None:
        """Raise InputError unless this is what the network attends to, for so many images; None where it is nothing."""
        width = self.config.cross_attention_dim
        fits = context is not None and context.ndim == 3 and context.shape[::2] == (images, width) and context.shape[1]
        if (context is None) == (width is None) and (width is None or fits):
            return
        found = "none" if context is None else f"of shape {tuple(context.shape)}"
        wanted = "none: it attends to nothing" if width is None else f"({images}, tokens, {width})"
        raise InputError(
            f"The context is {found}; this UNet expects {wanted}. What the conditioning of the model makes fits it."
        )

    def forward(self, x: Tensor, t: Tensor | float, context: Tensor | None = None) -> Tensor:
        """Predict eps.

        Args:
            x: (N, C, H, W) noisy latents x_t.
            t: Timestep 0..T-1, a number, a scalar tensor, or one per image (N,).
            context: (N, tokens, D) that a network with `cross_attention_dim` D attends to; None for all others.

        Returns:
            (N, C, H, W) predicted noise, dtype of `x`.

        Raises:
            InputError: Wrong number of channels, H, W no multiple of `size_multiple`, or not the context.
        """
        self.check_input(x.shape)
        self.check_context(context, len(x))
        inputs = (x, one_per_image(t, x)) if context is None else (x, one_per_image(t, x), context)
        return self.run(self.compiled or UNet._evaluate, *inputs)

    def run(self, evaluate: Callable[..., Any], *inputs: Tensor) -> Any:
        """What `evaluate(self, *inputs)` returns, in this network's float32, and on a card in the ways that suit it.

        Args:
            evaluate: Reads tensors and returns tensors, and does nothing else; the same object at each call of a run.
            inputs: (N, ...), latents first.
        """
        with fp32(self.tf32):  # outside of what is compiled
            forms = self._forms.ready(self, inputs[0])
            if forms is None:
                return evaluate(self, *inputs)
            return self._graphs(evaluate, self, (forms, self.tf32), *inputs)

    def end_run(self) -> None:
        """Free what a run on a card needs beside the weights; the next one makes it anew."""
        self._graphs.clear()
        self._forms.clear(self)

    def make_form(self) -> None:
        """Join the time projections of all resnets."""
        layers = [resnet.time_emb_proj for resnet in self._resnets()]
        self.form = torch.cat([layer.weight for layer in layers]), torch.cat([layer.bias for layer in layers])

    def _resnets(self) -> Iterator[Any]:
        return (module for module in self.modules() if isinstance(module, ResnetBlock))

    def compile_evaluation(self) -> None:
        """Spend the first calls on speed in all others: `torch.compile`, where `Compiled` sees a gain.

        Parts that others call are not compiled.
        """
        self.compiled = Compiled(UNet._evaluate)

    def _evaluate(self, x: Tensor, t: Tensor, context: Tensor | None = None) -> Tensor:
        return self.whole(x, t, depth=1, context=context)[0]

    # An evaluation in three parts. The `depth` finest levels are its outside, 1..levels; what is inside changes slowly
    # from one timestep to the next, which `deep_cache` makes use of.

    def whole(self, x: Tensor, t: Tensor, depth: int, context: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """All parts.

        Args:
            x: (N, C, H, W) noisy latents.
            t: (N,) timesteps.
            depth: Of the outside.
            context: (N, tokens, D), as for `forward`.

        Returns:
            Eps as of `forward`, and what `inner` gave.
        """
        temb = self.embed_timesteps(t, x)
        context = None if context is None else context.to(self.dtype)
        skips = self.outer_down(x, temb, depth, context)
        deep = self.inner(skips[-1], temb, depth, context)
        return self.outer_up(deep, temb, skips, depth, context).to(x.dtype), deep

    def outside(self, x: Tensor, t: Tensor, deep: Tensor, depth: int) -> Tensor:
        """Likewise with what `inner` gave before, from `whole` for latents of the same shape; returns eps."""
        temb = self.embed_timesteps(t, x)
        skips = self.outer_down(x, temb, depth)
        return self.outer_up(deep, temb, skips, depth).to(x.dtype)

    def embed_timesteps(self, t: Tensor, x: Tensor) -> Tensor | Projected:
        """Timesteps (N,) to the embedding (N, 4 C) for the latents `x`, or to what the resnets make of it."""
        config = self.config
        width = config.block_out_channels[0]
        sinusoids = timestep_embedding(t, width, config.flip_sin_to_cos, config.freq_shift)
        temb = self.time_embedding(sinusoids).to(self.dtype)
        return temb if self.form is None else Projected(linear(silu(temb), *self.form))

    def outer_down(self, x: Tensor, temb: TimeInput, depth: int, context: Tensor | None = None) -> list[Tensor]:
        """Run conv_in and the `depth` finest levels on the way down; returns every intermediate, for the way up."""
        x = 2 * x - 1 if self.config.center_input_sample else x
        h = self.conv_in(x.to(self.dtype))
        skips = [h]
        for level, block in enumerate(self.down_blocks[:depth]):
            h = block.process(h, temb, skips, context)
            if level < depth - 1:
                h = block.shrink(h, temb, skips)
        return skips

    def inner(self, h: Tensor, temb: TimeInput, depth: int, context: Tensor | None = None) -> Tensor:
        """From the last of `outer_down` through all coarser levels and the middle, up to the size of level `depth`."""
        skips: list[Tensor] = []
        h = self.down_blocks[depth - 1].shrink(h, temb, skips)
        for block in self.down_blocks[depth:]:
            h = block(h, temb, skips, context)
        h = self.mid_block(h, temb, context)
        for block in self.up_blocks[: len(self.up_blocks) - depth]:
            h = block(h, temb, skips, context)
        return h

    def outer_up(
        self, h: Tensor, temb: TimeInput, skips: list[Tensor], depth: int, context: Tensor | None = None
    ) -> Tensor:
        """From what `inner` returned through the `depth` finest levels to eps, taking their skips off `skips`."""
        for block in self.up_blocks[len(self.up_blocks) - depth :]:
            h = block(h, temb, skips, context)
        return self.conv_out(group_norm(self.conv_norm_out, h, activate=True))


def _layers_of(level: int, layers: Layers, config: UNetConfig) -> Layers:
    """For a level's own convolutions: the finest has few of the weights and the most work for each of them."""
    return replace(layers, kept_tile=LARGE_TILE) if level == 0 and config.sample_size >= SIDE else layers


def _attentions(layers: Layers, config: UNetConfig) -> tuple[MakeAttention, MakeAttention | None]:
    """What makes the attention of the levels, and that of the middle if there is one."""
    if config.cross_attention_dim is not None:
        to_context = partial(
            SpatialTransformer,
            layers,
            context_channels=config.cross_attention_dim,
            depth=config.transformer_layers_per_block,
        )
        return to_context, to_context if config.add_attention else None
    middle = partial(Attention, layers, groups=config.attn_norm_num_groups)
    return partial(Attention, layers), middle if config.add_attention else None


def one_per_image(t: Tensor | float, x: Tensor) -> Tensor:
    """Timesteps as in `UNet.forward` as float32 (N,), always laid out alike, or a compiler would compile anew."""
    if isinstance(t, Tensor):
        return t.to(x.device, torch.float32).reshape(-1).expand(len(x)).contiguous()
    return torch.full((len(x),), t, dtype=torch.float32, device=x.device)  # a copy from the CPU would wait for a card
