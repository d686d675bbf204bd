"""Files and folders that are complete or absent, also after a kill or a power failure. Standard library only."""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

# What exFAT and some network folders say, which know no links.
_NO_LINKS = {errno.EPERM, errno.EACCES, errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK, errno.EXDEV}

SCRATCH_PREFIX = ".ldm-partial-"  # in folders of the user, too: it must say whose they are


@contextmanager
def replaced_when_done(path: Path, folder: bool = False) -> Iterator[Path]:
    """A new file or folder beside `path` that takes its place if the body ends without an error, and goes if not.

    Args:
        path: A file may be there, which is replaced; a folder must not, unless it is empty.
        folder: Make a folder.

    Raises:
        OSError: It cannot be written.
    """
    with _scratch_beside(path, folder) as scratch:
        yield scratch
        complete(scratch)
        scratch.replace(path)
        _sync_folder(path.parent)


@contextmanager
def named_when_done(paths: Iterator[Path]) -> Iterator[Path]:
    """A new file beside the first of these paths, which all are in one folder.

    If the body ends without an error it gets the first name that is free by then: what another writer put there
    meanwhile stays. If not, it goes.

    Raises:
        OSError: It cannot be written.
    """
    path = next(paths)
    with _scratch_beside(path, folder=False) as scratch:
        yield scratch
        complete(scratch)
        while True:
            try:
                _give_free_name(scratch, path)
                break
            except FileExistsError:
                path = next(paths)
        _sync_folder(path.parent)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file, whole or not at all.

    Raises:
        OSError: It cannot be written.
    """
    with replaced_when_done(path) as scratch:
        scratch.write_bytes(data)


def give_names(moves: Sequence[tuple[Path, Path]]) -> None:
    """Move files that are `complete` to their places on the same disk, in this order.

    Args:
        moves: From where, to where; what is there is replaced.

    Raises:
        OSError: It cannot be done.
    """
    for source, target in moves:
        source.replace(target)
    for folder in {target.parent for _, target in moves}:
        _sync_folder(folder)


@contextmanager
def _scratch_beside(path: Path, folder: bool) -> Iterator[Path]:
    if folder:
        name = tempfile.mkdtemp(dir=path.parent, prefix=SCRATCH_PREFIX)
    else:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=SCRATCH_PREFIX)
        os.close(handle)
    scratch = Path(name)
    try:
        yield scratch
    finally:
        if folder:
            shutil.rmtree(scratch, ignore_errors=True)
        else:
            scratch.unlink(missing_ok=True)


def _give_free_name(scratch: Path, path: Path) -> None:
    """Raises: FileExistsError: another file has the name."""
    try:
        os.link(scratch, path)  # fails where the name is taken, which a renaming does not
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # Take the name first, then rename.
        os.close(os.open(path, os.O_CREAT | os.O_EXCL))
        scratch.replace(path)


def complete(scratch: Path) -> None:
    """Bring what was written to the disk, and let everybody read it: tempfile allows only the owner.

    Raises:
        OSError: It cannot be written.
    """
    for part in (*scratch.rglob("*"), scratch):
        part.chmod(0o755 if part.is_dir() else 0o644)
        if part.is_dir():
            _sync_folder(part)
        else:
            with part.open("r+b") as file:
                os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    """Make the names in it durable, where the system can open a folder."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
