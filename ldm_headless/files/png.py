"""PNG in and out: pixels, and what `ldm` knows of them in the text chunk `ldm`. Imports Pillow and numpy."""

import hashlib
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, UnidentifiedImageError
from PIL.PngImagePlugin import PngImageFile, PngInfo

from ..errors import JobError

CHUNK = "ldm"
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
        JobError: No PNG, a damaged one, or one of other than 8 bits a channel.
    """
    try:
        with Image.open(source, formats=["PNG"]) as picture:
            if picture.mode not in ("RGB", "RGBA", "L", "P"):
                raise JobError(f"{name or source} has the mode {picture.mode}; expected 8 bits in each of 3 channels")
            return np.asarray(picture.convert("RGB"))
    except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise JobError(f"cannot read {name or source} as PNG: {error}; save it again") from error


def read_png_info(path: Path) -> str:
    """The text that `encode_png` put into it; empty for a PNG of others."""
    with Image.open(path, formats=["PNG"]) as picture:
        return str(picture.text.get(CHUNK, "")) if isinstance(picture, PngImageFile) else ""
