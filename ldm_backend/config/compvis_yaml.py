"""Configurations in the YAML of CompVis/latent-diffusion. Imports config and errors; PyYAML's safe loader when used.

Nothing that a file names is imported: `target` entries are compared with the known names and never followed.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import ConfigError, first_names, printable, short_repr
from .compvis_schedule import schedule_from_yaml
from .model import (
    FirstStageConfig,
    KLConfig,
    LDMConfig,
    UNetConfig,
    VQConfig,
)
from .strict_json import build, read_fields

_MAX_BYTES = 2**16  # a configuration has about 2 kB; PyYAML takes seconds for a megabyte
_MAX_DEPTH = 20  # it has 7 levels, and no aliases

# Parameters with the only value that this project implements; absent ones have it.
_LDM_FIXED: dict[str, Any] = {
    "concat_mode": False,
    "cond_stage_config": "__is_unconditional__",
    "use_ema": True,
}
_UNET_FIXED: dict[str, Any] = {
    "context_dim": None,
    "conv_resample": True,
    "dims": 2,
    "n_embed": None,
    "num_classes": None,
    "use_new_attention_order": False,
    "use_spatial_transformer": False,
}
_AE_FIXED: dict[str, Any] = {
    "attn_type": "vanilla",
    "attn_resolutions": [],
    "in_channels": 3,
    "out_ch": 3,
}
_TARGETS = {
    "ldm.models.autoencoder.VQModelInterface": "vq",
    "ldm.models.autoencoder.VQModel": "vq",
    "ldm.models.autoencoder.AutoencoderKL": "kl",
}


def read_compvis_yaml(file: Path) -> LDMConfig:
    """Read the YAML of a whole latent diffusion model.

    Raises:
        ConfigError: No readable YAML, or a model of another family; the message names the file and the entry.
    """
    return ldm_config_from_yaml(_read_yaml(file), str(file))


def ldm_config_from_yaml(data: Mapping[str, Any], source: str) -> LDMConfig:
    """Translate parsed YAML; see `read_compvis_yaml`."""
    params = _section(data, ("model", "params"), source)
    _check_fixed(params, _LDM_FIXED, f"{source}: model.params")
    unet = _section(params, ("unet_config", "params"), source)
    first_stage = _section(params, ("first_stage_config",), source)
    scale_factor = params.get("scale_factor", 1.0)  # with scale_by_std the checkpoint's buffer replaces it
    parts = {
        "unet": _unet_config(unet, f"{source}: unet_config"),
        "first_stage": _first_stage_config(first_stage, scale_factor, f"{source}: first_stage_config"),
        "schedule": schedule_from_yaml(params, f"{source}: model.params"),
    }
    return build(LDMConfig, source, parts)


def _unet_config(params: Mapping[str, Any], source: str) -> UNetConfig:
    _check_fixed(params, _UNET_FIXED, source)
    widths = _widths(params, "model_channels", "channel_mult", source)
    attended = _need(params, "attention_resolutions", source)  # downsampling factors, not sizes
    if not isinstance(attended, list):
        raise ConfigError(f"{source}: attention_resolutions is {short_repr(attended)}; expected a list.")
    attention = [2**level in attended for level in range(len(widths))]
    resample = "resnet" if params.get("resblock_updown") else "conv"
    head_dim, heads = params.get("num_head_channels", -1), params.get("num_heads", -1)
    data = {
        "sample_size": _need(params, "image_size", source),
        "in_channels": _need(params, "in_channels", source),
        "out_channels": _need(params, "out_channels", source),
        "block_out_channels": widths,
        "down_block_types": ["AttnDownBlock2D" if attn else "DownBlock2D" for attn in attention],
        "up_block_types": ["AttnUpBlock2D" if attn else "UpBlock2D" for attn in reversed(attention)],
        "layers_per_block": _need(params, "num_res_blocks", source),
        "attention_head_dim": None if head_dim == -1 else head_dim,
        "num_attention_heads": heads if head_dim == -1 and heads != -1 else None,
        "resnet_time_scale_shift": "scale_shift" if params.get("use_scale_shift_norm") else "default",
        "downsample_type": resample,
        "upsample_type": resample,
    }
    return read_fields(UNetConfig, data, source)


def _first_stage_config(section: Mapping[str, Any], scale_factor: Any, source: str) -> FirstStageConfig:
    target = section.get("target")
    kind = _TARGETS.get(target) if isinstance(target, str) else None
    if kind is None:
        raise ConfigError(f"{source}: target is {short_repr(target)}; known are {', '.join(_TARGETS)}.")
    params = _section(section, ("params",), source)
    dd = _section(params, ("ddconfig",), source)
    _check_fixed(dd, _AE_FIXED | {"double_z": kind == "kl"}, f"{source}: ddconfig")
    data = {
        "sample_size": _need(dd, "resolution", source),
        "latent_channels": _need(dd, "z_channels", source),
        "block_out_channels": _widths(dd, "ch", "ch_mult", source),
        "layers_per_block": _need(dd, "num_res_blocks", source),
        "scale_factor": scale_factor,
    }
    if kind == "kl":
        return read_fields(KLConfig, data, source)
    codes = {
        "num_vq_embeddings": _need(params, "n_embed", source),
        "vq_embed_dim": _need(params, "embed_dim", source),
    }
    return read_fields(VQConfig, data | codes, source)


def _widths(params: Mapping[str, Any], base: str, factors: str, source: str) -> list[int]:
    """Channels of each level."""
    width, mults = _need(params, base, source), _need(params, factors, source)
    if type(width) is not int or not isinstance(mults, list) or any(type(mult) is not int for mult in mults):
        raise ConfigError(
            f"{source}: {base} is {short_repr(width)} and {factors} {short_repr(mults)}; expected a number and a list "
            "of them."
        )
    return [width * mult for mult in mults]


def _read_yaml(file: Path) -> Mapping[str, Any]:
    import yaml  # here: only checkpoints in this layout need it

    try:
        if file.stat().st_size > _MAX_BYTES:
            raise ConfigError(f"{file}: {file.stat().st_size} bytes; a configuration has a few thousand.")
        text = file.read_text(encoding="utf-8")
        depth = 0
        for event in yaml.parse(text, yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            # A few lines of aliases can stand for billions of entries, and deep nesting takes PyYAML quadratic time.
            if depth > _MAX_DEPTH or isinstance(event, yaml.AliasEvent):
                raise ConfigError(f"{file}: has aliases (*name) or deeper levels than {_MAX_DEPTH}; write it plainly.")
        data = yaml.safe_load(text)
    except ConfigError:
        raise
    # Beside its own errors PyYAML passes on those of values that are not what their tags promise (`!!bool 3`).
    except (yaml.YAMLError, RecursionError, OSError, ValueError, LookupError, AttributeError, OverflowError) as error:
        reason = printable(str(error), 300)
        raise ConfigError(f"{file}: not readable as YAML ({reason}). Download the file again.") from error
    if not isinstance(data, Mapping):
        raise ConfigError(f"{file}: holds a {type(data).__name__}; expected a mapping with the entry `model`.")
    return data


def _section(data: Mapping[str, Any], path: tuple[str, ...], source: str) -> Mapping[str, Any]:
    for name in path:
        data = data.get(name)  # type: ignore[assignment]
        if not isinstance(data, Mapping):
            raise ConfigError(f"{source}: no section {'.'.join(path)}; expected a latent diffusion configuration.")
    return data


def _need(data: Mapping[str, Any], key: str, source: str) -> Any:
    if key not in data:
        raise ConfigError(f"{source}: {key} missing; take the file that belongs to the checkpoint.")
    return data[key]


def _check_fixed(data: Mapping[str, Any], fixed: Mapping[str, Any], source: str) -> None:
    wrong = [key for key, value in fixed.items() if data.get(key, value) != value]
    if wrong:
        key = min(wrong)
        raise ConfigError(
            f"{source}: {first_names(wrong)} not supported; {key} is {short_repr(data[key])}, expected {fixed[key]!r}. "
            "Only unconditional models of this family can be run."
        )
    for key, value in data.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ConfigError(f"{source}: {key} is {value}; expected a finite number.")
