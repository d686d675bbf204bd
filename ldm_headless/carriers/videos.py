"""The texts in the metadata of MP4 and MOV (boxes) and of WebM and Matroska (elements). Imports window.

Boxes and elements that hold others are entered, all others passed over by the length that they tell: one loop, no
deeper than the format.
"""

import struct
from collections.abc import Iterator

from .window import DamagedCarrierError, Window, as_text

_ENTERED = (b"moov", b"udta", b"ilst")
_ITEM_NAMES = {b"\xa9cmt": "comment"}
_DATA = 8  # bytes of kind and language before the value in a `data` box

_SEGMENT, _CLUSTER = 0x18538067, 0x1F43B675
_MASTERS = (_SEGMENT, 0x1254C367, 0x7373, 0x67C8)  # Segment, Tags, Tag, SimpleTag
_TAG_NAME, _TAG_STRING = 0x45A3, 0x4487


def mp4_texts(window: Window) -> dict[str, str]:
    """Name to text, as ComfyUI writes them (`keys`), and the comment that iTunes' tags and QuickTime's hold.

    Raises:
        DamagedCarrierError: As its name says.
    """
    names: list[str] = []  # of the last `keys`
    found: dict[str, str] = {}
    waiting = [(0, window.size, b"")]  # place and end of what is entered, and in which box it lies
    while waiting:
        place, end, parent = waiting.pop()
        for kind, start, stop in _boxes(window, place, end):
            if parent == b"ilst":
                _take_item(window, start, stop, _name(kind, names), found)
            elif kind in _ENTERED:
                waiting.append((start, stop, kind))
            elif kind == b"meta" and parent in (b"moov", b"udta"):
                # QuickTime's begins with a box, that of ISO with a version.
                versioned = stop - start >= 8 and window.read(start + 4, 4) != b"hdlr"
                waiting.append((start + 4 * versioned, stop, kind))
            elif kind == b"keys" and parent == b"meta":
                names = [as_text(window.read(*part)) for part in _keys(window, start, stop)]
            elif kind in _ITEM_NAMES and parent == b"udta" and stop - start > 4:
                found.setdefault(_ITEM_NAMES[kind], as_text(window.read(start + 4, stop - start - 4)))
    return found


def matroska_texts(window: Window) -> dict[str, str]:
    """Name, in small letters, to text, of all tags.

    Raises:
        DamagedCarrierError: As its name says.
    """
    found: dict[str, str] = {}
    place, name = 0, ""
    while place < window.size:
        window.count()
        kind, place = _vint(window, place, keep_marker=True)
        length, place = _vint(window, place, keep_marker=False)
        if kind in _MASTERS or (kind == _CLUSTER and length is None):
            continue  # its elements follow
        if length is None:
            raise DamagedCarrierError(f"the element at byte {place:,} has no length")
        if place + length > window.size:
            raise DamagedCarrierError(f"it ends within an element that begins at byte {place:,}")
        if kind == _TAG_NAME:
            name = as_text(window.read(place, length)).lower()
        elif kind == _TAG_STRING:
            found.setdefault(name, as_text(window.read(place, length)))
        place += length
    return found


def _boxes(window: Window, place: int, end: int) -> Iterator[tuple[bytes, int, int]]:
    """Kind, begin and end of the content of each box."""
    while place + 8 <= end:
        window.count()
        size, kind = struct.unpack(">I4s", window.read(place, 8))
        start = place + 8
        if size == 1:
            (size,), start = struct.unpack(">Q", window.read(start, 8)), start + 8
        stop = end if size == 0 else place + size
        if stop < start or stop > end:
            raise DamagedCarrierError(f"the box at byte {place:,} has a length that cannot be")
        yield kind, start, stop
        place = stop


def _keys(window: Window, start: int, stop: int) -> Iterator[tuple[int, int]]:
    """Place and length of each name in a `keys` box: after version and count, boxes of the kind `mdta`."""
    for _, begin, end in _boxes(window, start + 8, stop):
        yield begin, end - begin


def _name(kind: bytes, names: list[str]) -> str:
    number = int.from_bytes(kind, "big")
    return names[number - 1] if 0 < number <= len(names) else _ITEM_NAMES.get(kind, "")


def _take_item(window: Window, start: int, stop: int, name: str, found: dict[str, str]) -> None:
    for kind, begin, end in _boxes(window, start, stop) if name else ():
        if kind == b"data" and end - begin >= _DATA:
            found.setdefault(name, as_text(window.read(begin + _DATA, end - begin - _DATA)))


def _vint(window: Window, place: int, keep_marker: bool) -> tuple[int | None, int]:
    """A number of the length that its first byte tells, and the place behind it. None is "until the end"."""
    first = window.read(place, 1)[0]
    length = 9 - first.bit_length()
    if length > (4 if keep_marker else 8):
        raise DamagedCarrierError(f"there is no element at byte {place:,}")
    value = int.from_bytes(window.read(place, length), "big")
    if keep_marker:
        return value, place + length
    value &= (1 << 7 * length) - 1
    return None if value == (1 << 7 * length) - 1 else value, place + length
