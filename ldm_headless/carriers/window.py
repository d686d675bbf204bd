"""A file of any size, read piece by piece within a budget, and the error of one that is damaged.

Standard library only. A file says of itself how long its parts are and how many: none of it is believed.
"""

from typing import BinaryIO

MOST_BYTES = 64 * 2**20
"""Of one text, or of the metadata of a file, however they are packed."""

MOST_PARTS = 100_000
"""Boxes, chunks, pages or elements that are looked at in one file."""


class DamagedCarrierError(ValueError):
    """The file ends within its metadata, they have more than the budget, or cannot be unpacked; the text says where."""


class Window:
    """An open file as bytes of known number.

    Attributes:
        stream: The file.
        size: Its bytes.

    Args:
        stream: Can be positioned.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self.stream = stream
        self.size = stream.seek(0, 2)
        self._parts = 0

    def read(self, place: int, length: int) -> bytes:
        """The bytes at a place.

        Raises:
            DamagedCarrierError: The file ends before, or they are more than `MOST_BYTES`.
        """
        if place + length > self.size:
            raise DamagedCarrierError(f"it ends within a part of it that begins at byte {place:,}")
        if length > MOST_BYTES:
            raise DamagedCarrierError(f"its metadata at byte {place:,} have more than {MOST_BYTES >> 20} MiB")
        self.stream.seek(place)
        data = self.stream.read(length)
        if len(data) < length:
            raise DamagedCarrierError("it became shorter while it was read")
        return data

    def head(self, length: int) -> bytes:
        """The first bytes, fewer where the file has no more."""
        return self.read(0, min(length, self.size))

    def count(self) -> None:
        """Count a part that is looked at.

        Raises:
            DamagedCarrierError: They are more than `MOST_PARTS`.
        """
        self._parts += 1
        if self._parts > MOST_PARTS:
            raise DamagedCarrierError(f"it has more than {MOST_PARTS:,} parts")


def as_text(raw: bytes) -> str:
    """UTF-8, which programs write whatever a format says, or else the Latin-1 that PNG says."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")
