"""What is in a checkpoint, without loading it: layout, configuration, parameters, weights, dtypes, hashes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from ..config.model import LDMConfig
from ..errors import ConfigError
from ..locations import EMA_FOLDER, find_single_file, is_parts_folder
from .checkpoint import Checkpoint, read_checkpoint
from .compvis import FIRST_STAGE, UNET, has_ema, is_compvis
from .shards import read_weights
from .single_file import split_parts
from .tensor_files import TensorFile


@dataclass(frozen=True)
class CheckpointInfo:
    """The answer of `inspect_checkpoint`.

    Attributes:
        layout: "huggingface", "compvis" or "single-file".
        weights: What would be taken: "ema", "raw" or "only".
        has_ema: The file holds averaged weights beside the raw ones.
        config: None for a file that comes without; `problem` then says how to give one.
        problem: Why the model cannot be built from this alone; None if it can.
        unet_parameters, first_stage_parameters: Numbers that the model needs.
        conditioner_parameters: Likewise, of what makes its conditioning.
        dtypes: Names of the dtypes on disk.
        files: (path, bytes, SHA-256) of every weight file.
    """

    path: Path
    layout: str
    weights: str
    has_ema: bool
    config: LDMConfig | None
    problem: str | None
    unet_parameters: int
    first_stage_parameters: int
    dtypes: tuple[str, ...]
    files: tuple[tuple[Path, int, str], ...]
    conditioner_parameters: int = 0

    @property
    def task(self) -> str | None:
        """What the model is for, see `LDMConfig.task`; None where nothing says it."""
        return self.config.task if self.config else None


def inspect_checkpoint(path: str | Path, config: LDMConfig | str | Path | None = None) -> CheckpointInfo:
    """Describe a checkpoint, also one that cannot be loaded because it comes without its configuration.

    Args:
        path: As for `read_checkpoint`.
        config: likewise.

    Raises:
        CheckpointError, ConfigError: As `read_checkpoint`.
    """
    path = Path(path)
    try:
        checkpoint = read_checkpoint(path, config=config)
    except ConfigError as error:
        file = path if path.is_file() else None if is_parts_folder(path) else find_single_file(path)
        if config is not None or file is None:
            raise
        return _without_config(read_weights(file), str(error))
    return CheckpointInfo(
        path=checkpoint.path,
        layout=checkpoint.layout,
        weights=checkpoint.weights,
        has_ema=_holds_ema(checkpoint),
        config=checkpoint.config,
        problem=None,
        unet_parameters=_count(checkpoint.unet.values()),
        first_stage_parameters=_count(checkpoint.first_stage.values()),
        dtypes=_dtypes((*checkpoint.unet.values(), *checkpoint.first_stage.values(), *checkpoint.conditioner.values())),
        files=_hashed(checkpoint.files),
        conditioner_parameters=_count(checkpoint.conditioner.values()),
    )


def sha256_of(file: Path) -> str:
    """SHA-256 of a file's bytes, in hexadecimal."""
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _without_config(file: TensorFile, problem: str) -> CheckpointInfo:
    """What the keys tell. The layouts differ in names and in how tensors are cut up, not in the numbers they hold."""
    averaged = has_ema(file.tensors)
    if is_compvis(file.tensors):
        layout, weights = "compvis", "ema" if averaged else "raw"
        unet = [tensor for key, tensor in file.tensors.items() if key.startswith(UNET)]
        first_stage = [
            tensor
            for key, tensor in file.tensors.items()
            if key.startswith(FIRST_STAGE) and not key.startswith(FIRST_STAGE + "loss.")
        ]
    else:
        layout, weights = "single-file", file.metadata.get("weights", "only")
        unet, first_stage = (list(part.values()) for part in split_parts(file.tensors))
    return CheckpointInfo(
        path=file.path,
        layout=layout,
        weights=weights,
        has_ema=averaged,
        config=None,
        problem=problem,
        unet_parameters=_count(unet),
        first_stage_parameters=_count(first_stage),
        dtypes=_dtypes((*unet, *first_stage)),
        files=_hashed([file.path]),
    )


def _holds_ema(checkpoint: Checkpoint) -> bool:
    if checkpoint.layout == "huggingface":
        return (checkpoint.path / EMA_FOLDER).is_dir()
    return checkpoint.layout == "compvis" and has_ema(read_weights(checkpoint.unet_file).tensors)


def _count(tensors: Iterable[Tensor]) -> int:
    return sum(tensor.numel() for tensor in tensors)


def _dtypes(tensors: Iterable[Tensor]) -> tuple[str, ...]:
    return tuple(sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors}))


def _hashed(files: Iterable[Path]) -> tuple[tuple[Path, int, str], ...]:
    return tuple((file, file.stat().st_size, sha256_of(file)) for file in dict.fromkeys(files))
