"""An output folder that one command holds alone: its lock, its job and its growing manifest. Imports whole_files.

What is in it is whole or absent at any moment, and nothing of anybody else is touched.
"""

from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import filelock

from ldm_backend.json_text import parse_json
from ldm_backend.whole_files import SCRATCH_PREFIX, replaced_when_done

from ..errors import GenerationError, JobError, JSONError

JOB, MANIFEST, LOCK = "job.json", "manifest.jsonl", ".lock"
_MAX_JOB = 2**28  # bytes; ten million seeds of twenty digits


class HeldFolder:
    """A context manager that holds the folder of a job. What the job is, and what is there of it, subclasses know.

    Args:
        out: The folder; made if missing.
        command: That writes into it, for messages.
    """

    def __init__(self, out: Path, command: str) -> None:
        self.out = out
        self._command = command
        self._lock = filelock.FileLock(out / LOCK)
        self._manifest: BinaryIO | None = None

    def __enter__(self) -> Self:
        """Raises JobError: another job, files of somebody else, or a run that goes on. GenerationError: the disk."""
        try:
            self.out.mkdir(parents=True, exist_ok=True)
            self._refuse_foreign_files()
            self._lock.acquire(timeout=0)
        except filelock.Timeout as error:
            raise JobError(
                f"another `{self._command}` is writing into {self.out}; wait, or give another --out"
            ) from error
        except OSError as error:
            raise JobError(f"cannot use the folder {self.out}: {error.strerror}; give another --out") from error
        try:
            self._take_up()
        except BaseException as error:
            self._close_manifest()
            self._lock.release()
            if isinstance(error, OSError):
                raise GenerationError(
                    f"cannot go on in {self.out}: {error.filename or MANIFEST}: {error.strerror}; make room, correct "
                    "the rights or move away what is in the way, then the same command continues"
                ) from error
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._close_manifest()
        self._lock.release()

    def finish(self) -> None:
        """When everything is there: sort the manifest.

        Raises:
            GenerationError: The manifest cannot be written.
        """
        try:
            self._write_manifest()
        except OSError as error:
            raise GenerationError(
                f"cannot write {self.out / MANIFEST}: {error.strerror}; make room, then the same command ends the run"
            ) from error

    def _take_up(self) -> None:
        """Compare the job with the one of the folder, and find what is there. It may raise OSError."""
        raise NotImplementedError

    def _lines(self) -> Iterable[bytes]:
        """Of the whole manifest, in order, without their ends."""
        raise NotImplementedError

    def _refuse_foreign_files(self) -> None:
        if (self.out / JOB).exists():
            return
        foreign = [path.name for path in self.out.iterdir() if not path.name.startswith((SCRATCH_PREFIX, LOCK))]
        if foreign:
            raise JobError(
                f"{self.out} holds {sorted(foreign)[0]!r} but no {JOB}: it is no folder of `{self._command}`; give a "
                "new or empty folder with --out"
            )

    def _found_job(self) -> object:
        """The parsed job of the folder, which is there.

        Raises:
            JobError: It is none.
            OSError: It cannot be read.
        """
        try:
            return read_job(self.out / JOB)
        except JSONError as error:
            raise JobError(f"{self.out / JOB} is not JSON: {error}; give another --out") from error

    def _remove_scratch(self, folder: Path) -> None:
        for left in folder.glob(SCRATCH_PREFIX + "*"):
            left.unlink()

    def _write_manifest(self) -> None:
        self._close_manifest()
        with replaced_when_done(self.out / MANIFEST) as scratch, scratch.open("wb") as file:
            file.writelines(line + b"\n" for line in self._lines())
        self._manifest = (self.out / MANIFEST).open("ab")

    def _append(self, line: bytes) -> None:
        """Without fsync: a line that a power failure takes is made anew from the PNG, or with the image."""
        if self._manifest is not None:
            self._manifest.write(line + b"\n")
            self._manifest.flush()

    def _close_manifest(self) -> None:
        if self._manifest is not None:
            self._manifest.close()
            self._manifest = None


def read_job(file: Path) -> object:
    """The parsed job.

    Raises:
        JSONError: It is no JSON.
        JobError: It is no file.
        OSError: It cannot be read.
    """
    if not file.is_file() or file.stat().st_size > _MAX_JOB:
        raise JobError(f"{file} is no file of `ldm`; move it away, or give another --out")
    return parse_json(file.read_bytes())
