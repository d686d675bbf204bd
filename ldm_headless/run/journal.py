"""The record of a run in its output folder, which makes it resumable. Imports filelock and the errors.

A file of JSON lines: a header that tells which run it is, then for each job under which id it was submitted where,
and which files it made. The files are written before their line and renamed after it, and count only if their bytes
are those of the line: so a run may be killed between any two steps.
"""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

from filelock import FileLock, Timeout

from ..errors import OutputError

JOURNAL, LOCK = ".ldm-run.jsonl", ".ldm-run.lock"
_FORMAT = "ldm-run/1"


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
        submissions: Job -> server and prompt id of its last submission.

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
        self.submissions: dict[int, tuple[str, str]] = {}
        self._lock = FileLock(folder / LOCK)
        try:
            self._lock.acquire(timeout=0)
        except Timeout as error:
            raise OutputError(f"another run works in {folder}; wait for it, or use another --out") from error
        try:
            if fresh and self.path.exists():
                os.replace(self.path, _free_name(self.path))
            complete = self._read(header) if self.path.exists() else 0
            self._stream: IO[bytes] = self.path.open("ab")
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

    def note_files(self, index: int, files: list[SavedFile]) -> None:
        """When a job's files are written, before they get their names."""
        self.files[index] = files
        self._append({"job": index, "files": [asdict(file) for file in files]})

    def _append(self, line: dict[str, Any]) -> None:
        self._stream.write(json.dumps(line).encode() + b"\n")
        self._stream.flush()

    def _read(self, header: Header) -> int:
        """Read what is there; the number of bytes up to the last whole line."""
        content = self.path.read_bytes()
        complete = content.rfind(b"\n") + 1
        if complete == 0:
            return 0
        try:
            first, *lines = (json.loads(line) for line in content[:complete].splitlines())
            if first.pop("format") != _FORMAT:
                raise ValueError("another format")
            self._check(Header(**first), header)
            for line in lines:
                if "files" in line:
                    self.files[line["job"]] = [SavedFile(**file) for file in line["files"]]
                else:
                    self.submissions[line["job"]] = (line["server"], line["prompt_id"])
        except OutputError:
            raise
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise OutputError(
                f"{self.path} cannot be read ({error}); use another --out, or --fresh to put it aside"
            ) from error
        return complete

    def _check(self, found: Header, expected: Header) -> None:
        if (found.jobs, found.name, found.fingerprint) == (expected.jobs, expected.name, expected.fingerprint):
            return  # the workflow's path may be another seen from here
        what = "with other values"
        if found.jobs != expected.jobs or found.workflow != expected.workflow:
            what = f"of {found.jobs} job(s) of {found.workflow}"
        elif found.fingerprint == expected.fingerprint:
            what = f"with --name {found.name!r}"
        raise OutputError(
            f"{self.path.parent} holds another run, {what}; this one has {expected.jobs} job(s) of "
            f"{expected.workflow}. Use another --out; or repeat the first command to complete it; or add --fresh, "
            "which begins anew and keeps all images"
        )


def _free_name(path: Path) -> Path:
    number, candidate = 1, path
    while candidate.exists():
        number += 1
        candidate = path.with_stem(f"{path.stem}-{number}")
    return candidate
