"""A file on its way from a server: into memory or to the disk, counted, and judged by its first bytes.

Imports file_kinds, history and the errors.
"""

import io
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import IO, Self, cast

from ldm_backend.errors import printable, short_repr

from ..errors import OutputFileError
from .file_kinds import HEAD, extension, fits
from .history import FileRef

MAX_FILE = 8 * 10**9
"""Bytes of one file that are taken from a server unless told otherwise."""


class ReceivedFile:
    """A context manager for one file.

    Attributes:
        limit: Bytes that are taken at most.

    Args:
        ref: What the server calls it.
        path: A new file for it; None keeps it in memory.
        limit: As above.
    """

    def __init__(self, ref: FileRef, path: Path | None, limit: int) -> None:
        self.limit = limit
        self._ref = ref
        self._stream = cast(IO[bytes], io.BytesIO() if path is None else path.open("xb+"))
        self._head, self._size = b"", 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()

    def begin(self) -> Callable[[bytes], None]:
        """Forget what an attempt before has brought; what takes the pieces."""
        self._stream.seek(0)
        self._stream.truncate()
        self._head, self._size = b"", 0
        return self._take

    def content(self) -> bytes:
        """All of it, where it is in memory."""
        self._stream.seek(0)
        return self._stream.read()

    def check(self, server: str) -> None:
        """Judge what has come.

        Raises:
            OutputFileError: It is empty, or not of the kind that its name says.
        """
        name = self._name()
        if self._size == 0:
            raise OutputFileError(f"{server} gave an empty file for {name}; look into its log and disk")
        # What the list does not know is for whoever asked for it by name.
        if extension(self._ref.filename) and not fits(self._ref.filename, self._head):
            raise OutputFileError(
                f"{server} gave for {name} what is no such file: it begins with {short_repr(self._head[:24])}. Look "
                "for something between you and the server, such as a login (LDM_SERVER_TOKEN, --header-file)"
            )

    def _name(self) -> str:
        return f"{printable(self._ref.filename)} (node {printable(self._ref.node_id)})"

    def _take(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._size > self.limit:
            raise OutputFileError(f"{self._name()} is larger than {self.limit:,} bytes; allow that with --max-file")
        self._stream.write(piece)
        if len(self._head) < HEAD:
            self._head += piece[: HEAD - len(self._head)]
