"""`manifest.jsonl`: a line for each image, and the one check of what a line may be. Imports files and the job.

Beside it the times of the files count: what was changed after the manifest was last written is read again.
"""

import json
import re
import stat
from collections.abc import Callable, Hashable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeGuard, TypeVar

from ldm_backend.json_text import parse_json

from ..errors import JobError
from ..files.bounded import MAX_BYTES
from .job import Job, Place

_SHA256 = re.compile(r"[0-9a-f]{64}")
_MAX_LINE = 64 * 2**10
_MAX_NAME = 200

Key = TypeVar("Key", bound=Hashable)
Known = TypeVar("Known")


@dataclass(frozen=True)
class Entry:
    """What is known of a finished image.

    Attributes:
        sha256: Of the pixels: height x width x 3 bytes.
        machine: Which made it.
        size: Bytes of its PNG, also where that lies in a shard; None in manifests of before there was this.
    """

    sha256: str
    machine: str
    size: int | None


def read_entry(found: Mapping[str, Any], places: Mapping[int, Place]) -> tuple[int, Entry] | None:
    """Seed and entry of a parsed line; None where it is not a whole one of this job.

    Args:
        found: What the line says.
        places: Of the images of the job.
    """
    if type(seed := found.get("seed")) is not int or seed not in places:
        return None
    if any(found.get(name) != value for name, value in _written_place(places[seed]).items()):
        return None
    entry = entry_in(found)
    return entry and (seed, entry)


def entry_in(found: Mapping[str, Any]) -> Entry | None:
    """What a parsed line knows of its image; None where something is odd."""
    sha256, machine, size = (found.get(name) for name in ("sha256", "machine", "bytes"))
    if not is_sha256(sha256) or not isinstance(machine, str):
        return None
    return Entry(sha256, machine[:_MAX_NAME], size if type(size) is int and 0 < size <= MAX_BYTES else None)


def is_sha256(value: object) -> TypeGuard[str]:
    """Whether a value out of a file is a hash, as we write it."""
    return isinstance(value, str) and _SHA256.fullmatch(value) is not None


def object_in(text: str | bytes) -> dict[str, Any]:
    """The object that a text is in JSON; an empty one where it is none."""
    try:
        found = parse_json(text)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def read_manifest(
    path: Path, known_in: Callable[[Mapping[str, Any]], tuple[Key, Known] | None]
) -> tuple[dict[Key, Known], int]:
    """The entries of the manifest, and when it was last written, in nanoseconds; nothing and 0 where there is none.

    A line that a power failure cut or garbled is passed over: its image is looked at, and gets a new one.

    Args:
        path: The file.
        known_in: Key and entry of a parsed line; None where it is not a whole one of this job.

    Raises:
        JobError: It is no file.
        OSError: It cannot be read.
    """
    entries: dict[Key, Known] = {}
    if not path.exists():
        return entries, 0
    if not path.is_file():
        raise JobError(f"{path} is no file; move it away, then the same command continues")
    with path.open("rb") as file:
        written = path.stat().st_mtime_ns
        while line := file.readline(_MAX_LINE):
            if found := known_in(object_in(line)):
                entries[found[0]] = found[1]
    return entries, written


def line_of(job: Job, seed: int, place: Place, entry: Entry) -> bytes:
    """A line, without its end.

    Args:
        job: Whose settings it repeats.
        seed: Of the image.
        place: Where it goes.
        entry: What is known of it.
    """
    own = {"seed": seed, **_written_place(place), "sha256": entry.sha256, "machine": entry.machine}
    size = {} if entry.size is None else {"bytes": entry.size}
    return json.dumps(own | size | asdict(job.settings) | job.wish(seed).to_json()).encode()


def is_unchanged(path: Path, size: int | None, since: int) -> bool:
    """Whether a file has this size, and was neither written, renamed nor given another time after `since`.

    Args:
        path: A file, which is there.
        size: In bytes; None is unknown.
        since: Nanoseconds.
    """
    try:
        now = path.stat()
    except OSError:  # a link that leads nowhere
        return False
    return stat.S_ISREG(now.st_mode) and now.st_size == size and max(now.st_mtime_ns, now.st_ctime_ns) <= since


def _written_place(place: Place) -> dict[str, Any]:
    return {name: value for name, value in asdict(place).items() if value is not None}
