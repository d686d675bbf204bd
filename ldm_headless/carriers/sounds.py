"""The texts in the metadata of FLAC, Ogg (Opus, Vorbis, FLAC) and MP3, by name in small letters. Imports window."""

import struct
from collections.abc import Iterator

from .window import MOST_BYTES, DamagedCarrierError, Window, as_text

_COMMENTS = 4  # kind of a block of FLAC
_FIRST_PACKETS = (b"OpusHead", b"\x01vorbis", b"\x7fFLAC")
_SECOND_PACKETS = (b"OpusTags", b"\x03vorbis")
_ENCODINGS = {0: "latin-1", 1: "utf-16", 2: "utf-16-be", 3: "utf-8"}
_UNSYNCHRONISED, _EXTENDED = 0x80, 0x40  # flags of ID3
_PACKED, _DOUBLED, _WITH_LENGTH = 0x0C, 0x02, 0x01  # flags of a frame of ID3 2.4; the first is compressed or encrypted


def flac_texts(window: Window) -> dict[str, str]:
    """Of the comments of a FLAC file.

    Raises:
        DamagedCarrierError: As its name says.
    """
    place, last = 4, False
    while not last:
        window.count()
        head = window.read(place, 4)
        last, kind, length = bool(head[0] & 0x80), head[0] & 0x7F, int.from_bytes(head[1:], "big")
        if kind == _COMMENTS:
            return _vorbis_comments(window.read(place + 4, length))
        place += 4 + length
    return {}


def ogg_texts(window: Window) -> dict[str, str]:
    """Of the second packet of the first stream whose kind has comments there.

    Raises:
        DamagedCarrierError: As its name says.
    """
    packets: dict[int, list[bytearray]] = {}  # of each stream; the last one may go on in its next page
    place = total = 0
    while place < window.size:
        window.count()
        head = window.read(place, 27)
        if not head.startswith(b"OggS"):
            raise DamagedCarrierError(f"no page begins at byte {place:,}")
        laces, place = window.read(place + 27, head[26]), place + 27 + head[26]
        total += sum(laces)
        if total > MOST_BYTES:
            raise DamagedCarrierError(f"its comments have more than {MOST_BYTES >> 20} MiB")
        own = packets.setdefault(struct.unpack_from("<I", head, 14)[0], [bytearray()])
        content, place = window.read(place, sum(laces)), place + sum(laces)
        _add_page(own, laces, content)
        if len(own) > 2 and own[0].startswith(_FIRST_PACKETS):
            return _of_second_packet(bytes(own[1]))
    return {}


def mp3_texts(window: Window) -> dict[str, str]:
    """Of the ID3 at the begin of an MP3 file: the texts that have names of their own, and the comment.

    Raises:
        DamagedCarrierError: As its name says.
    """
    head = window.read(0, 10)
    version, flags = head[3], head[5]
    body = window.read(10, _syncsafe(head[6:10]))
    if flags & _UNSYNCHRONISED and version < 4:
        body = body.replace(b"\xff\0", b"\xff")
    if flags & _EXTENDED and version > 2:
        length = _syncsafe(body[:4]) if version > 3 else int.from_bytes(body[:4], "big") + 4
        body = body[length:]
    found: dict[str, str] = {}
    for kind, content in _frames(body, version, window):
        if kind in (b"TXXX", b"TXX", b"COMM", b"COM") and content:
            coding, rest = _ENCODINGS.get(content[0], "utf-8"), content[1:]
            name, text = _split(rest[3:] if kind.startswith(b"C") else rest, coding)
            found.setdefault("comment" if kind.startswith(b"C") else name.lower(), text)
    return found


def _vorbis_comments(data: bytes) -> dict[str, str]:
    """A text that says who wrote the file, the number of comments, and these."""
    found: dict[str, str] = {}
    _, place = _counted_text(data, 0)
    count, place = int.from_bytes(data[place : place + 4], "little"), place + 4
    for _ in range(count):
        text, place = _counted_text(data, place)
        name, _, value = text.partition(b"=")
        found.setdefault(as_text(name).lower(), as_text(value))
    return found


def _counted_text(data: bytes, place: int) -> tuple[bytes, int]:
    """The text behind its length, and the place behind it."""
    if place + 4 > len(data):
        raise DamagedCarrierError("it ends within its comments")
    (length,), place = struct.unpack_from("<I", data, place), place + 4
    if place + length > len(data):
        raise DamagedCarrierError("one of its comments has a length that cannot be")
    return data[place : place + length], place + length


def _add_page(packets: list[bytearray], laces: bytes, content: bytes) -> None:
    """Add what a page holds; a packet ends with a lace below 255. Packets behind the second are not kept."""
    place = 0
    for lace in laces:
        if len(packets) < 3:
            packets[-1] += content[place : place + lace]
            if lace < 255:
                packets.append(bytearray())
        place += lace


def _of_second_packet(packet: bytes) -> dict[str, str]:
    if packet.startswith(_SECOND_PACKETS):
        return _vorbis_comments(packet[8 if packet.startswith(b"Opus") else 7 :])
    return _vorbis_comments(packet[4:]) if packet and packet[0] & 0x7F == _COMMENTS else {}


def _frames(body: bytes, version: int, window: Window) -> Iterator[tuple[bytes, bytes]]:
    """Kind and content of each frame that can be read without unpacking."""
    head = 6 if version < 3 else 10
    place = 0
    while place + head <= len(body) and body[place]:
        window.count()
        kind = body[place : place + (3 if version < 3 else 4)]
        raw = body[place + len(kind) : place + 2 * len(kind)]
        length = _syncsafe(raw) if version > 3 else int.from_bytes(raw, "big")
        content = body[place + head : place + head + length]
        flags = body[place + 9] if version > 3 else 0
        if len(content) < length:
            raise DamagedCarrierError("it ends within its texts")
        if not flags & _PACKED:
            content = content[4:] if flags & _WITH_LENGTH else content
            yield kind, content.replace(b"\xff\0", b"\xff") if flags & _DOUBLED else content
        place += head + length


def _syncsafe(raw: bytes) -> int:
    value = 0
    for byte in raw:
        value = value << 7 | byte & 0x7F
    return value


def _split(data: bytes, coding: str) -> tuple[str, str]:
    """Name and text, with a zero between them in their encoding."""
    if coding.startswith("utf-16"):
        text = data.decode(coding, "replace")
        name, _, rest = text.partition("\0")
        return name, rest.lstrip("\ufeff").rstrip("\0")
    name, _, rest = data.partition(b"\0")
    return as_text(name), as_text(rest).rstrip("\0")
