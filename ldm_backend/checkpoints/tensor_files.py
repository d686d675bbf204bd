"""Read tensors from one file without executing anything in it. Imports errors and pickle_check.

What a file is, is told by its first bytes, never by its name: safetensors, or the zip archive that `torch.save` writes.
Archives are read by torch's `weights_only` reader, after pickle_check has followed their pickle; sizes are checked
before anything is allocated.
"""

from __future__ import annotations

import pickle
import re
import struct
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor

from ..errors import CheckpointError, first_names, printable
from .pickle_check import RefusedError, check_pickle

StateDict = dict[str, Tensor]

# Bytes of what is parsed before any tensor is looked at. The largest known files have 0.2 MB and 0.4 MB of these.
_MAX_HEADER = 8 * 2**20  # safetensors; a workflow may be in its metadata
_MAX_PICKLE = 4 * 2**20
_MAX_DIRECTORY = 8 * 2**20  # list of the records of an archive
_MAX_TENSORS = 20_000  # ten times those of the largest known file
_MAX_DIMENSIONS = 8  # of a tensor; ours have at most four
# What was seen on damaged bytes, of zipfile and pickle_check, and of torch's restricted reader besides UnpicklingError.
_ARCHIVE_ERRORS = (zipfile.BadZipFile, OSError, ValueError, RuntimeError, EOFError, struct.error)
_PICKLE_ERRORS = (*_ARCHIVE_ERRORS, LookupError, AttributeError, TypeError, AssertionError)


class _Inert:
    """Stands in for the few classes that training checkpoints mention beside their tensors; it does nothing."""

    def __init__(self, *_: Any, **__: Any) -> None:
        return

    def __setstate__(self, _: Any) -> None:
        return


# Classes and functions that checkpoints of PyTorch Lightning name, replaced by `_Inert`: none of them is imported.
_INERT_NAMES = (
    "numpy._core.multiarray.scalar",
    "numpy.core.multiarray.scalar",
    "numpy.dtype",
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    "pytorch_lightning.utilities.types._METRIC",
)


@dataclass(frozen=True)
class TensorFile:
    """The tensors of one file, mapped from disk, and the text that safetensors may carry beside them."""

    path: Path
    tensors: StateDict
    metadata: dict[str, str] = field(default_factory=dict)


def read_tensor_file(path: Path) -> TensorFile:
    """Read a file.

    Args:
        path: Safetensors, or an archive of `torch.save`: a table of tensors, or a table with one under `state_dict`.

    Returns:
        Every tensor, detached, on the CPU, in the file's dtype.

    Raises:
        CheckpointError: Not such a file, damaged, or an archive that names anything beyond tensors.
    """
    if not path.is_file():
        kind = "a folder" if path.is_dir() else "nothing readable"
        raise CheckpointError(f"{path}: {kind} is there; expected a checkpoint file. Check the path.")
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be opened ({error.strerror}). Check the permissions.") from error
    if start[:4] == b"PK\x03\x04":
        return TensorFile(path, _read_archive(path))
    if start[8:9] == b"{":
        return _read_safetensors(path, int.from_bytes(start[:8], "little"))
    raise CheckpointError(_unknown_format(path, start))


def _read_safetensors(path: Path, header: int) -> TensorFile:
    if header > _MAX_HEADER:
        raise CheckpointError(f"{path}: refused: a header of {header} bytes; expected at most {_MAX_HEADER}.")
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            keys = file.keys()
            if len(keys) > _MAX_TENSORS:
                raise CheckpointError(f"{path}: refused: {len(keys)} tensors; expected at most {_MAX_TENSORS}.")
            tensors = {key: file.get_tensor(key) for key in keys}
            metadata = file.metadata() or {}
    except CheckpointError:
        raise
    except (safetensors.SafetensorError, OSError, RuntimeError, ValueError, AttributeError, TypeError) as error:
        raise CheckpointError(damaged(path, error)) from error
    return TensorFile(path, {key: _checked(path, key, tensor) for key, tensor in tensors.items()}, metadata)


def _read_archive(path: Path) -> StateDict:
    _check_archive(path)
    inert: list[Any] = [(_Inert, name) for name in _INERT_NAMES]
    try:
        with torch.serialization.safe_globals(inert):
            data = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError as error:
        names = sorted(set(re.findall(r"GLOBAL ([\w.]+)", str(error))))
        raise CheckpointError(_refused(path, names) if names else damaged(path, error)) from error
    except _PICKLE_ERRORS as error:
        raise CheckpointError(damaged(path, error)) from error
    if isinstance(data, dict) and isinstance(inner := dict.get(data, "state_dict"), dict):
        data = inner
    if not isinstance(data, dict) or not all(isinstance(key, str) for key in data):
        raise CheckpointError(f"{path}: holds a {type(data).__name__}; expected a table of tensors by name.")
    # dict.items: a file can give its table an attribute of any name, which would hide the method of that name.
    return {key: _checked(path, key, tensor) for key, tensor in dict.items(data)}


def _check_archive(path: Path) -> None:
    """Refuse an archive that would grow or act when read."""
    try:
        _check_directory(path)
        with zipfile.ZipFile(path) as archive:
            root, sizes = _check_records(path, archive.infolist())
            if root + "byteorder" in sizes and archive.read(root + "byteorder") != b"little":
                raise CheckpointError(f"{path}: refused: its numbers are big-endian. Save it on a usual machine.")
            table = archive.read(root + "data.pkl")
        storages = {name.removeprefix(root + "data/"): size for name, size in sizes.items()}
        check_pickle(table, storages, _INERT_NAMES)
    except CheckpointError:
        raise
    except RefusedError as error:
        raise CheckpointError(_refused(path, error.names)) from error
    except _ARCHIVE_ERRORS as error:
        raise CheckpointError(damaged(path, error)) from error


def _check_directory(path: Path) -> None:
    """The list of records must end the file, as torch.save writes it: then all readers find the same list."""
    with path.open("rb") as file:
        file.seek(max(path.stat().st_size - 98, 0))
        tail = file.read()
    end = tail[-22:]
    sizes = [end[12:16]] + ([tail[40:48]] if tail.startswith(b"PK\x06\x06") else [])  # the second in the long form
    long = any(int.from_bytes(size, "little") > _MAX_DIRECTORY for size in sizes)
    if not end.startswith(b"PK\x05\x06") or end[20:] != b"\0\0" or long:
        raise ValueError("it does not end with its list of records, or that list is too long")


def _check_records(path: Path, records: list[zipfile.ZipInfo]) -> tuple[str, dict[str, int]]:
    """The archive's root folder with its slash, and bytes by name. torch stores records as they are, once each."""
    sizes = {record.filename: record.file_size for record in records}
    packed = [record.filename for record in records if record.compress_type != zipfile.ZIP_STORED]
    total = sum(sizes.values())
    if packed or total > path.stat().st_size:
        what = f"{first_names(packed)} compressed" if packed else f"records of {total} bytes"
        raise CheckpointError(
            f"{path}: refused: an archive of {path.stat().st_size} bytes with {what}, which torch.save never writes."
        )
    tables = [name for name in sizes if name.rpartition("/")[2] == "data.pkl"]
    if len(tables) != 1 or len({name.lower() for name in sizes}) != len(records) or sizes[tables[0]] > _MAX_PICKLE:
        raise CheckpointError(
            f"{path}: refused: {len(tables)} tables of contents (data.pkl) in {len(records)} records; expected one, of "
            f"at most {_MAX_PICKLE} bytes, and records of different names, as torch.save writes."
        )
    root = tables[0].removesuffix("data.pkl")
    if root + "constants.pkl" in sizes:
        raise CheckpointError(f"{path}: a TorchScript program; expected tensors. Save its state_dict instead.")
    return root, sizes


def _checked(path: Path, key: str, tensor: Any) -> Tensor:
    """A plain tensor whose elements all lie in the file."""
    name = first_names([key])
    if not isinstance(tensor, Tensor):
        raise CheckpointError(f"{path}: {name} is {type(tensor).__name__}; expected a tensor.")
    if tensor.ndim > _MAX_DIMENSIONS:
        raise CheckpointError(f"{path}: refused: {name} has {tensor.ndim} dimensions.")
    size, stored = tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes()
    if size > stored:
        raise CheckpointError(f"{path}: refused: {name} claims {size} bytes, of which the file holds {stored}.")
    return tensor.detach()


def damaged(path: Path, error: Exception) -> str:
    """The message for a file that cannot be read to its end."""
    # torch prefixes its reason with advice to switch the safe reader off; only the reason is for our readers.
    text = (str(error).partition("WeightsUnpickler error: ")[2] or str(error)).strip()
    reason = printable(text.splitlines()[0], 200) if text else type(error).__name__
    size = path.stat().st_size
    return f"{path}: cannot be read, {size} bytes ({reason}). It is cut short or damaged: download it again."


def _refused(path: Path, names: list[str]) -> str:
    command = (
        'python -c "import sys, torch, safetensors.torch as s; d = torch.load(sys.argv[1], weights_only=False); '
        "s.save_file({k: v.contiguous() for k, v in d.get('state_dict', d).items()}, sys.argv[2])\" IN OUT.safetensors"
    )
    return (
        f"{path}: refused, because it calls for {first_names(names)}. Only plain tensors are accepted, since anything "
        f"else can run code. If you trust whoever made the file, convert it where that code may run: {command}"
    )


def _unknown_format(path: Path, start: bytes) -> str:
    size = path.stat().st_size
    if not start:
        found = "an empty file"
    elif start[:1] == b"\x80" or start[:2] == b"\x8a\n":
        found = "a bare pickle, as torch.save wrote before PyTorch 1.6"
    elif start[:7] == b"version":
        found = "a Git LFS pointer instead of the weights; run `git lfs pull`, or"
    else:
        found = f"a file that starts with {start[:8]!r}"
    return (
        f"{path}: cannot be read, {size} bytes: {found}. Expected safetensors, or the archive that torch.save writes; "
        "download it again, or save it anew with a current PyTorch."
    )
