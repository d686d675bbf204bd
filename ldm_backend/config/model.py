"""Configurations of the denoiser, the first stage and the noise schedule. Imports schedule, strict_json, errors.

The defaults are those of `CompVis/ldm-celebahq-256`. `presets.py` has the whole family.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar

from ..errors import ConfigError, short_repr
from .diffusers_json import KL_RULES, UNET_RULES, VQ_RULES
from .schedule import ScheduleConfig
from .strict_json import JsonRules, read_json_object, write_json_object

logger = logging.getLogger("comfyui_ldm")

_UNET_DOWN = ("DownBlock2D", "AttnDownBlock2D")
_UNET_UP = ("UpBlock2D", "AttnUpBlock2D")

# Upper limits: several times the largest published model, and low enough that a damaged or hostile file is refused here
# and not after minutes of building layers.
_MAX_LEVELS = 10  # each halves the side
_MAX_LAYERS = 16  # of a level
_MAX_CODES = 2**20  # 64 times the largest published codebook
_MAX_WIDTH = 8192  # channels, heads, groups, and the side of images and latents
_LIMITS = {"layers_per_block": _MAX_LAYERS, "num_vq_embeddings": _MAX_CODES}  # by field; others have _MAX_WIDTH


@dataclass(frozen=True)
class UNetConfig:
    """The denoiser, in the terms of diffusers' UNet2DModel. Defaults: CelebA-HQ 256 (274,056,163 parameters)."""

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
    downsample_type: str = "conv"  # "resnet": a resnet with average pooling (Churches)
    upsample_type: str = "conv"  # "resnet": a resnet with nearest-neighbour doubling (Churches)

    def __post_init__(self) -> None:
        _check_common("unet", self)
        levels = len(self.block_out_channels)
        for name, allowed in (
            ("down_block_types", _UNET_DOWN),
            ("up_block_types", _UNET_UP),
        ):
            types = getattr(self, name)
            if len(types) != levels:
                raise ConfigError(f"unet: {name} has {len(types)} entries, block_out_channels has {levels}.")
            for block_type in types:
                _check_choice(f"unet: {name}", block_type, allowed)
        _check_choice(
            "unet: resnet_time_scale_shift",
            self.resnet_time_scale_shift,
            ("default", "scale_shift"),
        )
        for name in ("downsample_type", "upsample_type"):
            _check_choice(f"unet: {name}", getattr(self, name), ("conv", "resnet"))
        self._check_heads()

    def _check_heads(self) -> None:
        if (self.attention_head_dim is None) == (self.num_attention_heads is None):
            raise ConfigError(
                f"unet: attention_head_dim is {self.attention_head_dim} and num_attention_heads "
                f"{self.num_attention_heads}; exactly one of them must be a number."
            )
        attended = [c for c, kind in zip(self.block_out_channels, self.down_block_types, strict=True) if "Attn" in kind]
        for channels in {*attended, self.block_out_channels[-1]}:
            if channels % (self.attention_head_dim or self.num_attention_heads or 1):
                raise ConfigError(
                    f"unet: {channels} channels cannot be split into heads of attention_head_dim "
                    f"{self.attention_head_dim} or into num_attention_heads {self.num_attention_heads}; use a divisor."
                )

    def head_dim(self, channels: int) -> int:
        """Channels of one attention head where the level has `channels`."""
        return self.attention_head_dim or channels // (self.num_attention_heads or 1)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], source: str = "unet/config.json") -> UNetConfig:
        """Read a `UNet2DModel` configuration.

        Raises:
            ConfigError: A key that is unknown, missing or has an unsupported value.
        """
        return read_json_object(cls, data, source, UNET_RULES)

    def to_dict(self) -> dict[str, Any]:
        """The JSON that both this project and diffusers' UNet2DModel read back as the same network.

        diffusers has no key for `num_attention_heads` and ignores it: only this project reads such a model back.
        """
        data = write_json_object(self, UNET_RULES)
        if self.num_attention_heads is None:
            del data["num_attention_heads"]
        return data


@dataclass(frozen=True)
class VQConfig:
    """A first stage with a codebook, in the terms of diffusers' VQModel. Defaults: VQ-f4 (55,322,782 parameters)."""

    kind: ClassVar[str] = "vq"  # in our own single file
    folder: ClassVar[str] = "vqvae"  # in a Hugging Face folder

    sample_size: int = 256  # side of the training images
    in_channels: int = 3
    out_channels: int = 3
    latent_channels: int = 3
    block_out_channels: tuple[int, ...] = (128, 256, 512)  # one entry a level, finest first
    layers_per_block: int = 2
    num_vq_embeddings: int = 8192
    vq_embed_dim: int = 3
    norm_num_groups: int = 32
    scale_factor: float = 1.0  # latents of the diffusion model are latents of the first stage times this

    def __post_init__(self) -> None:
        _check_common("vqvae", self)

    @property
    def downscale(self) -> int:
        """Pixels a latent cell covers along one side: 4 for VQ-f4."""
        return 2 ** (len(self.block_out_channels) - 1)

    @property
    def z_channels(self) -> int:
        """Channels of the latents that `encode` returns and `decode` takes."""
        return self.vq_embed_dim

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], source: str = "vqvae/config.json") -> VQConfig:
        """Read a `VQModel` configuration.

        `scaling_factor` is not used: the latents of VQ-f4 need none, and diffusers writes its class default 0.18215
        into files whose model was never trained with it. A model that was is loaded with `scale_factor=0.18215`.

        Raises:
            ConfigError: A key that is unknown, missing or has an unsupported value.
        """
        data = dict(data)
        factor = data.pop("scaling_factor", 1.0)
        if factor != 1.0:
            logger.info(
                "%s: scaling_factor %s is not applied; VQ latents of this family have none.",
                source,
                short_repr(factor),
            )
        if data.get("vq_embed_dim") is None:
            data["vq_embed_dim"] = data.get("latent_channels", cls.latent_channels)
        return read_json_object(cls, data, source, VQ_RULES)

    def to_dict(self) -> dict[str, Any]:
        """The JSON that both this project and diffusers' VQModel read back as the same network."""
        data = _first_stage_json(self, VQ_RULES)
        # Under our own name too, since diffusers' name is not believed on reading.
        return data if self.scale_factor == 1.0 else data | {"scale_factor": self.scale_factor}


@dataclass(frozen=True)
class KLConfig:
    """A first stage with a Gaussian posterior, in the terms of diffusers' AutoencoderKL. Defaults: KL-f8, Churches."""

    kind: ClassVar[str] = "kl"  # in our own single file
    folder: ClassVar[str] = "vae"  # in a Hugging Face folder

    sample_size: int = 256  # side of the training images
    in_channels: int = 3
    out_channels: int = 3
    latent_channels: int = 4
    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)  # one entry a level, finest first
    layers_per_block: int = 2
    norm_num_groups: int = 32
    scale_factor: float = 1.0  # latents of the diffusion model are latents of the first stage times this

    def __post_init__(self) -> None:
        _check_common("vae", self)

    @property
    def downscale(self) -> int:
        """Pixels a latent cell covers along one side: 8 for KL-f8."""
        return 2 ** (len(self.block_out_channels) - 1)

    @property
    def z_channels(self) -> int:
        """Channels of the latents that `encode` returns and `decode` takes."""
        return self.latent_channels

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], source: str = "vae/config.json") -> KLConfig:
        """Read an `AutoencoderKL` configuration; `scaling_factor` must be there and is used.

        Raises:
            ConfigError: A key that is unknown, missing or has an unsupported value.
        """
        data = dict(data)
        if "scaling_factor" in data:
            data["scale_factor"] = data.pop("scaling_factor")
        return read_json_object(cls, data, source, KL_RULES)

    def to_dict(self) -> dict[str, Any]:
        """The JSON that both this project and diffusers' AutoencoderKL read back as the same network."""
        return _first_stage_json(self, KL_RULES)


FirstStageConfig = VQConfig | KLConfig
FIRST_STAGE_CONFIGS: tuple[type[FirstStageConfig], ...] = (VQConfig, KLConfig)


@dataclass(frozen=True)
class LDMConfig:
    """All three parts. The defaults are CompVis/ldm-celebahq-256: 329,378,945 parameters."""

    unet: UNetConfig = field(default_factory=UNetConfig)
    first_stage: FirstStageConfig = field(default_factory=VQConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)

    def __post_init__(self) -> None:
        if not self.unet.in_channels == self.unet.out_channels == self.first_stage.z_channels:
            raise ConfigError(
                f"unet has {self.unet.in_channels} input and {self.unet.out_channels} output channels, the first "
                f"stage {self.first_stage.z_channels} latent channels; all three must agree. The parts belong to "
                "different models."
            )


def _first_stage_json(config: FirstStageConfig, rules: JsonRules) -> dict[str, Any]:
    """JSON of diffusers: a block type for each level, and its own name for the scale factor."""
    data = write_json_object(config, rules)
    levels = len(config.block_out_channels)
    data |= {name: list(rules.fixed[name]) * levels for name in ("down_block_types", "up_block_types")}
    data["scaling_factor"] = data.pop("scale_factor")
    return data


def _check_choice(where: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise ConfigError(f"{where} holds {short_repr(value)}; supported are {', '.join(allowed)}.")


def _check_common(part: str, config: UNetConfig | FirstStageConfig) -> None:
    """Ranges that the networks share, so that a bad file fails here and not inside a layer."""
    if not 1 <= (levels := len(config.block_out_channels)) <= _MAX_LEVELS:
        what = f"has {levels} entries" if levels else "is empty"
        raise ConfigError(f"{part}: block_out_channels {what}; expected one a level, at most {_MAX_LEVELS}.")
    for item in fields(config):
        value = getattr(config, item.name)
        numbers = value if isinstance(value, tuple) else (value,)
        limit = _LIMITS.get(item.name, _MAX_WIDTH)
        if any(isinstance(n, int | float) and not 0 < n <= limit for n in numbers):
            raise ConfigError(
                f"{part}: {item.name} is {short_repr(value)}; expected positive numbers, at most {limit}."
            )
    for channels in config.block_out_channels:
        if channels % config.norm_num_groups:
            raise ConfigError(
                f"{part}: {channels} channels cannot be normalised in norm_num_groups {config.norm_num_groups} groups; "
                "use a divisor."
            )
