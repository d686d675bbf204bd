"""PNG in and out: pixels, and what `ldm` knows of them in the text chunk `ldm`. Imports Pillow and numpy."""

import hashlib
import io
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image
from PIL.PngImagePlugin import PngImageFile, PngInfo

from ..errors import JobError
from .bounded import damage_told

CHUNK = "ldm"
MAX_PIXELS = 2**25
"""Of an image that is read: a few kB can stand for billions."""
_COMPRESS_LEVEL = 4  # as LDM Save Image


def encode_png(pixels: np.ndarray, info: Mapping[str, Any]) -> bytes:
    """A PNG of uint8 (H, W, 3), or grey (H, W, 1), with JSON of `info` in it; of the same arguments the same bytes."""
    texts = PngInfo()
    texts.add_text(CHUNK, json.dumps(info))
    file = io.BytesIO()
    Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels).save(
        file, "PNG", pnginfo=texts, compress_level=_COMPRESS_LEVEL
    )
    return file.getvalue()


def pixels_sha256(pixels: np.ndarray) -> str:
    """SHA-256 of the bytes of uint8 (H, W, 3); of grey (H, W, 1) as `read_png` gives it back."""
    colours = np.broadcast_to(pixels, (*pixels.shape[:-1], 3)) if pixels.shape[-1] == 1 else pixels
    return hashlib.sha256(np.ascontiguousarray(colours).tobytes()).hexdigest()


def read_png(source: Path | BinaryIO, name: str | None = None) -> np.ndarray:
    """Pixels as uint8 (H, W, 3), of a grey picture too.

    Args:
        source: A file, by path or open.
        name: For messages, where `source` has no path.

    Raises:
        JobError: No PNG, a damaged one, one of other than 8 bits a channel, or of more than `MAX_PIXELS`.
    """
    with _opened(source, name) as picture:
        return _pixels(picture)


def read_png_info(source: Path | BinaryIO, name: str | None = None) -> str:
    """The text that `encode_png` put into it; empty for a PNG of others.

    Args:
        source: As for `read_png`.
        name: Likewise.

    Raises:
        JobError: As `read_png`.
    """
    with _opened(source, name) as picture:
        return _info(picture)


def read_png_whole(source: Path | BinaryIO, name: str | None = None) -> tuple[np.ndarray, str]:
    """What `read_png` and `read_png_info` give, of one reading.

    Args:
        source: As for `read_png`.
        name: Likewise.

    Raises:
        JobError: As `read_png`.
    """
    with _opened(source, name) as picture:
        return _pixels(picture), _info(picture)


@contextmanager
def _opened(source: Path | BinaryIO, name: str | None) -> Iterator[Image.Image]:
    what = f"cannot read {name or source} as PNG"
    with damage_told(what):
        if isinstance(source, Path) and source.exists() and not source.is_file():
            raise JobError(f"{what}: it is no file; check the path")
        with Image.open(source, formats=["PNG"]) as picture:
            if picture.mode not in ("RGB", "RGBA", "L", "P"):
                raise JobError(f"{name or source} has the mode {picture.mode}; expected 8 bits in each of 3 channels")
            if picture.width * picture.height > MAX_PIXELS:
                size = f"{picture.width:,}x{picture.height:,}"
                raise JobError(f"{name or source} has {size} pixels; at most {MAX_PIXELS:,} are taken")
            yield picture


def _pixels(picture: Image.Image) -> np.ndarray:
    return np.asarray(picture if picture.mode == "RGB" else picture.convert("RGB"))


def _info(picture: Image.Image) -> str:
    return str(picture.text.get(CHUNK, "")) if isinstance(picture, PngImageFile) else ""
