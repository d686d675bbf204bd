"""Configurations of the three parts, read strictly from the Hugging Face JSON files. Imports only errors.

Keys whose diffusers default is not what this family has must be written down (`_REQUIRED`): an absent one would be
read differently by different programs. Keys that would change the pictures in a way this project does not implement
are refused, never ignored.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from .errors import ConfigError, first_names

_log = logging.getLogger("comfyui_ldm")

# Keys of UNet2DModel with the only value that the family uses: anything else would be another network.
_UNET_FIXED: dict[str, tuple[Any, ...]] = {
    "act_fn": ("silu",),
    "add_attention": (True,),
    "attn_norm_num_groups": (None,),
    "center_input_sample": (False,),
    "class_embed_type": (None,),
    "downsample_padding": (1,),
    "downsample_type": ("conv",),
    "dropout": (0.0,),
    "flip_sin_to_cos": (True,),
    "freq_shift": (0,),
    "mid_block_scale_factor": (1,),
    "mid_block_type": ("UNetMidBlock2D",),
    "num_class_embeds": (None,),
    "resnet_time_scale_shift": ("default",),
    "time_embedding_dim": (None,),
    "time_embedding_type": ("positional",),
    "upsample_type": ("conv",),
}
_VQ_FIXED: dict[str, tuple[Any, ...]] = {
    "act_fn": ("silu",),
    "down_block_types": ("DownEncoderBlock2D",),  # each entry of the list
    "lookup_from_codebook": (False,),
    "mid_block_add_attention": (True,),
    "norm_type": ("group",),
    "up_block_types": ("UpDecoderBlock2D",),  # each entry of the list
}
_SCHEDULE_FIXED: dict[str, tuple[Any, ...]] = {
    "beta_schedule": ("scaled_linear",),
    "clip_sample": (False,),
    "prediction_type": ("epsilon",),
    "rescale_betas_zero_snr": (False,),
    "thresholding": (False,),
    "trained_betas": (None,),
}
# Keys without influence here: the grid is chosen for each run, and the rest belongs to values fixed above.
_UNET_IGNORED = ("num_train_timesteps",)
_VQ_IGNORED = ("force_upcast",)
_SCHEDULE_IGNORED = (
    "clip_sample_range",
    "dynamic_thresholding_ratio",
    "sample_max_value",
    "timestep_spacing",
    "timestep_values",
    "timesteps",
    "variance_type",
)

# Keys that a file must hold. attention_head_dim cannot be checked against any tensor shape.
_REQUIRED: dict[str, tuple[str, ...]] = {
    "UNet2DModel": ("attention_head_dim",),
    "VQModel": ("block_out_channels", "latent_channels", "layers_per_block", "num_vq_embeddings"),
    "DDIMScheduler": ("beta_start", "beta_end", "beta_schedule", "clip_sample"),
}

_UNET_DOWN = ("DownBlock2D", "AttnDownBlock2D")
_UNET_UP = ("UpBlock2D", "AttnUpBlock2D")


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
    attention_head_dim: int = 32  # channels of one head; not visible in any shape
    norm_num_groups: int = 32
    norm_eps: float = 1e-5

    def __post_init__(self) -> None:
        _check_common("unet", self)
        levels = len(self.block_out_channels)
        for name, allowed in (("down_block_types", _UNET_DOWN), ("up_block_types", _UNET_UP)):
            types = getattr(self, name)
            if len(types) != levels:
                raise ConfigError(f"unet: {name} has {len(types)} entries, block_out_channels has {levels}.")
            for block_type in types:
                if block_type not in allowed:
                    raise ConfigError(f"unet: {name} holds {block_type!r}; supported are {', '.join(allowed)}.")
        attended = [c for c, kind in zip(self.block_out_channels, self.down_block_types, strict=True) if "Attn" in kind]
        for channels in {*attended, self.block_out_channels[-1]}:
            if channels % self.attention_head_dim:
                raise ConfigError(
                    f"unet: {channels} channels cannot be split into heads of attention_head_dim "
                    f"{self.attention_head_dim}; use a divisor."
                )

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], source: str = "unet/config.json") -> UNetConfig:
        """Read a `UNet2DModel` configuration.

        Raises: ConfigError: a key that is unknown, missing or has an unsupported value.
        """
        return _read(cls, data, source, ("UNet2DModel",), _UNET_FIXED, _UNET_IGNORED)

    def to_dict(self) -> dict[str, Any]:
        """The JSON that both this project and diffusers' UNet2DModel read back as the same network."""
        return _write(self, "UNet2DModel", _UNET_FIXED)


@dataclass(frozen=True)
class VQConfig:
    """The first stage, in the terms of diffusers' VQModel. Defaults: VQ-f4 (55,322,782 parameters)."""

    sample_size: int = 256  # side of the training images
    in_channels: int = 3
    out_channels: int = 3
    latent_channels: int = 3
    block_out_channels: tuple[int, ...] = (128, 256, 512)  # one entry a level, finest first
    layers_per_block: int = 2
    num_vq_embeddings: int = 8192
    vq_embed_dim: int = 3
    norm_num_groups: int = 32

    def __post_init__(self) -> None:
        _check_common("vqvae", self)

    @property
    def downscale(self) -> int:
        """Pixels a latent cell covers along one side: 4 for VQ-f4."""
        return 2 ** (len(self.block_out_channels) - 1)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], source: str = "vqvae/config.json") -> VQConfig:
        """Read a `VQModel` configuration.

        `scaling_factor` is not used: the latents of VQ-f4 need none, and diffusers writes its class default 0.18215
        into files whose model was never trained with it.

        Raises: ConfigError: a key that is unknown, missing or has an unsupported value.
        """
        data = dict(data)
        factor = data.pop("scaling_factor", 1.0)
        if factor != 1.0:
            _log.info("%s: scaling_factor %s is not applied; latents of this family are not scaled.", source, factor)
        if data.get("vq_embed_dim") is None:
            data["vq_embed_dim"] = data.get("latent_channels", cls.latent_channels)
        return _read(cls, data, source, ("VQModel",), _VQ_FIXED, _VQ_IGNORED)

    def to_dict(self) -> dict[str, Any]:
        """The JSON that both this project and diffusers' VQModel read back as the same network."""
        levels = len(self.block_out_channels)
        data = _write(self, "VQModel", _VQ_FIXED)
        data |= {name: list(_VQ_FIXED[name]) * levels for name in ("down_block_types", "up_block_types")}
        return data | {"scaling_factor": 1.0}


@dataclass(frozen=True)
class ScheduleConfig:
    """The noise schedule: betas linear in sqrt(beta), which HF calls scaled_linear and CompVis linear."""

    num_train_timesteps: int = 1000
    beta_start: float = 0.0015
    beta_end: float = 0.0195
    set_alpha_to_one: bool = True  # what the `leading` grid takes as alphas_cumprod after its last step
    steps_offset: int = 0  # added to each timestep of the `leading` grid

    def __post_init__(self) -> None:
        if self.num_train_timesteps < 1 or not 0.0 < self.beta_start <= self.beta_end < 1.0:
            raise ConfigError(
                f"scheduler: num_train_timesteps {self.num_train_timesteps}, beta_start {self.beta_start}, beta_end "
                f"{self.beta_end}; expected at least 1 and 0 < beta_start <= beta_end < 1."
            )

    @classmethod
    def from_dict(cls, data: Mapping[str, Any], source: str = "scheduler/scheduler_config.json") -> ScheduleConfig:
        """Read a scheduler configuration of DDIM or DDPM.

        Raises: ConfigError: a key that is unknown, missing or has an unsupported value.
        """
        data = dict(data)
        data.setdefault("num_train_timesteps", data.get("timesteps", cls.num_train_timesteps))  # name of 2022
        return _read(cls, data, source, ("DDIMScheduler", "DDPMScheduler"), _SCHEDULE_FIXED, _SCHEDULE_IGNORED)

    def to_dict(self) -> dict[str, Any]:
        """The JSON that both this project and diffusers' DDIMScheduler read back as the same schedule."""
        return _write(self, "DDIMScheduler", _SCHEDULE_FIXED) | {"timestep_spacing": "leading"}


@dataclass(frozen=True)
class LDMConfig:
    """All three parts. The defaults are CompVis/ldm-celebahq-256: 329,378,945 parameters."""

    unet: UNetConfig = field(default_factory=UNetConfig)
    vq: VQConfig = field(default_factory=VQConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)

    def __post_init__(self) -> None:
        if not self.unet.in_channels == self.unet.out_channels == self.vq.vq_embed_dim:
            raise ConfigError(
                f"unet has {self.unet.in_channels} input and {self.unet.out_channels} output channels, the first stage "
                f"{self.vq.vq_embed_dim} latent channels; all three must agree. The folders belong to different models."
            )


def _check_common(part: str, config: UNetConfig | VQConfig) -> None:
    """Ranges that both networks share, so that a bad file fails here and not inside a layer."""
    if not config.block_out_channels:
        raise ConfigError(f"{part}: block_out_channels is empty; expected one entry a level.")
    for item in fields(config):
        value = getattr(config, item.name)
        numbers = value if isinstance(value, tuple) else (value,)
        if any(isinstance(n, int | float) and n <= 0 for n in numbers):
            raise ConfigError(f"{part}: {item.name} is {value!r}; expected positive numbers.")
    for channels in config.block_out_channels:
        if channels % config.norm_num_groups:
            raise ConfigError(
                f"{part}: {channels} channels cannot be normalised in norm_num_groups {config.norm_num_groups} groups; "
                "use a divisor."
            )


def _read(
    cls: type,
    data: Mapping[str, Any],
    source: str,
    class_names: tuple[str, ...],
    fixed: Mapping[str, tuple[Any, ...]],
    ignored: tuple[str, ...],
) -> Any:
    """Build `cls` from `data`; every key must be a field, a fixed value, or known to be without influence."""
    found_class = data.get("_class_name", class_names[0])
    if found_class not in class_names:
        raise ConfigError(f"{source}: _class_name is {found_class!r}; expected {' or '.join(class_names)}.")
    missing = [key for key in _REQUIRED[class_names[0]] if key not in data]
    if missing:
        defaults = _write(cls(), class_names[0], fixed)
        known = ", ".join(f"{key} {defaults[key]!r}" for key in missing)
        raise ConfigError(
            f"{source}: {first_names(missing)} missing; it cannot be told from the weights. Add what the model was "
            f"trained with (CelebA-HQ 256 has {known})."
        )
    types = {item.name: item.type for item in fields(cls)}
    unknown = {key for key in data if not key.startswith("_")} - set(types) - set(fixed) - set(ignored)
    if unknown:
        raise ConfigError(
            f"{source}: unknown keys {first_names(unknown)}. It is of another family, or newer than this release; "
            "remove keys that have no effect."
        )
    for key, allowed in fixed.items():
        values = data[key] if isinstance(data.get(key), list | tuple) else [data.get(key, allowed[0])]
        for value in values:
            if value not in allowed:
                raise ConfigError(f"{source}: {key} is {value!r}; supported is {' or '.join(map(repr, allowed))}.")
    return cls(**{key: _typed(data[key], str(types[key]), f"{source}: {key}") for key in types if key in data})


def _typed(value: Any, annotation: str, where: str) -> Any:
    """`value` as the field's type; JSON lists become tuples, whole numbers pass as floats, nothing else converts."""
    if annotation.startswith("tuple"):
        inner = str if "str" in annotation else int
        if isinstance(value, list | tuple) and all(type(item) is inner for item in value):
            return tuple(value)
    elif annotation == "float" and type(value) in (int, float):
        return float(value)
    elif annotation in ("int", "bool", "str") and type(value).__name__ == annotation:
        return value
    raise ConfigError(f"{where} is {value!r}; expected {annotation}.")


def _write(config: Any, class_name: str, fixed: Mapping[str, tuple[Any, ...]]) -> dict[str, Any]:
    values = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(config).items()}
    return {"_class_name": class_name} | {key: allowed[0] for key, allowed in fixed.items()} | values


CELEBAHQ_256 = LDMConfig()
