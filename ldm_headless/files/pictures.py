"""PNG, JPEG and WebP of the user's, as pixels that the models know: 8 bits, three colours, nothing transparent.

What would have to be guessed or lost is refused in words: 16 bits, transparency, CMYK, moving pictures. Imports Pillow.
"""

import io
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

from ..errors import JobError
from .bounded import MAX_BYTES, damage_told
from .png import MAX_PIXELS

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
_MODES = ("RGB", "RGBA", "L", "LA", "P", "PA", "1")
_DEPTH_AT = 24  # in a PNG: bits of a channel
_PNG = b"\x89PNG\r\n\x1a\n"


def read_bytes(path: Path) -> bytes:
    """A file as it is.

    Raises:
        JobError: It cannot be read, is no file, or is larger than any picture that is taken.
    """
    with damage_told(f"cannot read {path}"):
        if not path.is_file():
            what = "it is no file" if path.exists() else "there is no such file"
            raise JobError(f"cannot read {path}: {what}; give a picture in its place, or leave it out")
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise JobError(
            f"{path} has more than {MAX_BYTES:,} bytes, which no picture that is taken has; save it as PNG, JPEG or "
            "WebP"
        )
    return data


def read_picture(data: bytes, name: str) -> np.ndarray:
    """The pixels as they are meant to be seen, uint8 (H, W, 3): turned as EXIF says, grey ones with equal channels.

    Args:
        data: Of the whole file.
        name: For messages.

    Raises:
        JobError: No PNG, JPEG or WebP, a damaged one, of more than `MAX_PIXELS`, or one that would lose something:
            16 bits a channel, transparent pixels, CMYK, several frames.
    """
    what = f"cannot read {name} as PNG, JPEG or WebP"
    with damage_told(what), _opened(data, what) as picture:
        if picture.width * picture.height > MAX_PIXELS:
            size = f"{picture.width:,}x{picture.height:,}"
            raise JobError(f"{name} has {size} pixels; at most {MAX_PIXELS:,} are taken")
        if data.startswith(_PNG) and data[_DEPTH_AT] == 16:
            raise JobError(f"{name} has 16 bits a channel, of which the models know 8; save it with 8")
        if picture.mode not in _MODES:
            raise JobError(f"{name} has the mode {picture.mode}; expected RGB or grey with 8 bits; convert it")
        if getattr(picture, "n_frames", 1) > 1:
            raise JobError(f"{name} is a moving picture; give its frames as files of their own")
        upright = ImageOps.exif_transpose(picture)
        if upright.mode in ("RGBA", "LA", "PA") or "transparency" in upright.info:
            return _opaque(np.asarray(upright.convert("RGBA")), name)
        return np.array(upright.convert("RGB"))


def read_mask(data: bytes, name: str) -> np.ndarray:
    """Where a mask is white, 128 or more of 255: bool (H, W).

    Args:
        data: As for `read_picture`.
        name: Likewise.

    Raises:
        JobError: As `read_picture`, or a picture in colour.
    """
    white = read_picture(data, name) >= 128
    if (white != white[..., :1]).any():
        raise JobError(f"{name} is in colour; expected a mask in black and white, white where the picture is made anew")
    return white[..., 0]


def _opened(data: bytes, what: str) -> Image.Image:
    try:
        return Image.open(io.BytesIO(data), formats=["PNG", "JPEG", "WEBP"])
    except UnidentifiedImageError as error:  # whose own words are about Python
        raise JobError(
            f"{what}: it is none of these, or its beginning is damaged; save it again, or leave it out"
        ) from error


def _opaque(pixels: np.ndarray, name: str) -> np.ndarray:
    if (pixels[..., 3] != 255).any():
        raise JobError(f"{name} has transparent pixels, which the models do not know; put it on a background first")
    return np.ascontiguousarray(pixels[..., :3])
