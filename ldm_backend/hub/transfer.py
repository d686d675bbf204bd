"""Files of a repository into a folder: each gets its name when its content has been compared with the hub's hash."""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import logging
import os
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, first_names
from ..whole_files import complete, give_names
from .failures import hub_errors, wrong_content
from .repository import HubFile, HubModel

try:
    import fcntl
except ImportError:  # Windows, which gives no new name to a file that another process writes
    fcntl = None

logger = logging.getLogger("comfyui_ldm")

PART_ENDING = ".part"  # of a file that is on its way
_CONNECTIONS = 5  # in a row that each bring something and are cut
_FOLDERS = 100  # made in a row and taken away by others
_NO_LINK = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)


@contextlib.contextmanager
def locked(folder: Path, private: bool = False) -> Iterator[None]:
    """A folder in which no other process downloads meanwhile; it is waited for.

    Args:
        folder: Is made if it is not there.
        private: Nobody else may write into it, and nobody else's or a link is refused.

    Raises:
        OSError: It cannot be made.
        CheckpointError: It is not ours.
    """
    while True:
        with _lock(_opened_folder(folder, private), folder) as same:
            if same:  # not given its final name by the process that was waited for
                yield
                return


def _opened_folder(folder: Path, private: bool) -> int | None:
    """A handle of the folder, which is made if it is not there; None where the system has no such locks.

    Another process that waited too may find the model finished, and take the empty folder away at any moment.
    """
    attempts = itertools.count(1)
    while True:
        try:
            folder.mkdir(0o700 if private else 0o777, parents=True, exist_ok=True)
            if private:
                _check_own(folder)
                folder.chmod(0o700)
            return None if fcntl is None else os.open(folder, os.O_RDONLY | _NO_LINK)
        except (FileExistsError, FileNotFoundError):
            if next(attempts) == _FOLDERS or folder.is_symlink() or folder.is_file():
                raise


def _check_own(folder: Path) -> None:
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or not _is_ours(found):
        what = "somebody else's folder" if stat.S_ISDIR(found.st_mode) else "a link"
        raise CheckpointError(f"{folder}: refused: {what}, in the place of an interrupted download. Remove it.")


def _is_ours(found: os.stat_result) -> bool:
    return not hasattr(os, "geteuid") or found.st_uid == os.geteuid()


@contextlib.contextmanager
def _lock(handle: int | None, folder: Path) -> Iterator[bool]:
    """Hold it; False if another folder has its name by then."""
    if handle is None or fcntl is None:
        yield True
        return
    try:
        with contextlib.suppress(OSError):  # network file systems without locks
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                logger.warning("%s: another process downloads this model; waiting for it", folder)
                fcntl.flock(handle, fcntl.LOCK_EX)
        try:
            same = os.path.samestat(os.fstat(handle), folder.lstat())
        except FileNotFoundError:
            same = False
        yield same
    finally:
        os.close(handle)


def check_nothing_else(folder: Path, model: HubModel, parts: bool) -> None:
    """Raise CheckpointError if a folder holds anything beside own, plain files of the model, whatever their content.

    Args:
        folder: Of the download.
        model: Whose files may be there.
        parts: Those that are on their way may be there too.
    """
    files = {file.path for file in model.files} | {file.path + PART_ENDING for file in model.files if parts}
    folders = {file.rpartition("/")[0] for file in files}
    strange = []
    for root, inside, names in os.walk(folder):
        for path in (Path(root, name) for name in (*inside, *names)):
            found, name = path.lstat(), path.relative_to(folder).as_posix()
            known = (stat.S_ISDIR(found.st_mode) and name in folders) or (stat.S_ISREG(found.st_mode) and name in files)
            if not known or not _is_ours(found):
                strange.append(name)
    if strange:
        raise CheckpointError(
            f"{folder}: refused: holds {first_names(strange)}, which no download has put there. Remove that folder, "
            "and begin again."
        )


def fetch(hub: Any, model: HubModel, file: HubFile, folder: Path) -> None:
    """Bring one verified file into a folder that is `locked`, in the place of what has its name.

    Args:
        hub: The module huggingface_hub.
        model: To which the file belongs.
        file: As the hub describes it.
        folder: Of the model.

    Raises:
        CheckpointError: What came is not what the hub describes; it is removed.
        OSError: Network or disk are at fault, or one of `hub_errors`; what has come is continued from.
    """
    target = folder / file.path
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + PART_ENDING)
    wrong = wrong_content(model.name, file.path, file.content)
    cached = hub.try_to_load_from_cache(model.name, file.path, revision=model.commit)
    if not isinstance(cached, str) or not _copy(Path(cached), part, file, wrong):
        _receive_whole(hub.hf_hub_url(model.name, file.path, revision=model.commit), part, file, wrong)
    complete(part)
    give_names([(part, target)])


def matches(path: Path, expected: HubFile) -> bool:
    """Whether a file is there with the content that the hub describes."""
    if not path.is_file() or path.stat().st_size != expected.size:
        return False
    if expected.sha256:
        digest = hashlib.sha256()
    else:  # git's name of a file: SHA-1 of its content behind a header
        digest = hashlib.sha1(f"blob {expected.size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: digest).hexdigest() == (expected.sha256 or expected.git_id)


def _copy(source: Path, part: Path, file: HubFile, wrong: CheckpointError) -> bool:
    """Whether the copy, not the original, is what it should be."""
    if source.stat().st_size != file.size:
        return False
    with source.open("rb") as old, _opened(part, file.size, wrong) as new:
        new.truncate(0)
        shutil.copyfileobj(old, new, 2**20)
    if not matches(part, file):
        part.unlink()
        return False
    return True


def _receive_whole(url: str, part: Path, file: HubFile, wrong: CheckpointError) -> None:
    """`part` with the content that the hub describes; what was there is continued if it is the beginning of that."""
    for continued in (True, False) if part.exists() else (False,):
        with _opened(part, file.size, wrong) as stream:
            if not continued or stream.seek(0, os.SEEK_END) > file.size:
                stream.seek(0)
                stream.truncate()
            try:
                _receive(url, stream, file)
            except CheckpointError:  # more than it should be
                part.unlink()
                raise
        if matches(part, file):
            return
    part.unlink()
    raise wrong


class _Part(io.BufferedRandom):
    """A file that takes no byte beyond its size: a server may send without end."""

    def __init__(self, raw: io.FileIO, size: int, error: CheckpointError) -> None:
        super().__init__(raw)
        self.size, self.error = size, error

    def write(self, data: Any, /) -> int:
        if self.tell() + len(data) > self.size:
            raise self.error
        return super().write(data)


def _opened(part: Path, size: int, error: CheckpointError) -> _Part:
    """A file on its way, never another one by a link."""
    if part.is_symlink():
        part.unlink()
    handle = os.open(part, os.O_RDWR | os.O_CREAT | _NO_LINK, 0o666)
    return _Part(io.FileIO(handle, "r+"), size, error)


def _receive(url: str, stream: _Part, file: HubFile) -> None:
    """Append what is lacking."""
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    headers = build_hf_headers() | {"Accept-Encoding": "identity"}  # a place in a compressed stream cannot be asked for
    for attempt in range(1, _CONNECTIONS + 1):
        start = stream.seek(0, os.SEEK_END)
        try:
            http_get(
                url,
                stream,
                resume_size=start,
                headers=headers,
                expected_size=file.size,
                displayed_filename=file.path,
            )
            return
        except hub_errors():  # http_get itself takes up most of the connections that are cut, not all
            if attempt == _CONNECTIONS or stream.seek(0, os.SEEK_END) <= start:
                raise
