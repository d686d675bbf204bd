"""Configurations of the denoiser and the whole. Imports first_stage, schedule and the readers of JSON.

The defaults are those of `CompVis/ldm-celebahq-256`. `presets.py` has the whole family.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import ConfigError, short_repr
from .checks import AS_TRAINED, CHECKED, NOT_IMPLEMENTED, check_choice, check_common
from .conditioning import ConditioningConfig, task_of
from .diffusers_json import CONDITION_UNET_RULES, UNET_RULES
from .first_stage import FIRST_STAGE_CONFIGS, FirstStageConfig, KLConfig, VQConfig
from .schedule import ScheduleConfig
from .strict_json import LATER, read_json_object, write_json_object
from .unet_json import (
    check_ways,
    condition_from_diffusers,
    condition_to_diffusers,
    each_way,
    from_diffusers,
    to_diffusers,
)

__all__ = [
    "FIRST_STAGE_CONFIGS",
    "FirstStageConfig",
    "KLConfig",
    "LDMConfig",
    "ScheduleConfig",
    "UNetConfig",
    "VQConfig",
]

# Of networks whose attention is among the positions, and of those that attend to a context too.
_UNET_DOWN, _CONTEXT_DOWN = ("DownBlock2D", "AttnDownBlock2D"), ("DownBlock2D", "CrossAttnDownBlock2D")
_UNET_UP, _CONTEXT_UP = ("UpBlock2D", "AttnUpBlock2D"), ("UpBlock2D", "CrossAttnUpBlock2D")


@dataclass(frozen=True)
class UNetConfig:
    """The denoiser, in the terms of diffusers' UNet2DModel; with a context, of its UNet2DConditionModel.

    The defaults are CelebA-HQ 256 (274,056,163 parameters).
    """

    sample_size: int = 64  # side of the training latents
    in_channels: int = 3
    out_channels: int = 3
    block_out_channels: tuple[int, ...] = (224, 448, 672, 896)  # one entry a level, finest first
    down_block_types: tuple[str, ...] = ("DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D")
    up_block_types: tuple[str, ...] = ("AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D")
    layers_per_block: int = 2
    attention_head_dim: int | None = 32  # channels of one head; not visible in any shape
    num_attention_heads: int | None = None  # heads at every level, where the model fixes these instead (Churches)
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    resnet_time_scale_shift: str = "default"  # "scale_shift": the time embedding scales and shifts (Churches)
    # "resnet": a resnet with average pooling or with nearest-neighbour doubling (Churches). One for each block but the
    # last where they differ, in the order of the block types; those with attention are alike.
    downsample_type: str | tuple[str, ...] = "conv"
    upsample_type: str | tuple[str, ...] = "conv"
    # What models trained with diffusers may have besides.
    add_attention: bool = field(default=True, metadata=LATER)  # in the middle
    attn_norm_num_groups: int | None = field(default=None, metadata=LATER | CHECKED)  # of it, if other; 0: no norm
    center_input_sample: bool = field(default=False, metadata=LATER)
    downsample_padding: int = field(default=1, metadata=LATER | CHECKED)  # 0: only right and bottom, as DDPM
    flip_sin_to_cos: bool = field(default=True, metadata=LATER)  # cosines first in the time embedding
    freq_shift: int = field(default=0, metadata=LATER | CHECKED)  # of its frequencies; DDPM has 1
    # Of models that attend to a context (CrossAttn...): the width of its tokens, and the blocks of each transformer.
    cross_attention_dim: int | None = field(default=None, metadata=LATER)
    transformer_layers_per_block: int = field(default=1, metadata=LATER)

    def __post_init__(self) -> None:
        check_common("unet", self)
        levels, plain = len(self.block_out_channels), self.cross_attention_dim is None
        for name, allowed in (
            ("down_block_types", _UNET_DOWN if plain else _CONTEXT_DOWN),
            ("up_block_types", _UNET_UP if plain else _CONTEXT_UP),
        ):
            types = getattr(self, name)
            if len(types) != levels:
                raise ConfigError(
                    f"unet: {name} has {len(types)} entries, block_out_channels has {levels}; expected one of each for "
                    f"a level. {AS_TRAINED}"
                )
            for block_type in types:
                check_choice(f"unet: {name}", block_type, allowed)
        check_choice(
            "unet: resnet_time_scale_shift",
            self.resnet_time_scale_shift,
            ("default", "scale_shift"),
        )
        for name, types in (("downsample_type", self.down_block_types), ("upsample_type", self.up_block_types)):
            check_ways(f"unet: {name}", getattr(self, name), types)
        self._check_context()
        self._check_details()
        self._check_heads()

    def _check_context(self) -> None:
        crossing, width = self.cross_attention_dim is not None, self.cross_attention_dim
        if not crossing and self.transformer_layers_per_block != 1:
            raise ConfigError(
                f"unet: transformer_layers_per_block is {self.transformer_layers_per_block}, and cross_attention_dim "
                f"None; expected 1 where no block attends to a context. {AS_TRAINED}"
            )
        for name, usual in (
            ("downsample_type", "conv"),
            ("upsample_type", "conv"),
            ("add_attention", True),
            ("attn_norm_num_groups", None),
        ):
            if crossing and getattr(self, name) != usual:
                raise ConfigError(
                    f"unet: {name} is {short_repr(getattr(self, name))} and cross_attention_dim {width}; supported "
                    f"beside it is {usual!r}. {NOT_IMPLEMENTED}"
                )

    def _check_details(self) -> None:
        for name, allowed in (("downsample_padding", (0, 1)), ("freq_shift", (0, 1))):
            check_choice(f"unet: {name}", getattr(self, name), allowed)
        width, groups = self.block_out_channels[-1], self.attn_norm_num_groups
        if self.freq_shift and self.block_out_channels[0] < 4:
            raise ConfigError("unet: freq_shift is 1; expected 0 where block_out_channels begins below 4. Set it to 0.")
        unnormed = groups == 0 and self.resnet_time_scale_shift == "scale_shift"
        if groups is not None and not unnormed and (groups < 1 or width % groups):
            raise ConfigError(
                f"unet: attn_norm_num_groups is {groups}; expected a divisor of {width}, the last of "
                f"block_out_channels. {AS_TRAINED}"
            )

    def _check_heads(self) -> None:
        if (self.attention_head_dim is None) == (self.num_attention_heads is None):
            raise ConfigError(
                f"unet: attention_head_dim is {self.attention_head_dim} and num_attention_heads "
                f"{self.num_attention_heads}; exactly one of them must be a number. {AS_TRAINED}"
            )
        attended = [c for c, kind in zip(self.block_out_channels, self.down_block_types, strict=True) if "Attn" in kind]
        for channels in sorted({*attended, self.block_out_channels[-1]} if self.add_attention else set(attended)):
            if channels % (self.attention_head_dim or self.num_attention_heads or 1):
                raise ConfigError(
                    f"unet: {channels} channels cannot be split into heads of attention_head_dim "
                    f"{self.attention_head_dim} or into num_attention_heads {self.num_attention_heads}; use a divisor."
                )

    @property
    def size_multiple(self) -> int:
        """Height and width of a latent must be multiples of this (8 for CelebA-HQ), or the skips do not fit."""
        return 2 ** (len(self.block_out_channels) - 1)

    @property
    def shrinks(self) -> tuple[str | None, ...]:
        """How each block on the way down ends: "conv", "resnet" or None."""
        return each_way(self.downsample_type, len(self.down_block_types))

    @property
    def grows(self) -> tuple[str | None, ...]:
        """How each block on the way up ends: "conv", "resnet" or None."""
        return each_way(self.upsample_type, len(self.up_block_types))

    def head_dim(self, channels: int) -> int:
        """Channels of one attention head where the level has `channels`."""
        return self.attention_head_dim or channels // (self.num_attention_heads or 1)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], source: str = "unet/config.json") -> UNetConfig:
        """Read a configuration of `UNet2DModel`, or of `UNet2DConditionModel` where its `_class_name` says so.

        Raises:
            ConfigError: A key that is unknown, missing or has an unsupported value.
        """
        if data.get("_class_name") in CONDITION_UNET_RULES.class_names:
            return read_json_object(cls, condition_from_diffusers(data, source), source, CONDITION_UNET_RULES)
        return read_json_object(cls, from_diffusers(data, source), source, UNET_RULES)

    def to_dict(self) -> dict[str, Any]:
        """The JSON that both this project and diffusers read back as the same network.

        diffusers' UNet2DModel has no key for `num_attention_heads` above 1: it stops with an error, see `unet_json`.
        """
        if self.cross_attention_dim is not None:
            return condition_to_diffusers(write_json_object(self, CONDITION_UNET_RULES))
        return to_diffusers(write_json_object(self, UNET_RULES))


@dataclass(frozen=True)
class LDMConfig:
    """All three parts. The defaults are CompVis/ldm-celebahq-256: 329,378,945 parameters."""

    unet: UNetConfig = field(default_factory=UNetConfig)
    first_stage: FirstStageConfig = field(default_factory=VQConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    conditioning: ConditioningConfig | None = None  # what the UNet sees beside the noisy latent

    def __post_init__(self) -> None:
        self._check_context()
        if self.conditioning is not None:
            self._check_conditioning(self.conditioning)
        elif not self.unet.in_channels == self.unet.out_channels == self.first_stage.z_channels:
            raise ConfigError(
                f"unet has {self.unet.in_channels} input and {self.unet.out_channels} output channels, the first "
                f"stage {self.first_stage.z_channels} latent channels; all three must agree. The parts belong to "
                "different models: take all of the same one."
            )

    def _check_context(self) -> None:
        width = self.unet.cross_attention_dim
        made = None if self.conditioning is None else self.conditioning.context_dim
        if width == made:
            return
        if made is None:
            raise ConfigError(
                f"unet attends to a context {width} wide, and nothing says what makes it; expected classes, or texts "
                "through the encoder of this family, or vectors of CLIP. Another model, as Stable Diffusion is one, "
                "does not run here: run it with the program that trained it."
            )
        kind = "" if self.conditioning is None else self.conditioning.kind
        raise ConfigError(
            f"unet attends to a context {width} wide, and the {kind} conditioning makes one {made} wide; both must "
            "agree. The parts belong to different models: take all of the same one."
        )

    def _check_conditioning(self, conditioning: ConditioningConfig) -> None:
        latent, more = self.first_stage.z_channels, conditioning.channels(self.first_stage)
        if self.unet.out_channels != latent or self.unet.in_channels != latent + more:
            raise ConfigError(
                f"unet has {self.unet.in_channels} input and {self.unet.out_channels} output channels; expected "
                f"{latent + more} ({latent} of the latent and {more} of the {conditioning.kind} conditioning) and "
                f"{latent}. The parts belong to different models: take all of the same one."
            )

    @property
    def task(self) -> str:
        """What the model is for, one of `conditioning.TASKS`: "unconditional", "super-resolution", ..."""
        return task_of(self.conditioning)
