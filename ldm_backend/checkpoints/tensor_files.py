"""Read tensors from one file without executing anything in it. Imports errors and torch_archive.

What a file is, is told by its first bytes, never by its name: safetensors, or the zip archive that `torch.save` writes.
It is opened once, and what was checked is what is used: the archive's pickle is never handed to an unpickler, and both
formats are mapped from the file that is open. Sizes are checked before anything is allocated.
"""

from __future__ import annotations

import os
import struct
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import safetensors
import torch
from torch import Tensor

from ..archives.pickle_table import RefusedError, StoredTensor, Table, read_pickle_table
from ..archives.torch_archive import UnusualArchiveError, make_tensor, read_archive
from ..errors import CheckpointError, check_choice, first_names, printable, repeated

StateDict = dict[str, Tensor]

# Bytes of a safetensors header, which may hold a workflow. The largest known files have 0.2 MB.
_MAX_HEADER = 8 * 2**20
_MAX_TENSORS = 20_000  # ten times those of the largest known file
_MAX_DIMENSIONS = 8  # of a tensor; ours have at most four
# What was seen on damaged bytes, of zipfile, pickletools and torch.
_ARCHIVE_ERRORS = (zipfile.BadZipFile, OSError, ValueError, RuntimeError, EOFError, struct.error, OverflowError)


# Classes and functions that checkpoints of PyTorch Lightning name beside their tensors: none of them is imported.
_INERT_NAMES = (
    "numpy._core.multiarray.scalar",
    "numpy.core.multiarray.scalar",
    "numpy.dtype",
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
    "pytorch_lightning.utilities.types._METRIC",
)


# Where training scripts put the weights in a file, plain and averaged.
_TABLES = {
    "raw": ("state_dict", "model_state_dict", "model"),
    "ema": ("ema", "ema_state_dict", "ema_model", "model_ema"),
}
_NAMELESS = (
    "{}: its averaged weights are shadow_params, a list without names, as EMAModel.state_dict() gives. Save them with "
    "EMAModel.save_pretrained, which writes a folder with names."
)


def copies_weights() -> bool:
    """Whether networks get copies of their weights in memory instead of the mapped file: LDM_COPY_WEIGHTS is 1.

    Mapped weights take no memory of their own and no time to load, but a file that is cut short in place ends the
    process. So the user chooses, once for everything that is loaded; what that costs is in docs/faults.md.

    Raises:
        CheckpointError: It is neither 0 nor 1.
    """
    value = os.environ.get("LDM_COPY_WEIGHTS") or "0"
    check_choice("the environment variable LDM_COPY_WEIGHTS", value, ("0", "1"), CheckpointError)
    return value == "1"


def under(prefix: str, tensors: StateDict) -> StateDict:
    """The tensors whose names begin with a prefix, named without it."""
    return {key.removeprefix(prefix): tensor for key, tensor in tensors.items() if key.startswith(prefix)}


@dataclass(frozen=True)
class TensorFile:
    """The tensors of one file, mapped from disk.

    Attributes:
        metadata: The text that safetensors may carry beside them.
        stored: "ema" or "raw" where the file has a table of each and this is that one; None where it does not say.
    """

    path: Path
    tensors: StateDict
    metadata: dict[str, str] = field(default_factory=dict)
    stored: str | None = None


def read_tensor_file(path: Path, weights: str = "auto") -> TensorFile:
    """Read a file.

    Args:
        path: Safetensors, or an archive of `torch.save`: a table of tensors, or a table with one under a name of
            `_TABLES`.
        weights: "ema" or "raw" where an archive has a table of each; "auto" takes the averaged one.

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
            return _read_opened(path, file, weights)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}). Check the permissions.") from error


def _read_opened(path: Path, file: BinaryIO, weights: str) -> TensorFile:
    size, start = os.fstat(file.fileno()).st_size, file.read(9)
    if start[:4] == b"PK\x03\x04":
        tensors, stored = _read_archive(path, file, size, weights)
        return TensorFile(path, _unwrapped(path, tensors), stored=stored)
    if start[8:9] == b"{":
        return _read_safetensors(path, file, int.from_bytes(start[:8], "little"))
    raise CheckpointError(_unknown_format(path, start, size))


@contextmanager
def _same_file(path: Path, file: BinaryIO) -> Iterator[str]:
    """A path for readers that open files themselves, of the very file that is open, whatever has its name by now.

    Raises:
        CheckpointError: Another file got its name, on systems where an open file has no other name.
    """
    alias = f"/proc/self/fd/{file.fileno()}"
    if os.path.exists(alias):
        yield alias
        return
    yield str(path)
    if not os.path.samestat(os.fstat(file.fileno()), path.stat()):
        raise CheckpointError(f"{path}: another file took its place while it was read. Load it again.")


def _read_safetensors(path: Path, opened: BinaryIO, header: int) -> TensorFile:
    if header > _MAX_HEADER:
        raise CheckpointError(f"{path}: refused: a header of {header} bytes; expected at most {_MAX_HEADER}.")
    try:
        with _same_file(path, opened) as alias, safetensors.safe_open(alias, framework="pt") as file:
            keys = file.keys()
            if len(keys) > _MAX_TENSORS:
                raise CheckpointError(f"{path}: refused: {len(keys)} tensors; expected at most {_MAX_TENSORS}.")
            tensors = {key: file.get_tensor(key) for key in keys}
            metadata = file.metadata() or {}
    except CheckpointError:
        raise
    except (safetensors.SafetensorError, OSError, RuntimeError, ValueError, AttributeError, TypeError) as error:
        raise CheckpointError(damaged(path, error)) from error
    checked = {key: _checked(path, key, tensor) for key, tensor in tensors.items()}
    return TensorFile(path, _unwrapped(path, checked), metadata)


def _read_archive(path: Path, file: BinaryIO, size: int, weights: str) -> tuple[StateDict, str | None]:
    """The tensors, and "ema" or "raw" if they are of such a table."""
    try:
        archive = read_archive(file, size)
        if "constants.pkl" in archive.names:
            raise CheckpointError(f"{path}: a TorchScript program; expected tensors. Save its state_dict instead.")
        lengths = {key: length for key, (_, length) in archive.storages.items()}
        found, kind = _table(path, read_pickle_table(archive.pickle, lengths, _INERT_NAMES), weights)
        table = _tensor_table(path, found)
        with _same_file(path, file) as alias:
            mapped: Any = torch.UntypedStorage.from_file(alias, shared=False, nbytes=size)
        tensors = {key: make_tensor(mapped, archive, stored) for key, stored in table.items()}
    except CheckpointError:
        raise
    except UnusualArchiveError as error:
        raise CheckpointError(f"{path}: refused: {error}.") from error
    except RefusedError as error:
        raise CheckpointError(_refused(path, error.names)) from error
    except _ARCHIVE_ERRORS as error:
        raise CheckpointError(damaged(path, error)) from error
    return {key: _checked(path, key, tensor) for key, tensor in tensors.items()}, kind


def _table(path: Path, data: Any, weights: str) -> tuple[Any, str | None]:
    """The table of tensors in what training saved beside its optimiser and counters, and what kind it is."""
    if not isinstance(data, Table):
        return data, None
    if "shadow_params" in data.entries:
        raise CheckpointError(_NAMELESS.format(path))
    found = {kind: [it for it in names if isinstance(data.entries.get(it), Table)] for kind, names in _TABLES.items()}
    kind = "ema" if found["ema"] and weights != "raw" else "raw"
    if not found[kind]:
        return data, None
    if len(found[kind]) > 1:
        raise CheckpointError(
            f"{path}: the tables {first_names(found[kind])} may all hold the weights. Save a file with the one to load."
        )
    table: Table = data.entries[found[kind][0]]
    if "shadow_params" in table.entries:
        raise CheckpointError(_NAMELESS.format(path))
    return table, kind if found["ema"] else None


def _unwrapped(path: Path, tensors: StateDict) -> StateDict:
    """Without what training puts into names: DistributedDataParallel before all of them, torch.compile anywhere."""
    names = {key: key.replace("_orig_mod.", "") for key in tensors}
    while names and all(name.startswith("module.") for name in names.values()):
        names = {key: name.removeprefix("module.") for key, name in names.items()}
    unwrapped = {name: tensors[key] for key, name in names.items()}
    if len(unwrapped) < len(tensors):
        twice = first_names(repeated(names.values()))
        raise CheckpointError(f"{path}: {twice} is there with _orig_mod. and without. Remove one.")
    return unwrapped


def _tensor_table(path: Path, found: Any) -> dict[str, StoredTensor]:
    """The tensors in what the pickle describes."""
    if not isinstance(found, Table) or found.other_keys:
        kind = "table with keys that are no texts" if isinstance(found, Table) else _kind(found)
        raise CheckpointError(f"{path}: holds a {kind}; expected a table of tensors by name. Save its state_dict.")
    if len(found.entries) > _MAX_TENSORS:
        raise CheckpointError(f"{path}: refused: {len(found.entries)} tensors; expected at most {_MAX_TENSORS}.")
    for key, value in found.entries.items():
        if not isinstance(value, StoredTensor):
            raise CheckpointError(
                f"{path}: {first_names([key])} is {_kind(value)}; expected a tensor. Save the state_dict alone."
            )
    return found.entries


def _kind(value: Any) -> str:
    """What a message calls something in a pickle that is not what it should be."""
    return str(getattr(value, "kind", type(value).__name__)).lower()


def _checked(path: Path, key: str, tensor: Tensor) -> Tensor:
    """A plain tensor whose elements all lie in the file."""
    name = first_names([key])
    if tensor.ndim > _MAX_DIMENSIONS:
        raise CheckpointError(f"{path}: refused: {name} has {tensor.ndim} dimensions.")
    size, stored = tensor.numel() * tensor.element_size(), tensor.untyped_storage().nbytes()
    if size > stored:
        raise CheckpointError(f"{path}: refused: {name} claims {size} bytes, of which the file holds {stored}.")
    return tensor.detach()


def damaged(path: Path, error: Exception) -> str:
    """The message for a file that cannot be read to its end."""
    text = str(error).strip()
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


def _unknown_format(path: Path, start: bytes, size: int) -> str:
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
