"""The texts in the metadata of PNG, WEBP, JPEG and AVIF, wherever in the file they stand. Pixels are not looked at.

ComfyUI's editor takes workflows from pictures that others cannot open: with texts behind the image data or the end, or
with wrong checksums. So PNGs are walked chunk by chunk here, as it does. Imports window and, for EXIF, Pillow.
"""

import struct
import warnings
import zlib
from collections.abc import Iterator

from .window import MOST_BYTES, DamagedCarrierError, Window, as_text

PNG = b"\x89PNG\r\n\x1a\n"
_TEXTS = (b"tEXt", b"comf", b"zTXt", b"iTXt")  # the second is ComfyUI's own, in animations
_WITH_EXIF = ("JPEG", "WEBP", "AVIF")
_PILLOW = (OSError, ValueError, SyntaxError, LookupError, TypeError, ArithmeticError, AttributeError, struct.error)


def png_texts(window: Window) -> dict[str, str]:
    """Keyword to text, of all text chunks; the last of one keyword counts, as in the editor.

    Raises:
        DamagedCarrierError: As its name says.
    """
    return {key.decode("latin-1"): as_text(value) for key, value in _png_texts(window)}


def exif_texts(window: Window) -> dict[str, str]:
    """What stands before and after the colon in texts of the EXIF of a WEBP, JPEG or AVIF, whatever their tag.

    Raises:
        DamagedCarrierError: As its name says.
    """
    from PIL import Image

    found: dict[str, str] = {}
    Image.init()
    known = [kind for kind in _WITH_EXIF if kind in Image.OPEN]  # AVIF needs a Pillow of 2025
    window.stream.seek(0)
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(window.stream, formats=known) as image:
            for value in image.getexif().values():
                # Pillow takes each byte for a character.
                raw = value.encode("latin-1", "replace") if isinstance(value, str) else value
                key, colon, text = as_text(raw).partition(":") if isinstance(raw, bytes) else ("", "", "")
                if colon:
                    found.setdefault(key.lower(), text.rstrip("\0"))
    except (*_PILLOW, Image.DecompressionBombError) as error:
        raise DamagedCarrierError(str(error)) from error
    return found


def _png_texts(window: Window) -> Iterator[tuple[bytes, bytes]]:
    for kind, content in _chunks(window):
        key, _, rest = content.partition(b"\0")
        if kind in (b"tEXt", b"comf"):
            yield key, rest
        elif kind == b"zTXt":
            yield key, _unpacked(rest[1:])
        elif kind == b"iTXt" and len(rest) > 2:
            packed = rest[0] == 1
            _language, _, rest = rest[2:].partition(b"\0")
            _translated, _, text = rest.partition(b"\0")
            yield key, _unpacked(text) if packed else text


def _chunks(window: Window) -> Iterator[tuple[bytes, bytes]]:
    """Kind and content of each text chunk. What follows the last whole one behind the end of the picture is none."""
    place, ended = len(PNG), False
    while place < window.size:
        window.count()
        length, kind = struct.unpack(">I4s", window.read(place, 8)) if place + 8 <= window.size else (window.size, b"")
        if place + 8 + length > window.size:
            if ended:
                return
            raise DamagedCarrierError(f"it ends within a part of it that begins at byte {place}")
        if kind in _TEXTS:
            yield kind, window.read(place + 8, length)
        ended |= kind == b"IEND"
        place += 12 + length


def _unpacked(packed: bytes) -> bytes:
    unpacker = zlib.decompressobj()
    try:
        text = unpacker.decompress(packed, MOST_BYTES)
    except zlib.error as error:
        raise DamagedCarrierError(f"a text cannot be unpacked ({error})") from error
    if unpacker.unconsumed_tail:
        raise DamagedCarrierError(f"a text has more than {MOST_BYTES >> 20} MiB when it is unpacked")
    return text
