"""A temporary folder that the next process clears away if its owner was killed. Imports held_signals and filelock."""

import os
import shutil
import tempfile
import time
import weakref
from pathlib import Path

from filelock import FileLock, Timeout

from .held_signals import held_signals

_PREFIX = "comfyui-ldm-"
_LOCK = "owner.lock"
_YOUNG_S = 60.0  # a folder that was made a moment ago may not be locked yet


class ScratchFolder:
    """A new temporary folder, locked while this process lives and removed at its end at the latest.

    Attributes:
        path: The folder.
        remove: Removes the folder and what is in it.
    """

    def __init__(self) -> None:
        _clear_away(Path(tempfile.gettempdir()))  # which may be long: a signal may come
        self._make()

    @held_signals()
    def _make(self) -> None:
        self.path = Path(tempfile.mkdtemp(prefix=_PREFIX)).resolve()
        lock = FileLock(self.path / _LOCK, thread_local=False)
        lock.acquire()
        self.remove = weakref.finalize(self, _remove, self.path, lock)


def _remove(folder: Path, lock: FileLock) -> None:
    lock.release()
    shutil.rmtree(folder, ignore_errors=True)


def _clear_away(parent: Path) -> None:
    """Remove the folders whose owners are gone. The system releases a lock however its owner ends."""
    for folder in parent.glob(f"{_PREFIX}*"):
        if _is_old_and_ours(folder):
            try:
                with FileLock(folder / _LOCK, timeout=0):
                    shutil.rmtree(folder, ignore_errors=True)
            except (Timeout, OSError):
                continue  # its owner lives, or has just removed it


def _is_old_and_ours(folder: Path) -> bool:
    try:
        status = folder.lstat()
        has_lock = (folder / _LOCK).is_file()
    except OSError:
        return False
    mine = not hasattr(os, "getuid") or status.st_uid == os.getuid()
    return has_lock and mine and not folder.is_symlink() and time.time() - status.st_mtime > _YOUNG_S
