"""Read a checkpoint from disk: find its files, read them safely, name and check every tensor.

Nothing in a file is ever executed: safetensors, or pickles through torch's `weights_only` reader.
"""

from __future__ import annotations

import json
import pickle
import re
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from .config import LDMConfig, ScheduleConfig, UNetConfig, VQConfig
from .errors import CheckpointError, first_names
from .key_maps import current_name

# In order of preference; the last is the name of the first uploads of 2022.
WEIGHT_NAMES = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin", "diffusion_model.pt")
# What torch's restricted reader was seen to raise on damaged bytes, besides UnpicklingError.
_PICKLE_ERRORS = (
    RuntimeError,
    EOFError,
    OSError,
    LookupError,
    AttributeError,
    TypeError,
    ValueError,
    AssertionError,
    struct.error,
)
_LAYOUT = "a folder with unet/, vqvae/ and scheduler/, each with its configuration, as on the Hugging Face hub"

StateDict = dict[str, Tensor]


def read_config(path: str | Path) -> LDMConfig:
    """Read the three configuration files of a Hugging Face folder.

    Raises: CheckpointError: not such a folder, or a file missing or no JSON object; ConfigError: not this family.
    """
    root = Path(path)
    if not root.is_dir():
        found = "it is a file" if root.is_file() else "nothing is there"
        raise CheckpointError(f"{root}: {found}; expected {_LAYOUT}. Check the path, or download the model first.")
    files = [
        root / "unet" / "config.json",
        root / "vqvae" / "config.json",
        root / "scheduler" / "scheduler_config.json",
    ]
    missing = [str(file.relative_to(root)) for file in files if not file.is_file()]
    if missing:
        raise CheckpointError(
            f"{root}: {', '.join(missing)} missing; expected {_LAYOUT}. Copy the configuration files of the model "
            "beside its weights."
        )
    unet, vq, schedule = (_read_json(file) for file in files)
    return LDMConfig(
        unet=UNetConfig.from_dict(unet, str(files[0])),
        vq=VQConfig.from_dict(vq, str(files[1])),
        schedule=ScheduleConfig.from_dict(schedule, str(files[2])),
    )


def read_state_dicts(path: str | Path) -> tuple[LDMConfig, StateDict, StateDict]:
    """Read a Hugging Face folder.

    Args:
        path: folder with `unet/`, `vqvae/` and `scheduler/`.
    Returns: configuration, and the float32 tensors of the UNet and of the first stage under today's names.
    Raises: CheckpointError: a file is missing, damaged or refused; ConfigError: not this family.
    """
    config = read_config(path)
    unet, vq = (read_weights(find_weights(Path(path) / part)) for part in ("unet", "vqvae"))
    return config, unet, vq


def find_weights(folder: Path) -> Path:
    """The weight file of one part, safetensors before pickle.

    Raises: CheckpointError: none of the known names is there.
    """
    for name in WEIGHT_NAMES:
        if (folder / name).is_file():
            return folder / name
    found = first_names([item.name for item in folder.iterdir()]) or "nothing"
    raise CheckpointError(f"{folder}: no weights; expected {' or '.join(WEIGHT_NAMES)}, found {found}.")


def read_weights(file: Path) -> StateDict:
    """Read one weight file under today's names, as float32.

    Raises: CheckpointError: truncated or damaged, not a plain table of tensors, or a pickle that names anything
        beyond tensors.
    """
    raw = _read_safetensors(file) if file.suffix == ".safetensors" else _read_pickle(file)
    state_dict: StateDict = {}
    for key, tensor in raw.items():
        name = current_name(key)
        if name in state_dict:
            raise CheckpointError(f"{file}: {name} is there twice, under its old and its new name. Remove one of them.")
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            kind = tensor.dtype if isinstance(tensor, Tensor) else type(tensor).__name__
            raise CheckpointError(f"{file}: {key} is {kind}; expected a floating-point tensor.")
        state_dict[name] = tensor.float()
    return state_dict


def load_into(module: nn.Module, state_dict: Mapping[str, Tensor], source: str | Path) -> None:
    """Give `module` the tensors of `state_dict` without copying them; every key and shape must fit.

    Args:
        module: may be on the meta device; it is put into evaluation mode, without gradients.
        state_dict: every parameter and buffer of `module`, and nothing else.
        source: named in errors.
    Raises: CheckpointError: missing or unexpected keys, or other shapes.
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
            f"{source}: the weights do not fit the configuration beside them ({'; '.join(problems)}). "
            "Take the configuration and the weights from the same model."
        )
    module.load_state_dict(state_dict, strict=True, assign=True)
    module.eval().requires_grad_(False)


def _read_json(file: Path) -> dict[str, Any]:
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{file}: not valid JSON ({error}). Download the file again.") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{file}: holds a {type(data).__name__}; expected a JSON object of settings.")
    return data


def _read_safetensors(file: Path) -> StateDict:
    try:
        return safetensors.torch.load_file(file)
    except (safetensors.SafetensorError, OSError) as error:
        raise CheckpointError(_damaged(file, error)) from error


def _read_pickle(file: Path) -> Mapping[str, Any]:
    try:
        data = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        names = sorted(set(re.findall(r"GLOBAL ([\w.]+)", str(error))))
        if not names:
            raise CheckpointError(_damaged(file, error)) from error
        raise CheckpointError(
            f"{file}: refused, because reading this pickle would call {first_names(names)}, which can run code; only "
            "tensors are accepted. Convert the file to safetensors with a program and on a machine you trust it to."
        ) from error
    except _PICKLE_ERRORS as error:
        raise CheckpointError(_damaged(file, error)) from error
    if not isinstance(data, Mapping) or not all(isinstance(key, str) for key in data):
        raise CheckpointError(f"{file}: holds a {type(data).__name__}; expected a table of tensors by name.")
    return data


def _damaged(file: Path, error: Exception) -> str:
    # torch prefixes its reason with advice to switch the safe reader off; only the reason is for our readers.
    text = str(error).partition("WeightsUnpickler error: ")[2] or str(error)
    reason = text.strip().splitlines()[0] if text.strip() else type(error).__name__
    size = file.stat().st_size
    return f"{file}: cannot be read, {size} bytes ({reason}). It is cut short or damaged: download it again."
