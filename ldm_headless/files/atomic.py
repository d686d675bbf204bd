"""Files that are complete or absent, also after a kill or a power failure. Standard library only."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

SCRATCH_PREFIX = ".ldm-partial-"  # in folders of the user, too: it must say whose they are


@contextmanager
def replaced_when_done(path: Path) -> Iterator[BinaryIO]:
    """A new file beside `path` that takes its place, and its name on the disk, if the body ends without an error."""
    handle, scratch = tempfile.mkstemp(dir=path.parent, prefix=SCRATCH_PREFIX)
    try:
        with os.fdopen(handle, "w+b") as file:
            yield cast(BinaryIO, file)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(scratch, 0o644)
        os.replace(scratch, path)
        sync_folder(path.parent)
    finally:
        Path(scratch).unlink(missing_ok=True)


def write_whole(path: Path, data: bytes) -> None:
    """Write a file, whole or not at all."""
    with replaced_when_done(path) as file:
        file.write(data)


def sync_folder(folder: Path) -> None:
    """Make a rename durable, where the system can open a folder."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
