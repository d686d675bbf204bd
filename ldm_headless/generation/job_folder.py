"""The folder of one generation job, safe against a kill at any moment. Imports the job, whole_files and packing.

An image arrives as a PNG of its own, whole or not at all, and then gets its line in `manifest.jsonl`. Images that end
in a shard or an npz wait for it in `.pending`. When a job is taken up again, files and manifest are compared: a PNG
without a line gets it, a line without a file is dropped, and what is then missing is made.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import filelock

from ldm_backend.errors import LDMError
from ldm_backend.whole_files import SCRATCH_PREFIX, replaced_when_done, write_whole

from ..errors import GenerationError, JobError
from ..files.json_text import parse_json
from ..files.png import pixels_sha256, read_png, read_png_info
from .job import Format, Job, check_same_job, grown_from, png_name
from .packing import write_npz, write_tar

JOB, MANIFEST, LOCK, PENDING = "job.json", "manifest.jsonl", ".lock", ".pending"


@dataclass(frozen=True)
class MadeImage:
    """One finished image, in the memory of whoever made it or has received it."""

    seed: int
    png: bytes
    sha256: str  # of the pixels: height x width x 3 bytes
    machine: str


class JobFolder:
    """A context manager that holds the folder of a job, alone.

    Args:
        out: The folder; made if missing.
        job: What it is to hold.

    Attributes:
        done: The seeds whose images are there.
    """

    def __init__(self, out: Path, job: Job) -> None:
        self.out = out
        self.job = job
        self.done: set[int] = set()
        self._pending = out if job.format is Format.PNG else out / PENDING
        self._places = job.places()
        self._shards = job.shards()
        self._missing_of = {name: set(seeds) for name, seeds in self._shards.items()}
        self._lock = filelock.FileLock(out / LOCK)
        self._manifest: BinaryIO | None = None

    def __enter__(self) -> Self:
        """Raises JobError: another job, files of somebody else, or a run that goes on. GenerationError: the disk."""
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            self._refuse_foreign_files()
            self._lock.acquire(timeout=0)
        except filelock.Timeout as error:
            raise JobError(f"another `ldm generate` is writing into {self.out}; wait, or give another --out") from error
        except OSError as error:
            raise JobError(f"cannot use the folder {self.out}: {error.strerror}; give another --out") from error
        try:
            self._take_up()
        except BaseException:
            self._lock.release()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close_manifest()
        self._lock.release()

    def store(self, image: MadeImage) -> None:
        """Keep an image for good, and finish the file that it completes.

        Raises:
            GenerationError: It cannot be written. What was there is still there.
        """
        path = self._pending / png_name(image.seed)
        try:
            write_whole(path, image.png)
            self._append(self._line(image))
            self._note_done(image.seed)
        except OSError as error:
            raise GenerationError(
                f"cannot write the image of seed {image.seed} into {self.out}: {error.strerror}; make room or correct "
                "the rights, then the same command continues"
            ) from error

    def finish(self) -> None:
        """When all images are there: sort the manifest by the job's order of seeds, and tidy up."""
        lines = self._read_manifest()
        self._write_manifest([lines[seed] for seed in self.job.seeds])
        if self._pending != self.out:
            self._pending.rmdir()

    def _refuse_foreign_files(self) -> None:
        if (self.out / JOB).exists():
            return
        foreign = [path.name for path in self.out.iterdir() if not path.name.startswith((SCRATCH_PREFIX, LOCK))]
        if foreign:
            raise JobError(
                f"{self.out} holds {sorted(foreign)[0]!r} but no {JOB}: it is no folder of `ldm generate`; give a new "
                "or empty folder with --out"
            )

    def _take_up(self) -> None:
        file, wanted, is_new = self.out / JOB, self.job.to_json(), True
        if file.exists():
            try:
                found = parse_json(file.read_bytes())
            except ValueError as error:
                raise JobError(f"{file} is not JSON: {error}; give another --out") from error
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
            for left in folder.glob(SCRATCH_PREFIX + "*"):
                left.unlink()
        self._reconcile()

    def _reconcile(self) -> None:
        present = {entry.name for entry in os.scandir(self.out)}
        waiting = {entry.name for entry in os.scandir(self._pending)}
        lines = self._read_manifest()
        for seed in self.job.seeds:
            packed = self._places[seed].file in present and self.job.format is not Format.PNG
            if png_name(seed) in waiting and seed not in lines:
                lines[seed] = self._adopted(self._pending / png_name(seed), seed)
            elif not packed and png_name(seed) not in waiting:
                lines.pop(seed, None)
        self._write_manifest([lines[seed] for seed in self.job.seeds if seed in lines])
        for seed in [seed for seed in self.job.seeds if seed in lines]:
            self._note_done(seed)

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
        if not (self.out / name).exists():
            with replaced_when_done(self.out / name) as scratch, scratch.open("w+b") as file:
                write = write_npz if self.job.format is Format.NPZ else write_tar
                write(file, self._pending, seeds)
        for seed in seeds:
            (self._pending / png_name(seed)).unlink(missing_ok=True)

    def _adopted(self, path: Path, seed: int) -> bytes:
        """The manifest line of an image whose writer was killed before it wrote one."""
        try:
            pixels, info = read_png(path), parse_json(read_png_info(path))
        except LDMError:
            pixels, info = None, None
        if (
            pixels is None
            or not isinstance(info, dict)
            or (info.get("job"), info.get("seed")) != (self.job.digest, seed)
        ):
            raise JobError(f"{path} is not of this job; move it away, then the same command continues")
        return self._line(MadeImage(seed, b"", pixels_sha256(pixels), str(info["machine"])))

    def _line(self, image: MadeImage) -> bytes:
        place = {name: value for name, value in asdict(self._places[image.seed]).items() if value is not None}
        own = {"seed": image.seed, **place, "sha256": image.sha256, "machine": image.machine}
        return json.dumps(own | asdict(self.job.settings)).encode()

    def _read_manifest(self) -> dict[int, bytes]:
        """Seed -> line. A line that a power failure cut or garbled is passed over: its image gets a new one."""
        path = self.out / MANIFEST
        lines: dict[int, bytes] = {}
        for line in path.read_bytes().splitlines() if path.exists() else ():
            seed = _seed_of(line)
            if isinstance(seed, int) and seed in self._places:
                lines[seed] = line
        return lines

    def _write_manifest(self, lines: list[bytes]) -> None:
        self._close_manifest()
        with replaced_when_done(self.out / MANIFEST) as scratch, scratch.open("wb") as file:
            file.writelines(line + b"\n" for line in lines)
        self._manifest = (self.out / MANIFEST).open("ab")

    def _append(self, line: bytes) -> None:
        """Without fsync: a line that a power failure takes is made anew from the PNG, or with the image."""
        if self._manifest is not None:
            self._manifest.write(line + b"\n")
            self._manifest.flush()

    def _close_manifest(self) -> None:
        if self._manifest is not None:
            self._manifest.close()


def batch_of(out: Path) -> int | None:
    """Images sampled together in the job that a folder holds; None if it holds none, or one that cannot be read."""
    batch = settings_of_folder(out).get("batch")
    return batch if type(batch) is int and batch > 0 else None


def settings_of_folder(out: Path) -> dict[str, Any]:
    """The settings of the job that a folder holds, unchecked; none if it holds none, or one that cannot be read."""
    try:
        found = parse_json((out / JOB).read_bytes())
    except (OSError, ValueError):
        return {}
    settings = found.get("settings") if isinstance(found, dict) else None
    return settings if isinstance(settings, dict) else {}


def _seed_of(line: bytes) -> object:
    """The seed of a manifest line, None where it is not a whole one."""
    try:
        entry = parse_json(line)
    except ValueError:
        return None
    return entry.get("seed") if isinstance(entry, dict) else None


def _is_own_folder(path: Path) -> bool:
    return path.is_dir() and not path.is_symlink()  # through a link, files elsewhere would be written and removed
