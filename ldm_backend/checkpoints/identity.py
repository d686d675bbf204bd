"""Which UNet a checkpoint holds, for what is fitted to one: told by its files and its configuration."""

from __future__ import annotations

import hashlib
import json

from ..config.model import LDMConfig
from ..errors import CheckpointError
from .file_marks import FileMark
from .inspection import sha256_of
from .shards import weight_files
from .single_file import config_to_json


def identity_of_unet(file: FileMark, weights: str, config: LDMConfig) -> str:
    """SHA-256, in hexadecimal, over the weight files, which weights of them, and the configuration but the first stage.

    Another first stage, or another name of the file, changes nothing; the same weights in another layout do.

    Args:
        file: Of the UNet, as it was when it was loaded.
        weights: As `Checkpoint.weights` says.
        config: Of the checkpoint.

    Raises:
        CheckpointError: The file is not the one that was loaded any more.
    """
    if FileMark.of(file.path) != file:
        raise CheckpointError(
            f"{file.path}: another file was written or moved to this name since the model was loaded, so that nobody "
            "can tell which model this is. Load the checkpoint again."
        )
    parts = {name: part for name, part in config_to_json(config).items() if name != "first_stage"}
    found = [[sha256_of(part) for part in weight_files(file.path)], weights, parts]
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()
