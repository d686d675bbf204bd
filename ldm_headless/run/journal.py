"""The record of a run in its output folder, which makes it resumable. Imports filelock, files and the errors.

A file of JSON lines: a header that tells which run it is, then for each job under which id it was submitted where,
and which files it made. The files are written before their line and renamed after it, and count only if their bytes
are those of the line: so a run may be killed between any two steps. What a line says is checked like any other input:
it may have been written by somebody else.
"""

import json
import os
import re
import stat
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout

from ldm_backend.errors import printable, short_repr
from ldm_backend.json_text import parse_json
from ldm_backend.whole_files import SCRATCH_PREFIX

from ..errors import OutputError

JOURNAL, LOCK = ".ldm-run.jsonl", ".ldm-run.lock"
_FORMAT = "ldm-run/1"
_START = json.dumps({"format": _FORMAT})[:-1].encode()
_SCRATCH = re.compile(rb'^\{"scratch": "(%s[0-9a-f]{32})"\}$' % re.escape(SCRATCH_PREFIX).encode(), re.MULTILINE)
_MOST_BYTES = 2**30  # four lines of each of 200,000 jobs with long names
_SHA256 = re.compile(r"[0-9a-f]{64}")
_BAD_IN_NAMES = re.compile(r"[\\:\0-\x1f\x7f-\x9f\ud800-\udfff]")


@dataclass(frozen=True)
class Header:
    """Which run it is."""

    workflow: str
    jobs: int
    name: str
    fingerprint: str


@dataclass(frozen=True)
class SavedFile:
    """One output file, by its path below the folder."""

    name: str
    bytes: int
    sha256: str


class Journal:
    """The open journal of a folder; a second run in the same folder is refused while it is open.

    Attributes:
        files: Job -> the files that it made.
        texts: Job -> node id and text of what its nodes showed.
        submissions: Job -> server and prompt id of its last submission.
        scratch: Names of folders in which earlier runs kept what was not complete.

    Args:
        folder: Exists.
        header: Of the run to begin or to resume.
        fresh: Put the journal of an earlier run aside and begin anew.

    Raises:
        OutputError: It is in use, belongs to another run, or is no journal.
    """

    def __init__(self, folder: Path, header: Header, fresh: bool) -> None:
        self.path = folder / JOURNAL
        self.files: dict[int, list[SavedFile]] = {}
        self.texts: dict[int, list[tuple[str, str]]] = {}
        self.scratch: list[str] = []
        self.submissions: dict[int, tuple[str, str]] = {}
        for path in (self.path, folder / LOCK):
            _check_own_file(path)
        self._lock = FileLock(folder / LOCK)
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise OutputError(f"another run works in {folder}; wait for it, or use another --out") from error
        try:
            content = _content(self.path)
            self.scratch = [name.decode() for name in _SCRATCH.findall(content)]
            if fresh and self.path.exists():
                os.replace(self.path, free_name(self.path))
                content = b""
            complete = self._read(content, header)
            self._stream: IO[bytes] = os.fdopen(os.open(self.path, _FLAGS, 0o666), "ab")
            self._stream.truncate(complete)  # the line at which the last run was killed
        except BaseException:
            self._lock.release()
            raise
        if complete == 0:
            self._append({"format": _FORMAT, **asdict(header)})

    def close(self) -> None:
        """Let another run work in the folder."""
        self._stream.close()
        self._lock.release()

    def note_submission(self, index: int, server: str, prompt_id: str) -> None:
        """Before a job is submitted."""
        self.submissions[index] = (server, prompt_id)
        self._append({"job": index, "server": server, "prompt_id": prompt_id})

    def note_files(self, index: int, files: list[SavedFile], texts: Sequence[tuple[str, str]] = ()) -> None:
        """When a job's files are written, before they get their names."""
        self.files[index], self.texts[index] = files, list(texts)
        line = {"job": index, "files": [asdict(file) for file in files]}
        self._append({**line, "texts": [list(text) for text in texts]} if texts else line)

    def note_scratch(self, name: str) -> None:
        """Before a folder of this name is made for what is not complete: a later run removes it."""
        self._append({"scratch": name})

    def _append(self, line: dict[str, Any]) -> None:
        try:
            self._stream.write(json.dumps(line).encode() + b"\n")
            self._stream.flush()
        except OSError as error:
            raise OutputError(f"cannot write {self.path}: {error.strerror}; free some space or rights") from error

    def _read(self, content: bytes, header: Header) -> int:
        """Read what is there; the number of bytes up to the last whole line."""
        complete = content.rfind(b"\n") + 1
        try:
            if complete == 0:
                if content[: len(_START)] != _START[: len(content)]:
                    raise ValueError("it does not begin as a journal")
                return 0
            first, *lines = (parse_json(line) for line in content[:complete].splitlines())
            if first.pop("format") != _FORMAT:
                raise ValueError("another format")
            self._check(_header(first), header)
            for line in lines:
                self._take(line, header.jobs)
        except OutputError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise OutputError(
                f"{self.path} cannot be read ({printable(str(error), 300)}); use another --out, or --fresh to put "
                "it aside"
            ) from error
        return complete

    def _take(self, line: Any, jobs: int) -> None:
        if not isinstance(line, dict):
            raise ValueError(f"{short_repr(line)} is no line of it")
        if "scratch" in line:
            return
        index = line["job"]
        if type(index) is not int or not 0 <= index < jobs:
            raise ValueError(f"there is no job {short_repr(index)}")
        if "files" in line:
            self.files[index] = [_saved_file(file) for file in line["files"]]
            self.texts[index] = [(_text(node), _text(text)) for node, text in line.get("texts", [])]
        else:
            self.submissions[index] = (_text(line["server"]), _text(line["prompt_id"]))

    def _check(self, found: Header, expected: Header) -> None:
        if (found.jobs, found.name, found.fingerprint) == (expected.jobs, expected.name, expected.fingerprint):
            return  # the workflow's path may be another seen from here
        what = "with other values"
        if found.jobs != expected.jobs or found.workflow != expected.workflow:
            what = f"of {found.jobs} job(s) of {printable(found.workflow)}"
        elif found.fingerprint == expected.fingerprint:
            what = f"with --name {found.name!r}"
        raise OutputError(
            f"{self.path.parent} holds another run, {what}; this one has {expected.jobs} job(s) of "
            f"{expected.workflow}. Use another --out; or repeat the first command to complete it; or add --fresh, "
            "which begins anew and keeps all images"
        )


def _content(path: Path) -> bytes:
    if not path.exists():
        return b""
    if (size := path.stat().st_size) > _MOST_BYTES:
        raise OutputError(f"{path} has {size:,} bytes, more than any run writes; remove it, or use another --out")
    return path.read_bytes()


def free_name(path: Path) -> Path:
    """The path, or if something is there already the same with a number."""
    number, candidate = 1, path
    while os.path.lexists(candidate):
        number += 1
        candidate = path.with_stem(f"{path.stem}-{number}")
    return candidate


def is_safe_name(name: str) -> bool:
    """Whether a name below the folder, with `/` between its parts, stays there, is not hidden, and can be shown."""
    parts = name.split("/")
    return not _BAD_IN_NAMES.search(name) and not any(part.startswith(".") or not part.strip(". ") for part in parts)


_FLAGS = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


def _check_own_file(path: Path) -> None:
    """Refuse what is no plain file of its own: through a link, something else would be written to."""
    try:
        status = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
        raise OutputError(f"{path} is a link or no plain file, which no run makes; remove it, or use another --out")


def _header(fields: dict[str, Any]) -> Header:
    header = Header(**fields)
    if type(header.jobs) is not int:
        raise ValueError("the number of jobs is none")
    return Header(_text(header.workflow), header.jobs, _text(header.name), _text(header.fingerprint))


def _saved_file(fields: dict[str, Any]) -> SavedFile:
    file = SavedFile(**fields)
    if not is_safe_name(_text(file.name)):
        raise ValueError(f"{short_repr(file.name)} is no name of a file in this folder")
    if type(file.bytes) is not int or not _SHA256.fullmatch(_text(file.sha256)):
        raise ValueError(f"size and checksum of {short_repr(file.name)} are none")
    return file


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"{short_repr(value)} is no text")
    value.encode()  # half of a surrogate pair is no character: it cannot be sent, named or shown
    return value
