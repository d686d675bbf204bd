"""The output folder of `ldm upscale`, `ldm inpaint` or `ldm restore`, safe against a kill at any moment.

Imports the job and inputs. A picture arrives whole or not at all, and then gets its line in `manifest.jsonl`. It counts
as there if its pixels are those of its line, and the files that it was made of are those of now.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

from ldm_backend.errors import first_names
from ldm_backend.whole_files import write_whole

from ..errors import GenerationError, JobError
from ..files.pictures import read_bytes
from ..generation.contents import sound_png
from ..generation.held_folder import JOB, MANIFEST, HeldFolder
from ..generation.manifest import Entry, entry_in, is_sha256, read_manifest
from .inputs import Item, seed_of
from .job import MadePicture, Settings, check_same_settings, sha256_of_all

_MOST_INPUTS = 2
_MOST_NAME = 1000


@dataclass(frozen=True)
class Known:
    """What is known of a finished picture: `inputs` are the SHA-256 of what it was made of."""

    inputs: tuple[str, ...]
    entry: Entry


class PictureFolder(HeldFolder):
    """A context manager that holds the folder, alone.

    Args:
        out: The folder; made if missing.
        settings: Of the job that it is to hold.
        items: The pictures that are to be there. Others of the same job stay as they are.
        verify: Compare the pixels of all these pictures with the manifest, not only of those whose files changed since.

    Attributes:
        done: Names of the pictures that are there.
        broken: Names of those that were there and are broken: they are to be made anew. Until then their files stay.
    """

    def __init__(self, out: Path, settings: Settings, items: Sequence[Item], verify: bool = False) -> None:
        super().__init__(out, settings.command)
        self.settings = settings
        self.items = items
        self.done: set[str] = set()
        self.broken: list[str] = []
        self._verify = verify
        self._known: dict[str, Known] = {}

    def missing(self) -> list[Item]:
        """What is still to be made."""
        return [item for item in self.items if item.name not in self.done]

    def store(self, picture: MadePicture) -> None:
        """Keep a picture for good.

        Raises:
            GenerationError: It cannot be written. What was there is still there.
        """
        try:
            write_whole(self.out / picture.name, picture.png)
            entry = Entry(picture.sha256, picture.machine, len(picture.png))
            self._known[picture.name] = Known(picture.inputs, entry)
            self._append(self._line(picture.name))
        except OSError as error:
            raise GenerationError(
                f"cannot write {picture.name} into {self.out}: {error.strerror}; make room or correct the rights, then "
                "the same command continues"
            ) from error
        self.done.add(picture.name)

    def _take_up(self) -> None:
        file = self.out / JOB
        if os.path.lexists(file):
            check_same_settings(self._found_job(), self.settings, str(file))
        else:
            write_whole(file, (json.dumps({"settings": self.settings.to_json()}, indent=2) + "\n").encode())
        self._remove_scratch(self.out)
        self._reconcile()

    def _reconcile(self) -> None:
        """Find what is there and sound; what is broken counts as missing, and its file stays until it is replaced."""
        found, written = read_manifest(self.out / MANIFEST, _known_in)
        since = 0 if self._verify else written
        asked = {item.name for item in self.items}
        self._known = {name: known for name, known in found.items() if name not in asked and self._is_file(name)}
        others: list[str] = []
        for item in self.items:
            path, known = self.out / item.name, found.get(item.name)
            if not os.path.lexists(path):
                continue
            try:
                inputs = sha256_of_all(tuple(read_bytes(file) for file in item.files))
            except JobError:  # whoever would make it tells the reason
                self._known |= {item.name: known} if known else {}
                continue
            entry = sound_png(path, known and known.entry, self.settings.marks(item.name, inputs), since)
            if entry is None:
                self.broken.append(item.name)
            elif known and known.inputs != inputs:
                others.append(item.name)
            else:
                self._known[item.name] = Known(inputs, entry)
                self.done.add(item.name)
        if others:
            raise JobError(
                f"{self.out} holds pictures that were made of other files of these names: {first_names(others)}; move "
                "them away, then the same command makes them, or give another --out"
            )
        self._write_manifest()

    def _is_file(self, name: str) -> bool:
        return (self.out / name).is_file()

    def _lines(self) -> Iterator[bytes]:
        return (self._line(name) for name in sorted(self._known))

    def _line(self, name: str) -> bytes:
        known, seed = self._known[name], seed_of(self.settings.base_seed, name)
        own: dict[str, Any] = {"file": name, "input_sha256": list(known.inputs), "seed": seed}
        own |= {"sha256": known.entry.sha256, "machine": known.entry.machine, "bytes": known.entry.size}
        return json.dumps(own | self.settings.to_json()).encode()


def _known_in(found: Mapping[str, Any]) -> tuple[str, Known] | None:
    """Name and entry of a parsed line; None where it is not a whole one."""
    name, inputs, entry = found.get("file"), found.get("input_sha256"), entry_in(found)
    if not _is_name(name) or entry is None:
        return None
    if not isinstance(inputs, list) or len(inputs) > _MOST_INPUTS or not all(map(is_sha256, inputs)):
        return None
    return name, Known(tuple(inputs), entry)


def _is_name(value: Any) -> TypeGuard[str]:
    """Whether it is one that we give, which never leads out of the folder."""
    return (
        isinstance(value, str)
        and len(value) <= _MOST_NAME
        and value.endswith(".png")
        and not value.startswith(".")
        and not set(value) & set("/\\\0")
    )
