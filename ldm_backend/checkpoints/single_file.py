"""Our own single file: safetensors with the names `unet.*` and `vqvae.*`, and the configuration in its metadata.

Where weights make the conditioning, they are there as `conditioner.*`.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import safetensors.torch
import torch

from ..config.conditioning import conditioning_from_json, conditioning_to_json
from ..config.model import FIRST_STAGE_CONFIGS, LDMConfig, ScheduleConfig, UNetConfig
from ..config.strict_json import build, later_defaults, read_fields, write_fields
from ..errors import CheckpointError, check_choice, first_names, printable, short_repr
from ..json_text import parse_json
from ..whole_files import replaced_when_done
from .compvis import UNET as COMPVIS_UNET
from .tensor_files import StateDict, TensorFile, under

FORMAT = "comfyui-ldm.1"  # in the metadata; a later layout gets a higher number
UNET_PREFIX, FIRST_STAGE_PREFIX, CONDITIONER_PREFIX = "unet.", "vqvae.", "conditioner."
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def fill_single_file(
    path: Path,
    config: LDMConfig,
    unet: Mapping[str, torch.Tensor],
    first_stage: Mapping[str, torch.Tensor],
    dtype: str,
    metadata: Mapping[str, str] | None,
    conditioner: Mapping[str, torch.Tensor] | None = None,
) -> None:
    """Write a checkpoint into a file that nobody else reads yet, and that its caller removes if this fails.

    Args:
        path: The file.
        config: Written into the metadata, so that the file needs nothing beside it.
        unet: Tensors under our names.
        first_stage: likewise.
        dtype: "fp32", "fp16" or "bf16" on disk.
        metadata: Further texts, for example the weights' origin.
        conditioner: Tensors of the network that makes the conditioning, where there is one.

    Raises:
        CheckpointError: Unknown dtype.
        OSError or SafetensorError: The file cannot be written.
    """
    check_choice("dtype", dtype, DTYPES, CheckpointError)
    parts = ((UNET_PREFIX, unet), (FIRST_STAGE_PREFIX, first_stage), (CONDITIONER_PREFIX, conditioner or {}))
    tensors = {prefix + key: tensor for prefix, part in parts for key, tensor in in_dtype(part, dtype, prefix).items()}
    texts = {
        **(metadata or {}),
        "format": FORMAT,
        "ldm_config": json.dumps(config_to_json(config)),
    }
    safetensors.torch.save_file(tensors, path, metadata=texts)


def in_dtype(tensors: Mapping[str, torch.Tensor], dtype: str, prefix: str = "") -> StateDict:
    """The tensors in one of `DTYPES`, as they are written.

    Raises:
        CheckpointError: A number is too large for it, and would be written as infinity.
    """
    written = {}
    for key, tensor in tensors.items():
        written[key] = tensor.to(DTYPES[dtype]).contiguous()
        if tensor.dtype == DTYPES[dtype]:
            continue
        if bool(torch.isinf(written[key]).any()) and not bool(torch.isinf(tensor).any()):
            raise CheckpointError(
                f"{prefix}{printable(key)} holds {float(tensor.abs().max()):.4g}, and {dtype} ends at "
                f"{torch.finfo(DTYPES[dtype]).max:.4g}: it would be written as infinity. Take bf16 or fp32."
            )
    return written


@contextlib.contextmanager
def written(path: Path, folder: bool = False) -> Iterator[Path]:
    """`replaced_when_done`, with the family's error.

    Raises:
        CheckpointError: The folder cannot be written, or the disk is full.
    """
    try:
        with replaced_when_done(path, folder) as scratch:
            yield scratch
    except (OSError, safetensors.SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(
            f"{path}: cannot be written ({reason}). Nothing was changed; free some space, or choose another folder."
        ) from error


def config_to_json(config: LDMConfig) -> dict[str, Any]:
    """The configuration under the names of our dataclasses, as the first release wrote it where it could be written."""
    written = {
        "unet": _written(config.unet),
        "first_stage": {"kind": config.first_stage.kind, **_written(config.first_stage)},
        "schedule": _written(config.schedule),
    }
    conditioning = config.conditioning
    return written if conditioning is None else {**written, "conditioning": conditioning_to_json(conditioning)}


def _written(part: Any) -> dict[str, Any]:
    """The fields of a part; those of later releases only where they differ from what older files mean."""
    usual = {name for name, default in later_defaults(type(part)).items() if getattr(part, name) == default}
    return {key: value for key, value in write_fields(part).items() if key not in usual}


def config_from_metadata(metadata: Mapping[str, str], source: str) -> LDMConfig | None:
    """The configuration in a file's metadata; None if there is none.

    Raises:
        CheckpointError: Of a later format, or damaged.
        ConfigError: Not this family.
    """
    if "ldm_config" not in metadata:
        return None
    if metadata.get("format") != FORMAT:
        raise CheckpointError(
            f"{source}: format is {short_repr(metadata.get('format'))}, this release reads {FORMAT!r}. "
            "Update comfyui-ldm."
        )
    try:
        data = parse_json(metadata["ldm_config"])
        if not isinstance(data, dict):
            raise TypeError(f"it is a {type(data).__name__}, and no object")
        unet, first_stage, schedule = (dict(data.pop(name)) for name in ("unet", "first_stage", "schedule"))
        conditioning = data.pop("conditioning", None)  # of models that see something beside the noise
        if data:
            raise ValueError(f"keys unknown: {first_names([*data])}")
        first_stage_class = {stage.kind: stage for stage in FIRST_STAGE_CONFIGS}[first_stage.pop("kind")]
        for cls, part in ((UNetConfig, unet), (first_stage_class, first_stage), (ScheduleConfig, schedule)):
            known = {item.name for item in fields(cls)}
            if other := (part.keys() - known) | (known - part.keys() - later_defaults(cls).keys()):
                raise ValueError(f"keys missing or unknown: {first_names(other)}")
    except (ValueError, KeyError, TypeError) as error:
        reason = f"{type(error).__name__}: {printable(str(error))}"
        raise CheckpointError(
            f"{source}: its metadata holds no valid configuration ({reason}). Convert the checkpoint again, or update "
            "comfyui-ldm if a newer one wrote it."
        ) from error
    parts = {
        "unet": read_fields(UNetConfig, unet, f"{source}: unet"),
        "first_stage": read_fields(first_stage_class, first_stage, f"{source}: first_stage"),
        "schedule": read_fields(ScheduleConfig, schedule, f"{source}: schedule"),
    }
    if conditioning is not None:
        parts["conditioning"] = conditioning_from_json(conditioning, f"{source}: conditioning")
    return build(LDMConfig, source, parts)


def split_parts(tensors: StateDict) -> tuple[StateDict, StateDict]:
    """(UNet, first stage) of tensors whose names begin with `unet.` and `vqvae.`; prefixes removed."""
    return under(UNET_PREFIX, tensors), under(FIRST_STAGE_PREFIX, tensors)


def refuse_incomplete(file: TensorFile) -> None:
    """Raise CheckpointError that says what a file holds in the place of both networks under our names."""
    keys = file.tensors.keys()
    if prefix := next((key.partition(COMPVIS_UNET)[0] for key in keys if f".{COMPVIS_UNET}" in key), ""):
        raise CheckpointError(
            f"{file.path}: its names have {printable(prefix)} before {COMPVIS_UNET}*; expected nothing there. Save "
            "them without it."
        )
    if any(key.startswith((UNET_PREFIX, FIRST_STAGE_PREFIX)) for key in keys):
        found = "only one of the two networks"
    elif "conv_in.weight" in keys or "input_blocks.0.0.weight" in keys:
        found = "a UNet without its first stage"
    elif "decoder.conv_in.weight" in keys:
        found = "a first stage without a UNet; load_first_stage reads it"
    else:
        found = f"the keys {first_names(list(keys))}" if keys else "no tensors"
    raise CheckpointError(
        f"{file.path}: holds {found}; expected the UNet (model.diffusion_model.* or {UNET_PREFIX}*) and the first "
        f"stage (first_stage_model.* or {FIRST_STAGE_PREFIX}*). Take the complete checkpoint."
    )


def refuse_rest(keys: Iterable[str], path: Path) -> None:
    """Every tensor of the file belongs to one of the networks.

    Args:
        keys: The names of all tensors.
        path: The file, for errors.

    Raises:
        CheckpointError: One belongs to none.
    """
    prefixes = (UNET_PREFIX, FIRST_STAGE_PREFIX, CONDITIONER_PREFIX)
    if foreign := [key for key in keys if not key.startswith(prefixes)]:
        raise CheckpointError(
            f"{path}: unexpected keys: {first_names(foreign)}; expected {UNET_PREFIX}* and {FIRST_STAGE_PREFIX}*. "
            "A tensor that is not understood may change the picture: if nothing needs them, remove them from the file."
        )
