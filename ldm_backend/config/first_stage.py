"""Configurations of the first stages. Imports only the readers of JSON, their checks and errors."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from ..errors import ConfigError, short_repr
from .checks import CHECKED, check_common
from .diffusers_json import KL_RULES, VQ_RULES
from .first_stage_json import check_levels, with_attention_levels, with_block_types
from .strict_json import LATER, JsonRules, in_their_names, read_json_object, write_json_object

logger = logging.getLogger("comfyui_ldm")

_KL_SCALING = 0.18215  # of diffusers' AutoencoderKL where a file has none
_LEVELS = LATER | CHECKED


@dataclass(frozen=True)
class VQConfig:
    """A first stage with a codebook, in the terms of diffusers' VQModel. Defaults: VQ-f4 (55,322,782 parameters)."""

    kind: ClassVar[str] = "vq"  # in our own single file

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
    encoder_attention: tuple[int, ...] = field(default=(), metadata=_LEVELS)  # levels where attention follows each
    decoder_attention: tuple[int, ...] = field(default=(), metadata=_LEVELS)  # resnet; 0 is the finest
    mid_block_add_attention: bool = field(default=True, metadata=LATER)

    def __post_init__(self) -> None:
        _check("vqvae", self)

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
        data = with_attention_levels(data, source)
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

    sample_size: int = 256  # side of the training images
    in_channels: int = 3
    out_channels: int = 3
    latent_channels: int = 4
    block_out_channels: tuple[int, ...] = (128, 256, 512, 512)  # one entry a level, finest first
    layers_per_block: int = 2
    norm_num_groups: int = 32
    scale_factor: float = 1.0  # latents of the diffusion model are latents of the first stage times this
    encoder_attention: tuple[int, ...] = field(default=(), metadata=_LEVELS)  # levels where attention follows each
    decoder_attention: tuple[int, ...] = field(default=(), metadata=_LEVELS)  # resnet; 0 is the finest
    mid_block_add_attention: bool = field(default=True, metadata=LATER)
    embed_dim: int | None = field(default=None, metadata=LATER)  # channels of the latents, where not latent_channels

    def __post_init__(self) -> None:
        # One way to say it, so that equal networks have equal configurations.
        if self.embed_dim == self.latent_channels:
            object.__setattr__(self, "embed_dim", None)
        _check("vae", self)

    @property
    def downscale(self) -> int:
        """Pixels a latent cell covers along one side: 8 for KL-f8."""
        return 2 ** (len(self.block_out_channels) - 1)

    @property
    def z_channels(self) -> int:
        """Channels of the latents that `encode` returns and `decode` takes."""
        return self.embed_dim or self.latent_channels

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], source: str = "vae/config.json") -> KLConfig:
        """Read an `AutoencoderKL` configuration; one without `scaling_factor` has diffusers' default, 0.18215.

        Raises:
            ConfigError: A key that is unknown, missing or has an unsupported value.
        """
        data, names = with_attention_levels(data, source), {}
        if "scaling_factor" in data:
            data["scale_factor"], names = data.pop("scaling_factor"), {"scale_factor": "scaling_factor"}
        elif "scale_factor" not in data:
            logger.warning("%s: no scaling_factor; diffusers' default %s is taken.", source, _KL_SCALING)
            data["scale_factor"] = _KL_SCALING
        return in_their_names(names, source, lambda: read_json_object(cls, data, source, KL_RULES))

    def to_dict(self) -> dict[str, Any]:
        """The JSON that both this project and diffusers' AutoencoderKL read back as the same network.

        diffusers has no key for `embed_dim`: it does not load the tensors of such a model.
        """
        data = _first_stage_json(self, KL_RULES)
        if self.embed_dim is None:
            del data["embed_dim"]
        return data


FirstStageConfig = VQConfig | KLConfig
FIRST_STAGE_CONFIGS: tuple[type[FirstStageConfig], ...] = (VQConfig, KLConfig)


def _first_stage_json(config: FirstStageConfig, rules: JsonRules) -> dict[str, Any]:
    """JSON of diffusers: a block type for each level, and its own name for the scale factor."""
    data = with_block_types(write_json_object(config, rules), len(config.block_out_channels))
    data["scaling_factor"] = data.pop("scale_factor")
    return data


def _check(part: str, config: FirstStageConfig) -> None:
    """What both kinds of first stage must hold to."""
    check_common(part, config)
    for name in ("encoder_attention", "decoder_attention"):
        check_levels(part, name, getattr(config, name), len(config.block_out_channels))
    if not config.in_channels == config.out_channels or config.out_channels not in (1, 3):
        raise ConfigError(
            f"{part}: in_channels is {config.in_channels} and out_channels {config.out_channels}; expected 3 (RGB) or "
            "1 (grey) in both. Pictures of other channels cannot be shown or saved: run the model with the "
            "program that trained it."
        )
