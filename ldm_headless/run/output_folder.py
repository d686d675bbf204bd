"""The output folder of a run: which jobs have their files, and saving those of the others.

What is not complete lies in a folder of its own in it, which the journal names, so that a later run removes it and
nothing else. Imports the journal and whole_files.
"""

import hashlib
import itertools
import os
import shutil
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Self

from ldm_backend.whole_files import SCRATCH_PREFIX, complete, give_names

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
        for name in self.journal.scratch:  # of runs that were killed: ours alone since the journal is open
            _remove_scratch(self.path / name)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if "_scratch" in self.__dict__:
            _remove_scratch(self._scratch)
        self.journal.close()

    @cached_property
    def _scratch(self) -> Path:
        path = self.path / f"{SCRATCH_PREFIX}{uuid.uuid4().hex}"
        self.journal.note_scratch(path.name)
        path.mkdir()
        return path

    def scratch_file(self) -> Path:
        """A path that nobody uses, on the disk of the folder, for a file that is not complete.

        Raises:
            OutputError: The disk refuses it.
        """
        try:
            return self._scratch / uuid.uuid4().hex
        except OSError as error:
            raise self._refused(error) from error

    def complete(self, index: int) -> list[Path] | None:
        """The files of a job, maybe none, if all are there as they were saved."""
        files = self.journal.files.get(index)
        if files is not None and all(self._is_as_saved(file) for file in files):
            return [self.path / file.name for file in files]
        return None

    def save(
        self, index: int, files: Sequence[tuple[str, bytes | Path]], texts: Sequence[tuple[str, str]] = ()
    ) -> list[Path]:
        """Save the files of a job, whole or not at all.

        Args:
            index: Of the job.
            files: Name below the folder, with `/` between its parts; and content, or the `scratch_file` that holds it
                and is used up. A taken name gets a number.
            texts: Node id and text of what its nodes showed.

        Returns:
            Their paths.

        Raises:
            OutputError: A name leaves the folder, through a link in it, or the disk refuses it.
        """
        earlier = {file.name: file for file in self.journal.files.get(index, [])}
        saved: list[SavedFile] = []
        taken: dict[str, int] = {}  # name -> how often it was asked for, itself and what became of others
        moves: list[tuple[Path, Path]] = []
        try:
            for name, content in files:
                source = content if isinstance(content, Path) else self._write(content)
                size, digest = _measure(source)  # a full disk is told here, before any file gets its name
                file, is_new = self._place(name, size, digest, earlier, taken)
                if is_new:
                    moves.append((source, self.path / file.name))
                else:
                    source.unlink()
                saved.append(file)
            self.journal.note_files(index, saved, texts)
            give_names(moves)
        except OSError as error:
            raise self._refused(error) from error
        return [self.path / file.name for file in saved]

    def _write(self, data: bytes) -> Path:
        path = self.scratch_file()
        path.write_bytes(data)
        return path

    def _refused(self, error: OSError) -> OutputError:
        return OutputError(f"cannot save into {self.path}: {error.strerror}; free some space or rights")

    def _place(
        self, name: str, size: int, digest: str, earlier: Mapping[str, SavedFile], taken: dict[str, int]
    ) -> tuple[SavedFile, bool]:
        """Under which name a file goes, and whether it is to be written; a killed run may have written it."""
        for number in itertools.count(taken.get(name, 0) + 1):
            file = SavedFile(candidate := _numbered(name, number), size, digest)
            taken[name] = number
            if candidate in taken and number > 1:
                continue
            is_new = not os.path.lexists(self._target(candidate))
            if is_new or (earlier.get(candidate) == file and self._is_as_saved(file)):
                taken.setdefault(candidate, 1)
                return file, is_new
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
            is_own = path.resolve() == path and path.is_file()  # through no link: the name is what is printed
            return is_own and path.stat().st_size == file.bytes and _digest(path) == file.sha256
        except OSError:
            return False


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _measure(path: Path) -> tuple[int, str]:
    """Size and checksum of a file, which is on the disk then."""
    complete(path)
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
        return stream.tell(), digest


def _remove_scratch(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        with suppress(OSError):
            shutil.rmtree(path)


def _numbered(name: str, number: int) -> str:
    """The name, or from the second on the same with a number."""
    folder, slash, file = name.rpartition("/")
    path = Path(file)
    return name if number == 1 else f"{folder}{slash}{path.stem}-{number}{path.suffix}"
