"""What `ldm upscale`, `ldm inpaint` and `ldm restore` make: settings, and what travels to and from a worker.

Imports generation.job. A picture is decided by the settings, its name, and the bytes of its files. The pictures that
a command names are no part of its job: further ones may come into the same folder.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from ..errors import JobError
from ..generation.job import refuse_another


@dataclass(frozen=True)
class Restoration:
    """What `ldm restore` has beside the others; the names are those of `ldm_backend.restore`.

    Attributes:
        task: One of its tasks.
        factor: Of upscaling, else None, and so is the filter.
        blur: Of deblurring, else None.
        noise: In the pictures.
        codec: Of the projection.
    """

    task: str
    factor: int | None
    filter: str | None
    blur: float | None
    noise: float
    codec: str

    def given(self) -> dict[str, Any]:
        """Those that belong to the task."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Settings:
    """What decides pixels beside the files.

    Attributes:
        command: "ldm upscale", "ldm inpaint" or "ldm restore".
        checkpoint: As in `generation.job.Settings`, and so are those from device to ldm.
        base_seed: Of which each picture's own seed is made.
        tile: Side in latent cells, of super-resolution the pixels of the small picture; None takes pictures whole where
            memory allows.
        mask_reduction: Of inpainting, else None.
        keep_colours: Of super-resolution, else None.
        restoration: Of `ldm restore`, else None. In a job and in pictures its settings stand among the others.
    """

    command: str
    checkpoint: str
    base_seed: int
    steps: int
    eta: float
    sampler: str
    grid: str
    tile: int | None
    mask_reduction: str | None
    keep_colours: bool | None
    device: str
    precision: str
    first_stage_precision: str
    threads: int
    torch: str
    ldm: str
    restoration: Restoration | None = None

    def to_json(self) -> dict[str, Any]:
        """What identifies a job."""
        found = asdict(self)
        restoration = found.pop("restoration")
        return found | (restoration or {})

    @cached_property
    def digest(self) -> str:
        """Identifies the settings in the pictures' metadata."""
        return hashlib.sha256(json.dumps(self.to_json(), sort_keys=True).encode()).hexdigest()

    def marks(self, name: str, inputs: tuple[str, ...]) -> dict[str, Any]:
        """What a picture of this job says of itself, and no other does.

        Args:
            name: Of its file.
            inputs: SHA-256 of each file that it is made of.
        """
        return {"job": self.digest, "file": name, "input_sha256": list(inputs)}


@dataclass(frozen=True)
class Unit:
    """A picture to make, with all that it is made of, as bytes: a worker may have other disks."""

    name: str
    inputs: tuple[str, ...]  # names of the files
    data: tuple[bytes, ...]
    seed: int


@dataclass(frozen=True)
class MadePicture:
    """A finished picture. `inputs` are the SHA-256 of what it was made of, `sha256` that of its pixels."""

    name: str
    inputs: tuple[str, ...]
    png: bytes
    sha256: str
    machine: str


@dataclass(frozen=True)
class FailedPicture:
    """A picture that cannot be made; the others can."""

    name: str
    message: str
    exit_code: int


def sha256_of_all(data: tuple[bytes, ...]) -> tuple[str, ...]:
    """The SHA-256 of each."""
    return tuple(hashlib.sha256(each).hexdigest() for each in data)


def check_same_settings(found: object, wanted: Settings, source: str) -> None:
    """Refuse to go on in the folder of another job.

    Args:
        found: The parsed `job.json`.
        wanted: What it would hold for this command.
        source: The file, for the message.

    Raises:
        JobError: They differ; the message lists how.
    """
    there = found.get("settings") if isinstance(found, dict) else None
    if not isinstance(there, Mapping) or there.get("command") != wanted.command:
        raise JobError(f"{source} is no job of `{wanted.command}`; give another --out")
    here = wanted.to_json()
    refuse_another(there, here, sorted(here.keys() | there.keys()), source)
