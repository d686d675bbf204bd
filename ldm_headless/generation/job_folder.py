"""The folder of one generation job, safe against a kill at any moment. Imports the job, held_folder and packing.

An image arrives as a PNG of its own, whole or not at all, and then gets its line in `manifest.jsonl`. Images that end
in a shard or an npz wait for it in `.pending`. When a job is taken up again, files and manifest are compared: a PNG
without a line gets it, a line without a file is dropped, what is broken counts as missing, and that is made.
"""

import json
import os
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ldm_backend.whole_files import replaced_when_done, write_whole

from ..errors import GenerationError, JobError
from ..files.npz import read_npz
from .contents import look_into, sound_png, sound_pngs
from .held_folder import JOB, MANIFEST, HeldFolder, read_job
from .job import Format, Job, check_same_job, grown_from, png_name
from .manifest import Entry, is_unchanged, line_of, read_entry, read_manifest
from .packing import tar_size, write_npz, write_tar

PENDING = ".pending"


@dataclass(frozen=True)
class MadeImage:
    """One finished image, in the memory of whoever made it or has received it."""

    seed: int
    png: bytes
    sha256: str  # of the pixels: height x width x 3 bytes
    machine: str


class JobFolder(HeldFolder):
    """A context manager that holds the folder of a job, alone.

    Args:
        out: The folder; made if missing.
        job: What it is to hold.
        verify: Compare the pixels of all images with the manifest, not only of those whose files changed since.

    Attributes:
        done: The seeds whose images are there.
        broken: The seeds whose images were there and are broken, when the job was taken up: they are to be made anew.
            Until then their files stay.
    """

    def __init__(self, out: Path, job: Job, verify: bool = False) -> None:
        super().__init__(out, "ldm generate")
        self.job = job
        self.done: set[int] = set()
        self.broken: list[int] = []
        self._verify = verify
        self._pending = out if job.format is Format.PNG else out / PENDING
        self._places = job.places()
        self._shards = job.shards()
        self._missing_of = {name: set(seeds) for name, seeds in self._shards.items()}
        self._packed: set[str] = set()
        self._entries: dict[int, Entry] = {}

    def store(self, image: MadeImage) -> None:
        """Keep an image for good, and finish the file that it completes.

        Raises:
            GenerationError: It cannot be written. What was there is still there.
        """
        path = self._pending / png_name(image.seed)
        try:
            write_whole(path, image.png)
            self._entries[image.seed] = Entry(image.sha256, image.machine, len(image.png))
            self._append(self._line(image.seed))
            self._note_done(image.seed)
        except OSError as error:
            raise GenerationError(
                f"cannot write the image of seed {image.seed} into {self.out}: {error.strerror}; make room or correct "
                "the rights, then the same command continues"
            ) from error

    def finish(self) -> None:
        """When all images are there: sort the manifest by the job's order of seeds, and tidy up.

        Raises:
            GenerationError: The manifest cannot be written.
        """
        super().finish()
        if self._pending != self.out:
            with suppress(OSError):  # a file of somebody else keeps it
                self._pending.rmdir()

    def _take_up(self) -> None:
        file, wanted, is_new = self.out / JOB, self.job.to_json(), True
        if file.exists():
            found = self._found_job()
            before = grown_from(found, self.job)
            is_new = before is not None and all((self.out / it.file).exists() for it in before.places().values())
            if not is_new:
                check_same_job(found, wanted, str(file))
        if is_new:
            write_whole(file, (json.dumps(wanted, indent=2) + "\n").encode())
        if self._pending != self.out and os.path.lexists(self._pending) and not _is_own_folder(self._pending):
            raise JobError(f"{self._pending} is a link or no folder, which no job makes; move it away")
        self._pending.mkdir(exist_ok=True)
        for folder in {self.out, self._pending}:
            self._remove_scratch(folder)
        self._reconcile()

    def _reconcile(self) -> None:
        """Find what is there and sound; what is broken counts as missing, and its file stays until it is replaced."""
        known, written = read_manifest(self.out / MANIFEST, lambda found: read_entry(found, self._places))
        present = {entry.name for entry in os.scandir(self.out)}
        waiting = {entry.name for entry in os.scandir(self._pending)}
        since = 0 if self._verify else written
        broken: set[int] = set()
        for name, seeds in self._shards.items():
            if name in present:
                broken.update(self._take_up_shard(name, seeds, waiting, known, since))
        for seed in self.job.seeds:
            if png_name(seed) not in waiting or self._places[seed].file in self._packed:
                continue
            entry = sound_png(self._pending / png_name(seed), known.get(seed), self.job.marks(seed), since)
            if entry is None:
                broken.add(seed)
            else:
                self._entries[seed] = entry
        self.broken = [seed for seed in self.job.seeds if seed in broken and seed not in self._entries]
        self._write_manifest()
        for seed in [seed for seed in self.job.seeds if seed in self._entries]:
            self._note_done(seed)

    def _take_up_shard(
        self, name: str, seeds: Sequence[int], waiting: set[str], known: dict[int, Entry], since: int
    ) -> set[int]:
        """Take a shard or npz for what it holds; the sound images of a broken one wait for the next one.

        Returns:
            The seeds of the broken images.
        """
        path, parts = self.out / name, {png_name(seed) for seed in seeds}
        is_known = all(seed in known and known[seed].size is not None for seed in seeds)
        if is_known and not parts & waiting and is_unchanged(path, self._size_of(path, seeds, known), since):
            self._packed.add(name)
            self._entries.update({seed: known[seed] for seed in seeds})
            return set()
        found = look_into(path, seeds, known, self.job)
        self._entries.update(found.sound)
        if found.is_whole:
            self._packed.add(name)
            return set()
        for seed, png in sound_pngs(path, found, seeds, self.job):
            write_whole(self._pending / png_name(seed), png)
        waiting.difference_update(png_name(seed) for seed in found.sound)
        return set(seeds) - found.sound.keys()

    def _size_of(self, path: Path, seeds: Sequence[int], known: dict[int, Entry]) -> int | None:
        """What the size of a shard should be; an npz has it in its headers, with which it is compared."""
        if self.job.format is Format.WEBDATASET:
            return tar_size(self.job, seeds, known)
        try:
            read_npz(path)
        except JobError:
            return None
        return path.stat().st_size

    def _note_done(self, seed: int) -> None:
        """Count an image; the last one of a shard makes the shard."""
        self.done.add(seed)
        name = self._places[seed].file
        missing = self._missing_of.get(name)
        if missing is None:
            return
        missing.discard(seed)
        if not missing:
            self._pack(name)

    def _pack(self, name: str) -> None:
        seeds = self._shards[name]
        if name not in self._packed:
            with replaced_when_done(self.out / name) as scratch, scratch.open("w+b") as file:
                write = write_npz if self.job.format is Format.NPZ else write_tar
                write(file, self._pending, seeds)
            self._packed.add(name)
        for seed in seeds:
            (self._pending / png_name(seed)).unlink(missing_ok=True)

    def _line(self, seed: int) -> bytes:
        return line_of(self.job, seed, self._places[seed], self._entries[seed])

    def _lines(self) -> Iterator[bytes]:
        return (self._line(seed) for seed in self.job.seeds if seed in self._entries)


def batch_of(out: Path) -> int | None:
    """Images sampled together in the job that a folder holds; None if it holds none, or one that cannot be read."""
    batch = settings_of_folder(out).get("batch")
    return batch if type(batch) is int and batch > 0 else None


def settings_of_folder(out: Path) -> dict[str, Any]:
    """The settings of the job that a folder holds, unchecked; none if it holds none, or one that cannot be read."""
    try:
        found = read_job(out / JOB)
    except (OSError, ValueError):
        return {}
    settings = found.get("settings") if isinstance(found, dict) else None
    return settings if isinstance(settings, dict) else {}


def _is_own_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()  # through a link, files elsewhere would be written and removed
