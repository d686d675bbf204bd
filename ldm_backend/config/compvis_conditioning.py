"""What the YAML of CompVis/latent-diffusion says of conditioning. Imports conditioning, compvis_keys and errors.

Source: ldm/models/diffusion/ddpm.py LatentDiffusion.__init__ and instantiate_cond_stage, and
    ldm/modules/encoders/modules.py.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import ConfigError, short_repr
from .checks import AS_TRAINED
from .compvis_keys import CONDITIONAL, NETWORK, PART, Keys, check_keys
from .conditioning import (
    ClassConfig,
    ConditioningConfig,
    LowResolutionConfig,
    MaskedImageConfig,
    SegmentationConfig,
    TextConfig,
    VectorsConfig,
)
from .strict_json import in_their_names, read_fields

_UNCONDITIONAL, _FIRST_STAGE = "__is_unconditional__", "__is_first_stage__"

# Which part of a sample goes through the conditioning stage, and that stage, for each of the kinds.
_LOW_RESOLUTION, _MASKED, _SEGMENTATION = "LR_image", "masked_image", "segmentation"
_CLASS, _TEXT, _VECTORS = "class_label", "caption", "nix"
_STAGES = {
    _LOW_RESOLUTION: "torch.nn.Identity",
    _MASKED: _FIRST_STAGE,
    _SEGMENTATION: "SpatialRescaler",
    _CLASS: "ClassEmbedder",
    _TEXT: "BERTEmbedder",
    _VECTORS: "torch.nn.Identity",
}
# How many rows the table of ImageNet's classes has where the last is no class. The file does not say so: the original's
# notebook samples with it.
_IMAGENET_AND_NONE = 1001

_LAYOUT = "coordinates_bbox"  # the key of layouts, whose tokens go through a BERTEmbedder too

# What models of the family with another class of conditioning stage are.
_OTHERS = {
    "TransformerEmbedder": "a model of token sequences",
    "FrozenCLIPTextEmbedder": "a text-to-image model",
    "FrozenCLIPEmbedder": "a text-to-image model such as Stable Diffusion",
    "FrozenClipImageEmbedder": "a model of CLIP vectors",
}

_IDENTITY = Keys()
_RESCALER = Keys(
    read=frozenset({"n_stages", "in_channels", "out_channels"}),
    fixed={
        "method": (("bilinear",), NETWORK),
        "multiplier": ((0.5,), NETWORK),
        "bias": ((False,), NETWORK),
    },
)
_EMBEDDER = Keys(
    read=frozenset({"n_classes", "embed_dim"}),
    unused=frozenset({"key"}),  # of the training's samples
)
_RESCALER_NAMES = {"n_labels": "in_channels"}
_BERT = Keys(
    read=frozenset({"n_embed", "n_layer", "vocab_size", "max_seq_len"}),
    fixed={"use_tokenizer": ((True,), NETWORK)},
    unused=frozenset({"device", "embedding_dropout"}),  # where it was trained, and how
)
# Heads and their width are in no file: BERTEmbedder leaves them to x_transformer.py, which has these.
_BERT_HEADS = {"heads": 8, "head_dim": 64}
_BERT_NAMES = {"embed_dim": "n_embed", "layers": "n_layer", "max_tokens": "max_seq_len"}


def conditioning_from_yaml(params: Mapping[str, Any], source: str) -> ConditioningConfig | None:
    """The conditioning of a model's parameters; None of one that draws from noise alone.

    Args:
        params: The section model.params.
        source: Of it, for errors.

    Raises:
        ConfigError: A conditioning that is not implemented, by its name, or settings that contradict each other.
    """
    stage = params.get("cond_stage_config", _UNCONDITIONAL)
    if stage == _UNCONDITIONAL:
        return None
    target = stage.get("target") if isinstance(stage, Mapping) else stage
    name = target.rpartition(".")[2] if isinstance(target, str) else None
    key = params.get("cond_stage_key", "image")
    what = "a layout-to-image model" if key == _LAYOUT else _OTHERS.get(name or "")
    if what:
        raise ConfigError(f"{source}: cond_stage_config is {short_repr(target)}: this is {what}. {CONDITIONAL}")
    expected = _STAGES.get(key) if isinstance(key, str) else None
    if expected is None or expected not in (target, name):
        known = ", ".join(f"{stage} with cond_stage_key {key}" for key, stage in _STAGES.items())
        raise ConfigError(
            f"{source}: cond_stage_config is {short_repr(target if name else stage)} and cond_stage_key "
            f"{short_repr(key)}; supported are {known}. {CONDITIONAL}"
        )
    _check_way(params, "crossattn" if key in (_CLASS, _TEXT, _VECTORS) else "concat", source)
    found = _of_key(key, stage, f"{source}: cond_stage_config")
    return found or _vectors(params, source)


def _check_way(params: Mapping[str, Any], wanted: str, source: str) -> None:
    """The condition must enter in the wanted way: by name, or by the default of models without one."""
    if params.get("cond_stage_forward") is not None:
        raise ConfigError(
            f"{source}: cond_stage_forward is {short_repr(params['cond_stage_forward'])}; supported is None. {NETWORK}"
        )
    way, concat = params.get("conditioning_key"), params.get("concat_mode", True)
    if type(concat) is not bool:
        raise ConfigError(f"{source}: concat_mode is {short_repr(concat)}; expected true or false. {AS_TRAINED}")
    if way is None:
        way = "concat" if concat else "crossattn"
    if way != wanted:
        raise ConfigError(
            f"{source}: conditioning_key is {short_repr(way)} (which absent means 'concat', or 'crossattn' if "
            f"concat_mode is False); supported is {wanted!r}. {CONDITIONAL}"
        )


def _of_key(key: str, stage: Any, source: str) -> ConditioningConfig | None:
    """What the stage is; None of vectors, which have nothing there."""
    if isinstance(stage, Mapping) == (key == _MASKED):
        expected = f"the text {_FIRST_STAGE}" if key == _MASKED else "a section with its target"
        raise ConfigError(f"{source} is {short_repr(stage)}; expected {expected}. {AS_TRAINED}")
    if key == _MASKED:
        return MaskedImageConfig()
    check_keys(stage, PART, source)
    settings = stage.get("params") or {}
    if not isinstance(settings, Mapping):
        raise ConfigError(f"{source}: params is {short_repr(settings)}; expected a section of settings. {AS_TRAINED}")
    if key in (_LOW_RESOLUTION, _VECTORS):
        check_keys(settings, _IDENTITY, source)
        return LowResolutionConfig() if key == _LOW_RESOLUTION else None
    if key == _CLASS:
        return _classes(settings, source)
    if key == _TEXT:
        return _text(settings, source)
    check_keys(settings, _RESCALER, source)
    if settings.get("out_channels") is None:
        raise ConfigError(f"{source}: out_channels is None; expected a number. {AS_TRAINED}")
    data = {
        "n_labels": settings.get("in_channels", 3),
        "n_stages": settings.get("n_stages", 1),
        "out_channels": settings["out_channels"],
    }
    return in_their_names(_RESCALER_NAMES, source, lambda: read_fields(SegmentationConfig, data, source))


def _vectors(params: Mapping[str, Any], source: str) -> VectorsConfig:
    """As wide as what the UNet attends to: nothing else says it."""
    unet = params.get("unet_config")
    settings = unet.get("params") if isinstance(unet, Mapping) else None
    data = {"embed_dim": settings.get("context_dim") if isinstance(settings, Mapping) else None}
    names = {"embed_dim": "unet_config: context_dim"}
    return in_their_names(names, source, lambda: read_fields(VectorsConfig, data, source))


def _classes(settings: Mapping[str, Any], source: str) -> ClassConfig:
    check_keys(settings, _EMBEDDER, source)
    if settings.get("embed_dim") is None:
        raise ConfigError(f"{source}: embed_dim is None; expected a number. {AS_TRAINED}")
    number = settings.get("n_classes", 1000)
    data = {
        "n_classes": number,
        "embed_dim": settings["embed_dim"],
        "last_is_none": number == _IMAGENET_AND_NONE,
    }
    return read_fields(ClassConfig, data, source)


def _text(settings: Mapping[str, Any], source: str) -> TextConfig:
    check_keys(settings, _BERT, source)
    if missing := [key for key in ("n_embed", "n_layer") if settings.get(key) is None]:
        raise ConfigError(f"{source}: {missing[0]} is None; expected a number. {AS_TRAINED}")
    data = {
        "embed_dim": settings["n_embed"],
        "layers": settings["n_layer"],
        "vocab_size": settings.get("vocab_size", 30522),
        "max_tokens": settings.get("max_seq_len", 77),
        **_BERT_HEADS,
    }
    return in_their_names(_BERT_NAMES, source, lambda: read_fields(TextConfig, data, source))
