"""The texts in the metadata of PNG, WEBP and JPEG, wherever in the file they stand. Pixels are not looked at.

ComfyUI's editor takes workflows from pictures that others cannot open: with texts behind the image data or the end, or
with wrong checksums. So PNGs are walked chunk by chunk here, as it does.
"""

import io
import struct
import zlib
from collections.abc import Iterator

PNG = b"\x89PNG\r\n\x1a\n"
_MOST = 64 * 2**20  # bytes of an unpacked text


class DamagedPictureError(ValueError):
    """The file ends within its metadata, or they cannot be unpacked; the text says where."""


def png_texts(data: bytes) -> dict[str, str]:
    """Keyword to text, of all text chunks; the last of one keyword counts, as in the editor.

    Raises:
        DamagedPictureError: As its name says.
    """
    return {key.decode("latin-1"): as_text(value) for key, value in _png_texts(data)}


def exif_texts(data: bytes) -> dict[str, str]:
    """What stands before and after the colon in texts of the EXIF of a WEBP or JPEG, whatever their tag.

    Raises:
        DamagedPictureError: As its name says.
    """
    from PIL import Image

    found: dict[str, str] = {}
    try:
        with Image.open(io.BytesIO(data)) as image:
            for value in image.getexif().values():
                # Pillow takes each byte for a character.
                raw = value.encode("latin-1", "replace") if isinstance(value, str) else value
                key, colon, text = as_text(raw).partition(":") if isinstance(raw, bytes) else ("", "", "")
                if colon:
                    found.setdefault(key.lower(), text.rstrip("\0"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DamagedPictureError(str(error)) from error
    return found


def as_text(raw: bytes) -> str:
    """UTF-8, which programs write whatever the format says, or else the Latin-1 that PNG says."""
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _png_texts(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    for kind, content in _chunks(data):
        key, _, rest = content.partition(b"\0")
        if kind == b"tEXt":
            yield key, rest
        elif kind == b"zTXt":
            yield key, _unpacked(rest[1:])
        elif kind == b"iTXt" and len(rest) > 2:
            packed = rest[0] == 1
            _language, _, rest = rest[2:].partition(b"\0")
            _translated, _, text = rest.partition(b"\0")
            yield key, _unpacked(text) if packed else text


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Kind and content of each chunk. What follows the last whole one behind the end of the picture is no chunk."""
    place, ended = len(PNG), False
    while place < len(data):
        if place + 8 > len(data):
            length, kind = len(data), b""
        else:
            length, kind = struct.unpack_from(">I4s", data, place)
        if place + 8 + length > len(data):
            if ended:
                return
            raise DamagedPictureError(f"it ends within a part of it that begins at byte {place}")
        yield kind, data[place + 8 : place + 8 + length]
        ended |= kind == b"IEND"
        place += 12 + length


def _unpacked(packed: bytes) -> bytes:
    unpacker = zlib.decompressobj()
    try:
        text = unpacker.decompress(packed, _MOST)
    except zlib.error as error:
        raise DamagedPictureError(f"a text cannot be unpacked ({error})") from error
    if unpacker.unconsumed_tail:
        raise DamagedPictureError(f"a text has more than {_MOST >> 20} MiB when it is unpacked")
    return text
