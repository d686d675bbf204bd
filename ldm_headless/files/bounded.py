"""Reading what may be damaged or hostile: no read larger than what the data can need, and no error but one of ours."""

import re
import struct
import tarfile
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

from PIL import Image

from ldm_backend.errors import LDMError, printable

from ..errors import JobError

MAX_BYTES = 2**28
"""Of the file of a picture that is read; a PNG of the most pixels that are taken has fewer."""
_LARGEST_READ = 2**20
_OBJECT = re.compile(r" ?<[^<>]* at 0x[0-9a-f]+>")  # what Python calls an open file without a name

# Libraries say of damaged files what their parts happen to raise.
_DAMAGED = (
    OSError, SyntaxError, ValueError, LookupError, TypeError, ArithmeticError, AttributeError, EOFError, MemoryError,
    RecursionError, RuntimeError, AssertionError, struct.error, zlib.error, tokenize.TokenError, zipfile.BadZipFile,
    tarfile.TarError, Image.DecompressionBombError,
)  # fmt: skip


@contextmanager
def damage_told(what: object) -> Iterator[None]:
    """Whatever a library raises in the body becomes a JobError that names what was read.

    Args:
        what: A sentence about it begins so: "cannot read x as PNG".

    Raises:
        JobError: As its name says.
    """
    try:
        yield
    except LDMError:
        raise
    except _DAMAGED as error:
        reason = printable(_OBJECT.sub("", str(error)), 300) or type(error).__name__
        raise JobError(f"{what}: {reason}; check the path, and whether the file is whole") from error


class BoundedFile(FileIO):
    """A file for libraries that believe the sizes that a file tells: one read takes at most a MiB.

    Args:
        path: A file; devices and pipes, which have no end, are refused.

    Raises:
        OSError: It cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise OSError("it is no file" if path.exists() else "there is no such file")
        super().__init__(path)

    def read(self, size: int | None = -1, /) -> bytes:
        """As of any file.

        Raises:
            ValueError: More is asked for than a header can have.
        """
        wanted = _LARGEST_READ + 1 if size is None or size < 0 else size
        found = super().read(wanted) if wanted <= _LARGEST_READ + 1 else None
        if found is None or len(found) > _LARGEST_READ:
            raise ValueError(f"a header of more than {_LARGEST_READ} bytes")
        return found
