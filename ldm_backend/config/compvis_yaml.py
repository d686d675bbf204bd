"""Configurations in the YAML of CompVis/latent-diffusion. Imports config and errors; PyYAML's safe loader when used.

Nothing that a file names is imported: `target` entries are compared with the known names and never followed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import ConfigError, printable, short_repr
from .checks import AS_TRAINED, NOT_IMPLEMENTED
from .compvis_conditioning import conditioning_from_yaml
from .compvis_keys import (
    AUTOENCODER,
    DDCONFIG,
    FIRST_STAGE_NAMES,
    LATENT_DIFFUSION,
    MODEL,
    PART,
    SCHEDULE_NAMES,
    TOP,
    UNET,
    UNET_NAMES,
    check_keys,
)
from .compvis_schedule import schedule_from_yaml
from .model import (
    FirstStageConfig,
    KLConfig,
    LDMConfig,
    UNetConfig,
    VQConfig,
)
from .strict_json import build, in_their_names, read_fields

_FIRST_STAGES = {"VQModelInterface": "vq", "VQModel": "vq", "AutoencoderKL": "kl"}


@dataclass(frozen=True)
class CompVisModel:
    """What the YAML of a model says.

    Attributes:
        config: With the scale factor that stands there, 1.0 where none does.
        scale_factor: That one; None where none stands there.
        scale_by_std: Training measured the scale factor and left it in the checkpoint, as a buffer.
        use_ema: The checkpoint has averaged weights, which samples are drawn with; None where it does not say so.
    """

    config: LDMConfig
    scale_factor: float | None = None
    scale_by_std: bool = False
    use_ema: bool | None = None


def read_compvis_model(file: Path, scale_factor: float | None = None) -> CompVisModel:
    """Read the YAML of a whole latent diffusion model.

    Args:
        file: The YAML.
        scale_factor: Replaces that of the file, whatever stands there.

    Raises:
        ConfigError: No readable YAML, or a model of another family; the message names the file and the entry.
    """
    from .omega_yaml import read_omega_yaml  # here: only checkpoints in this layout need PyYAML

    return compvis_model_from_yaml(read_omega_yaml(file), str(file), scale_factor)


def compvis_model_from_yaml(data: Mapping[str, Any], source: str, scale_factor: float | None = None) -> CompVisModel:
    """Translate parsed YAML; see `read_compvis_model`."""
    check_keys(data, TOP, source)
    model = _section(data, ("model",), source)
    check_keys(model, MODEL, f"{source}: model")
    _class_of(model, ("LatentDiffusion",), f"{source}: model", absent="LatentDiffusion")
    params = _section(model, ("params",), f"{source}: model")
    if scale_factor is not None:
        params = {**params, "scale_factor": scale_factor}
    check_keys(params, LATENT_DIFFUSION, f"{source}: model.params")
    flags = {key: params.get(key) for key in ("scale_by_std", "use_ema")}
    for key, value in flags.items():
        if value is not None and type(value) is not bool:
            raise ConfigError(
                f"{source}: model.params: {key} is {short_repr(value)}; expected true or false. {AS_TRAINED}"
            )
    factor = params.get("scale_factor")
    parts = {
        "conditioning": conditioning_from_yaml(params, f"{source}: model.params"),
        "unet": _unet_config(_section(params, ("unet_config",), source), f"{source}: unet_config"),
        "first_stage": _first_stage_config(
            _section(params, ("first_stage_config",), source),
            1.0 if factor is None else factor,
            f"{source}: first_stage_config",
        ),
        "schedule": in_their_names(
            SCHEDULE_NAMES, f"{source}: model.params", lambda: schedule_from_yaml(params, f"{source}: model.params")
        ),
    }
    config = build(LDMConfig, source, parts)
    given = None if factor is None else config.first_stage.scale_factor
    return CompVisModel(config, given, bool(flags["scale_by_std"]), flags["use_ema"])


def _unet_config(section: Mapping[str, Any], source: str) -> UNetConfig:
    check_keys(section, PART, source)
    _class_of(section, ("UNetModel",), source, absent="UNetModel")
    params = _section(section, ("params",), source)
    check_keys(params, UNET, source)
    widths = _widths(params, "model_channels", "channel_mult", source)
    attended = _need(params, "attention_resolutions", source)  # downsampling factors, not sizes
    if not isinstance(attended, list):
        raise ConfigError(f"{source}: attention_resolutions is {short_repr(attended)}; expected a list. {AS_TRAINED}")
    attention = [2**level in attended for level in range(len(widths))]
    resample = "resnet" if params.get("resblock_updown") else "conv"
    head_dim, heads = params.get("num_head_channels", -1), params.get("num_heads", -1)
    upsample_heads = params.get("num_heads_upsample", -1)
    if head_dim == -1 and upsample_heads not in (-1, heads):
        raise ConfigError(
            f"{source}: num_heads_upsample is {short_repr(upsample_heads)} and num_heads {short_repr(heads)}; "
            f"expected the same number of heads on both ways. {NOT_IMPLEMENTED}"
        )
    cross, context = _context(params, source)
    data = {
        "sample_size": _need(params, "image_size", source),
        "in_channels": _need(params, "in_channels", source),
        "out_channels": _need(params, "out_channels", source),
        "block_out_channels": widths,
        "down_block_types": [f"{cross}AttnDownBlock2D" if attn else "DownBlock2D" for attn in attention],
        "up_block_types": [f"{cross}AttnUpBlock2D" if attn else "UpBlock2D" for attn in reversed(attention)],
        "layers_per_block": _need(params, "num_res_blocks", source),
        "attention_head_dim": None if head_dim == -1 else head_dim,
        "num_attention_heads": heads if head_dim == -1 and heads != -1 else None,
        "resnet_time_scale_shift": "scale_shift" if params.get("use_scale_shift_norm") else "default",
        "downsample_type": resample,
        "upsample_type": resample,
        **context,
    }
    return in_their_names(UNET_NAMES, source, lambda: read_fields(UNetConfig, data, source))


def _context(params: Mapping[str, Any], source: str) -> tuple[str, dict[str, Any]]:
    """What blocks with attention are called besides, and the settings of their transformers, if they are such."""
    transformers, width = params.get("use_spatial_transformer", False), params.get("context_dim")
    if type(transformers) is not bool or transformers != (width is not None):
        raise ConfigError(
            f"{source}: use_spatial_transformer is {short_repr(transformers)} and context_dim {short_repr(width)}; "
            f"expected true and a number, or false and None. {AS_TRAINED}"
        )
    if not transformers:  # then nothing has a depth
        return "", {}
    depth = params.get("transformer_depth", 1)
    return "Cross", {"cross_attention_dim": width, "transformer_layers_per_block": depth}


def _first_stage_config(section: Mapping[str, Any], scale_factor: Any, source: str) -> FirstStageConfig:
    check_keys(section, PART, source)
    kind = _FIRST_STAGES[_class_of(section, tuple(_FIRST_STAGES), source)]
    params = _section(section, ("params",), source)
    check_keys(params, AUTOENCODER, source)
    dd = _section(params, ("ddconfig",), source)
    check_keys(dd, DDCONFIG, f"{source}: ddconfig")
    if dd.get("double_z", kind == "kl") != (kind == "kl"):
        raise ConfigError(
            f"{source}: ddconfig: double_z is {short_repr(dd['double_z'])}; expected {kind == 'kl'} for "
            f"{printable(str(section['target']))}. The section is of another model: take that of this one."
        )
    data = {
        "sample_size": _need(dd, "resolution", source),
        "in_channels": dd.get("in_channels", 3),
        "out_channels": dd.get("out_ch", 3),
        "latent_channels": _need(dd, "z_channels", source),
        "block_out_channels": (widths := _widths(dd, "ch", "ch_mult", source)),
        "layers_per_block": _need(dd, "num_res_blocks", source),
        "scale_factor": scale_factor,
        **_attention(dd, len(widths), f"{source}: ddconfig"),
    }
    if kind == "kl":
        data["embed_dim"] = params.get("embed_dim")
        return in_their_names(FIRST_STAGE_NAMES, source, lambda: read_fields(KLConfig, data, source))
    data["num_vq_embeddings"] = _need(params, "n_embed", source)
    data["vq_embed_dim"] = _need(params, "embed_dim", source)
    return in_their_names(FIRST_STAGE_NAMES, source, lambda: read_fields(VQConfig, data, source))


def _attention(dd: Mapping[str, Any], levels: int, source: str) -> dict[str, Any]:
    """Levels with attention: those whose side, of a picture of the training's size, is one of `attn_resolutions`."""
    side, sides = _need(dd, "resolution", source), dd.get("attn_resolutions", [])
    if type(side) is not int or not isinstance(sides, list) or any(type(item) is not int for item in sides):
        raise ConfigError(
            f"{source}: resolution is {short_repr(side)} and attn_resolutions {short_repr(sides)}; expected a "
            f"number and a list of them. {AS_TRAINED}"
        )
    if dd.get("attn_type") == "none":  # then the blocks that attention would follow are followed by nothing
        return {"mid_block_add_attention": False}
    # The encoder halves from the finest, the decoder doubles from the coarsest: not the same where a side is odd.
    coarsest = side // 2 ** max(levels - 1, 0)
    return {
        "encoder_attention": [level for level in range(levels) if side // 2**level in sides],
        "decoder_attention": [level for level in range(levels) if coarsest * 2 ** (levels - 1 - level) in sides],
    }


def _class_of(section: Mapping[str, Any], known: tuple[str, ...], source: str, absent: str | None = None) -> str:
    """The last part of `target`: forks keep the names of the classes in modules of other names."""
    target = section.get("target", absent)
    name = target.rpartition(".")[2] if isinstance(target, str) else None
    if name not in known:
        raise ConfigError(
            f"{source}: target is {short_repr(target)}; known are the classes {', '.join(known)}. The model is "
            "of another kind, which is not implemented: run it with the program that trained it."
        )
    return name


def _widths(params: Mapping[str, Any], base: str, factors: str, source: str) -> list[int]:
    """Channels of each level."""
    width, mults = _need(params, base, source), _need(params, factors, source)
    if type(width) is not int or not isinstance(mults, list) or any(type(mult) is not int for mult in mults):
        raise ConfigError(
            f"{source}: {base} is {short_repr(width)} and {factors} {short_repr(mults)}; expected a number and a list "
            f"of them. {AS_TRAINED}"
        )
    return [width * mult for mult in mults]


def _section(data: Mapping[str, Any], path: tuple[str, ...], source: str) -> Mapping[str, Any]:
    for name in path:
        data = data.get(name)  # type: ignore[assignment]
        if not isinstance(data, Mapping):
            raise ConfigError(
                f"{source}: no section {'.'.join(path)}; expected a latent diffusion configuration. Take the file that "
                "belongs to the checkpoint."
            )
    return data


def _need(data: Mapping[str, Any], key: str, source: str) -> Any:
    if key not in data:
        raise ConfigError(f"{source}: {key} missing; take the file that belongs to the checkpoint.")
    return data[key]
