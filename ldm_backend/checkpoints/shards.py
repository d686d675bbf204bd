"""Weights that are spread over several files, as an index beside them says. It never leads out of its folder."""

from __future__ import annotations

import re
from pathlib import Path

from ..errors import CheckpointError, first_names, short_repr
from ..locations import is_index
from .configuration import read_json
from .tensor_files import StateDict, TensorFile, read_tensor_file

_MOST = 1000  # files; models of this family fit into one or two
_NAME = re.compile(r"\w[\w.-]*\.(?:safetensors|bin)")  # no separator of any system, no drive, no hidden file


def read_weights(path: Path, weights: str = "auto") -> TensorFile:
    """A file of tensors, or all files that an index names; arguments as for `read_tensor_file`.

    Raises:
        CheckpointError: As there, or an index that does not say which tensor is where.
    """
    if not is_index(path):
        return read_tensor_file(path, weights)
    places = _places(path)
    tensors: StateDict = {}
    for file in dict.fromkeys(places.values()):
        shard = read_tensor_file(path.parent / file, weights)
        if strange := [key for key in shard.tensors if places.get(key) != file]:
            raise CheckpointError(
                f"{path}: {file} holds {first_names(strange)}, which the index does not look for there. "
                "Download both again."
            )
        tensors |= shard.tensors
    if missing := places.keys() - tensors.keys():
        raise CheckpointError(
            f"{path}: {first_names(missing)} missing in the files that it names. Download them again."
        )
    return TensorFile(path, tensors)


def weight_files(path: Path) -> tuple[Path, ...]:
    """The file itself, and what it names if it is an index."""
    if not is_index(path):
        return (path,)
    return (path, *(path.parent / file for file in dict.fromkeys(_places(path).values())))


def _places(index: Path) -> dict[str, str]:
    """Tensor -> name of its file."""
    found = read_json(index)
    if unknown := found.keys() - {"weight_map", "metadata"}:
        raise CheckpointError(
            f"{index}: unknown keys {first_names(unknown)}; expected weight_map and metadata. Remove them if nothing "
            "needs them."
        )
    places = found.get("weight_map")
    if not isinstance(places, dict) or not places:
        raise CheckpointError(
            f"{index}: weight_map is {short_repr(places)}; expected the file of each tensor. Download it again."
        )
    for file in places.values():
        if not isinstance(file, str) or not _NAME.fullmatch(file):
            raise CheckpointError(
                f"{index}: refused: it names {short_repr(file)}; expected files of its own folder. Name them there."
            )
    if len(set(places.values())) > _MOST:
        raise CheckpointError(
            f"{index}: refused: it names {len(set(places.values()))} files; expected at most {_MOST}. Save fewer."
        )
    return places
