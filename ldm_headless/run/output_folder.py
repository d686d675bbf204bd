"""The output folder of a run: which jobs have their files, and saving those of the others.

Imports the journal and whole_files.
"""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from ldm_backend.whole_files import SCRATCH_PREFIX, replaced_when_done

from ..errors import OutputError
from .journal import Header, Journal, SavedFile


class OutputFolder:
    """An output folder with its journal; a context manager.

    Args:
        path: Made if missing. No file in it is overwritten.
        header: Of the run.
        fresh: Forget what an earlier run has made.

    Raises:
        OutputError: The folder cannot be used for this run.
    """

    def __init__(self, path: Path, header: Header, fresh: bool = False) -> None:
        try:
            path.mkdir(parents=True, exist_ok=True)
            self.path = path.resolve()
            self.journal = Journal(self.path, header, fresh)
        except OSError as error:
            raise OutputError(f"cannot write into {path}: {error.strerror}; use another --out") from error
        for file in self.path.rglob(f"{SCRATCH_PREFIX}*"):
            file.unlink(missing_ok=True)  # of a run that was killed: ours alone since the journal is open

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.journal.close()

    def complete(self, index: int) -> list[Path] | None:
        """The files of a job if all are there as they were saved."""
        files = self.journal.files.get(index)
        if files and all(self._is_as_saved(file) for file in files):
            return [self.path / file.name for file in files]
        return None

    def save(self, index: int, files: Sequence[tuple[str, bytes]]) -> list[Path]:
        """Save the files of a job, whole or not at all.

        Args:
            index: Of the job.
            files: Name below the folder, with `/` between its parts, and content. A taken name gets a number.

        Returns:
            Their paths.

        Raises:
            OutputError: A name leaves the folder, through a link in it, or the disk refuses it.
        """
        earlier = {file.name: file for file in self.journal.files.get(index, [])}
        saved: list[SavedFile] = []
        try:
            with ExitStack() as stack:
                for name, data in files:
                    file, is_new = self._place(name, data, earlier, saved)
                    if is_new:
                        scratch = stack.enter_context(replaced_when_done(self.path / file.name))
                        scratch.write_bytes(data)  # a full disk is told here, before any file gets its name
                    saved.append(file)
                self.journal.note_files(index, saved)
        except OSError as error:
            raise OutputError(f"cannot save into {self.path}: {error.strerror}; free some space or rights") from error
        return [self.path / file.name for file in saved]

    def _place(
        self, name: str, data: bytes, earlier: Mapping[str, SavedFile], taken: Sequence[SavedFile]
    ) -> tuple[SavedFile, bool]:
        """Under which name a file goes, and whether it is to be written; a killed run may have written it."""
        digest = hashlib.sha256(data).hexdigest()
        names = {file.name for file in taken}
        for candidate in _numbered(name):
            file = SavedFile(candidate, len(data), digest)
            if candidate not in names:
                if not os.path.lexists(self._target(candidate)):
                    return file, True
                if earlier.get(candidate) == file and self._is_as_saved(file):
                    return file, False
        raise AssertionError("there is always another number")

    def _target(self, name: str) -> Path:
        target = self.path / name
        # Resolved before anything is made: a link in the folder may lead anywhere.
        if not target.parent.resolve().is_relative_to(self.path):
            raise OutputError(f"{target} leads out of {self.path} through a link; use another --name")
        target.parent.mkdir(parents=True, exist_ok=True)
        return target

    def _is_as_saved(self, file: SavedFile) -> bool:
        path = self.path / file.name
        try:
            return path.stat().st_size == file.bytes and hashlib.sha256(path.read_bytes()).hexdigest() == file.sha256
        except OSError:
            return False


def _numbered(name: str) -> Iterator[str]:
    """The name, then the same with a number, for ever."""
    yield name
    folder, slash, file = name.rpartition("/")
    path, number = Path(file), 1
    while True:
        number += 1
        yield f"{folder}{slash}{path.stem}-{number}{path.suffix}"
