"""From a path to checked tensors under our names: which format it is, which weights, which configuration.

The format is found by looking at the keys, never at a name. Every tensor that the model needs is taken exactly once;
missing, superfluous and misshapen ones end in an error that names them.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..config.compvis_yaml import read_compvis_yaml
from ..config.model import (
    FirstStageConfig,
    KLConfig,
    LDMConfig,
    ScheduleConfig,
    UNetConfig,
    VQConfig,
)
from ..config.presets import PRESETS
from ..config.strict_json import build
from ..errors import CheckpointError, ConfigError, check_choice, first_names, printable, short_repr
from .compvis import from_compvis, has_ema, is_compvis
from .file_names import SINGLE_FILE_ENDINGS, WEIGHT_NAMES
from .key_maps import current_name
from .single_file import (
    FIRST_STAGE_PREFIX,
    UNET_PREFIX,
    config_from_metadata,
    split_parts,
)
from .tensor_files import StateDict, TensorFile, read_tensor_file

_log = logging.getLogger("comfyui_ldm")

_FLOATS = (torch.float32, torch.float16, torch.bfloat16, torch.float64)
_MAX_JSON = 2**20  # bytes; a configuration has about 1 kB

WEIGHTS = ("auto", "ema", "raw")

_LAYOUT = (
    "a folder with unet/, vqvae/ and scheduler/, each with its configuration, as on the Hugging Face hub, or a single "
    "checkpoint file"
)


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint as found: configuration and float tensors under our names, mapped from disk where possible.

    Attributes:
        path: What was asked for.
        unet_file: Where the UNet's tensors come from.
        first_stage_file: Where the first stage's tensors come from; the same for a single file.
        layout: "huggingface", "compvis" or "single-file".
        weights: "ema" or "raw" for a file that holds both or says which it holds, else "only".
    """

    path: Path
    unet_file: Path
    first_stage_file: Path
    layout: str
    weights: str
    config: LDMConfig
    unet: StateDict
    first_stage: StateDict


def read_checkpoint(
    path: str | Path,
    weights: str = "auto",
    config: LDMConfig | str | Path | None = None,
    scale_factor: float | None = None,
) -> Checkpoint:
    """Read a checkpoint of any known layout.

    Args:
        path: Hugging Face folder; CompVis checkpoint, pickled or safetensors; our single file; or a folder that holds
            exactly one such file, with its YAML if it needs one.
        weights: "ema" or "raw" where the file holds both; "auto" takes EMA where present.
        config: For files that come without: a configuration, the name of a preset, or the path of a CompVis YAML.
        scale_factor: Replaces that of the configuration, for a model trained with another.

    Raises:
        CheckpointError: Missing, damaged, refused or unfitting files.
        ConfigError: Not this family, or a configuration is needed.
    """
    check_choice("weights", weights, WEIGHTS, CheckpointError)
    path = Path(path)
    if path.is_dir() and not (path / "unet").exists() and len(found := single_files(path)) == 1:
        checkpoint = _read_file(found[0], weights, config)
    elif path.is_file():
        checkpoint = _read_file(path, weights, config)
    else:
        checkpoint = _read_folder(path, weights)
    if scale_factor is not None:
        first_stage = replace(checkpoint.config.vq, scale_factor=float(scale_factor))
        checkpoint = replace(checkpoint, config=replace(checkpoint.config, vq=first_stage))
    _log.info("%s: layout %s, weights %s", path, checkpoint.layout, checkpoint.weights)
    return checkpoint


def load_into(module: nn.Module, state_dict: Mapping[str, Tensor], source: str | Path) -> None:
    """Give `module` the tensors of `state_dict` as float32, uncopied where they are that; keys and shapes must fit.

    Args:
        module: May be on the meta device; it is put into evaluation mode, without gradients.
        state_dict: Every parameter and buffer of `module`, and nothing else; on the CPU.
        source: Named in errors.

    Raises:
        CheckpointError: Missing or unexpected keys, other shapes, or values that are not finite numbers.
    """
    expected = {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()}
    found = {key: tuple(tensor.shape) for key, tensor in state_dict.items()}
    problems = []
    if missing := expected.keys() - found.keys():
        problems.append(f"missing keys: {first_names(missing)}")
    if unexpected := found.keys() - expected.keys():
        problems.append(f"unexpected keys: {first_names(unexpected)}")
    if shapes := [key for key in expected.keys() & found.keys() if expected[key] != found[key]]:
        first = min(shapes)
        problems.append(f"other shapes: {first_names(shapes)}; {first} is {found[first]}, expected {expected[first]}")
    if problems:
        raise CheckpointError(
            f"{source}: the weights do not fit the configuration ({'; '.join(problems)}). "
            "Take the configuration and the weights from the same model."
        )
    module.load_state_dict(
        {key: as_float32(tensor, key, source) for key, tensor in state_dict.items()},
        assign=True,
    )
    module.eval().requires_grad_(False)


def as_float32(tensor: Tensor, key: str, source: str | Path) -> Tensor:
    """The numbers of a tensor on the CPU, uncopied where they are float32; `key` and `source` are named in errors.

    Raises:
        CheckpointError: Another dtype, or values that are not finite numbers.
    """
    if tensor.dtype not in _FLOATS:
        raise CheckpointError(f"{source}: {key} is {tensor.dtype}; expected one of {', '.join(map(str, _FLOATS))}.")
    tensor = tensor.float()
    values = tensor.numpy()
    # Both are NaN if any element is. No memory, unlike isfinite(), and numpy's one thread does not wait for busy cores:
    # 0.08 s for the 1.3 GB of the real model, where torch's sum took up to 2 s beside a program that used all cores.
    if not (np.isfinite(values.min()) and np.isfinite(values.max())):
        raise CheckpointError(f"{source}: {key} holds NaN or infinite values. The file is damaged: download it again.")
    return tensor


def _read_folder(root: Path, weights: str) -> Checkpoint:
    """The Hugging Face layout: three parts, each with its configuration."""
    if not root.is_dir():
        raise CheckpointError(f"{root}: nothing is there; expected {_LAYOUT}. Check the path, or download the model.")
    if weights == "ema":
        raise CheckpointError(f"{root}: a Hugging Face folder holds one set of weights; take weights 'auto' or 'raw'.")
    stage = "vae" if (root / "vae").is_dir() and not (root / "vqvae").is_dir() else "vqvae"
    files = [
        root / "unet" / "config.json",
        root / stage / "config.json",
        root / "scheduler" / "scheduler_config.json",
    ]
    missing = [str(file.relative_to(root)) for file in files if not file.is_file()]
    if missing:
        raise CheckpointError(
            f"{root}: {', '.join(missing)} missing; expected {_LAYOUT}. Copy the configuration files of the model "
            "beside its weights."
        )
    unet, first_stage, schedule = (read_json(file) for file in files)
    stage_class: type[FirstStageConfig] = KLConfig if stage == "vae" else VQConfig
    parts = {
        "unet": UNetConfig.from_dict(unet, str(files[0])),
        "vq": stage_class.from_dict(first_stage, str(files[1])),
        "schedule": ScheduleConfig.from_dict(schedule, str(files[2])),
    }
    config = build(LDMConfig, str(root), parts)
    unet_file, stage_file = (find_weights(root / part) for part in ("unet", stage))
    tensors, stage_tensors = (with_current_names(read_tensor_file(file)) for file in (unet_file, stage_file))
    return Checkpoint(root, unet_file, stage_file, "huggingface", "only", config, tensors, stage_tensors)


def find_weights(folder: Path) -> Path:
    """The weight file of one part, safetensors before pickle.

    Raises:
        CheckpointError: None of the known names is there.
    """
    for name in WEIGHT_NAMES:
        if (folder / name).is_file():
            return folder / name
    found = first_names([item.name for item in folder.iterdir()]) or "nothing"
    raise CheckpointError(f"{folder}: no weights; expected {' or '.join(WEIGHT_NAMES)}, found {found}.")


def with_current_names(file: TensorFile) -> StateDict:
    """The tensors under today's names.

    Raises:
        CheckpointError: A tensor is there under its old and its new name.
    """
    tensors: StateDict = {}
    for key, tensor in file.tensors.items():
        name = current_name(key)
        if name in tensors:
            where = f"{file.path}: {printable(name)}"
            raise CheckpointError(f"{where} is there twice, under its old and its new name. Remove one.")
        tensors[name] = tensor
    return tensors


def _read_file(path: Path, weights: str, config: LDMConfig | str | Path | None) -> Checkpoint:
    """One file with the UNet and the first stage."""
    file = read_tensor_file(path)
    if is_compvis(file.tensors):
        resolved = _resolve_config(file, config)
        chosen = ("ema" if has_ema(file.tensors) else "raw") if weights == "auto" else weights
        resolved, unet, first_stage = from_compvis(file, resolved, chosen)
        return Checkpoint(path, path, path, "compvis", chosen, resolved, unet, first_stage)
    unet, first_stage = split_parts(with_current_names(file))
    if not unet or not first_stage:
        raise CheckpointError(_incomplete_message(file))
    stored = file.metadata.get("weights", "only")
    if stored not in ("ema", "raw", "only"):
        raise CheckpointError(f"{path}: its metadata says weights {short_repr(stored)}; expected ema, raw or only.")
    if weights != "auto" and stored not in (weights, "only"):
        raise CheckpointError(f"{path}: holds the {stored} weights, asked for were {weights}. Take 'auto'.")
    if weights == "ema" and stored == "only":
        raise CheckpointError(
            f"{path}: holds one set of weights and does not say that it is EMA; take weights 'auto' or 'raw'."
        )
    return Checkpoint(path, path, path, "single-file", stored, _resolve_config(file, config), unet, first_stage)


def single_files(folder: Path) -> list[Path]:
    """The files in a folder that may be checkpoints, by their endings; what they are is told by their content."""
    return sorted(item for item in folder.iterdir() if item.suffix in SINGLE_FILE_ENDINGS and item.is_file())


def _resolve_config(file: TensorFile, config: LDMConfig | str | Path | None) -> LDMConfig:
    """What was given, else the file's own metadata, else the YAML beside it; never a guess."""
    if isinstance(config, LDMConfig):
        return config
    if config is not None:
        if str(config) in PRESETS:
            return PRESETS[str(config)]
        if Path(config).is_file():
            return read_compvis_yaml(Path(config))
        raise ConfigError(f"config is {str(config)!r}: neither a file nor one of {', '.join(PRESETS)}.")
    own = config_from_metadata(file.metadata, str(file.path))
    if own is not None:
        return own
    for yaml in (file.path.with_suffix(".yaml"), file.path.parent / "config.yaml"):
        if yaml.is_file():
            return read_compvis_yaml(yaml)
    raise ConfigError(
        f"{file.path}: no configuration, and its tensors cannot tell the attention heads, the scale factor and the "
        f"betas. Say which model it is (config {', '.join(PRESETS)}), or put its config.yaml beside it."
    )


def _incomplete_message(file: TensorFile) -> str:
    keys = file.tensors.keys()
    if any(key.startswith((UNET_PREFIX, FIRST_STAGE_PREFIX)) for key in keys):
        found = "only one of the two networks"
    elif "conv_in.weight" in keys or "input_blocks.0.0.weight" in keys:
        found = "a UNet without its first stage"
    elif "decoder.conv_in.weight" in keys:
        found = "a first stage without a UNet; load_first_stage reads it"
    else:
        found = f"the keys {first_names(list(keys))}" if keys else "no tensors"
    return (
        f"{file.path}: holds {found}; expected the UNet (model.diffusion_model.* or {UNET_PREFIX}*) and the first "
        f"stage (first_stage_model.* or {FIRST_STAGE_PREFIX}*). Take the complete checkpoint."
    )


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        CheckpointError: Unreadable, or not an object.
    """
    try:
        if (size := file.stat().st_size) > _MAX_JSON:
            raise CheckpointError(f"{file}: {size} bytes; a configuration has about a thousand.")
        data = json.loads(file.read_text(encoding="utf-8"))
    except CheckpointError:
        raise
    except (ValueError, RecursionError, OSError) as error:
        raise CheckpointError(f"{file}: not valid JSON ({printable(str(error))}). Download the file again.") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{file}: holds a {type(data).__name__}; expected a JSON object of settings.")
    return data
