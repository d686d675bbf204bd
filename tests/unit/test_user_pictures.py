"""Pictures of the user's of which something is odd: pixels come out, or an error of the family, soon and in bounds."""

from __future__ import annotations

import io
import os
import random
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ldm_headless.errors import JobError
from ldm_headless.files import pictures
from ldm_headless.files.pictures import read_bytes, read_mask, read_picture
from ldm_headless.files.png import MAX_PIXELS

MUTATIONS = int(os.environ.get("LDM_IMAGES", "600"))
SECONDS = 5.0


def saved(kind: str, mode: str = "RGB", **options: Any) -> bytes:
    channels = {"RGB": (3,), "RGBA": (4,), "L": (), "LA": (2,)}[mode]
    pixels = np.random.default_rng(1).integers(0, 256, (17, 23, *channels), np.uint8)
    if mode == "RGBA":
        pixels[..., 3] = 255
    file = io.BytesIO()
    Image.fromarray(pixels, mode).save(file, kind, **options)
    return file.getvalue()


def exif() -> Image.Exif:
    found = Image.Exif()
    found[0x0112] = 6
    found[0x010E] = "a text"
    return found


def texts() -> PngInfo:
    found = PngInfo()
    found.add_text("a", "b" * 50, zip=True)
    found.add_itxt("c", "d" * 50, zip=True)
    return found


FILES = {
    "png": saved("PNG", pnginfo=texts()),
    "turned png": saved("PNG", exif=exif(), icc_profile=b"x" * 300),
    "alpha": saved("PNG", "RGBA"),
    "grey": saved("PNG", "L", transparency=3),
    "jpeg": saved("JPEG", exif=exif(), icc_profile=b"x" * 300),
    "progressive": saved("JPEG", progressive=True),
    "webp": saved("WEBP", exif=exif()),
    "lossless": saved("WEBP", "RGBA", lossless=True),
}


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Bytes changed, put in, taken out or repeated, numbers made large, the end cut off."""
    found = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 5, 20))):
        at = chance.randrange(len(found) or 1)
        match chance.randrange(6):
            case 0:
                found[at : at + 1] = bytes([chance.randrange(256)])
            case 1:
                found[at : at + 4] = chance.choice(
                    (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"\0\0\x20\0")
                )
            case 2:
                del found[at : at + chance.randrange(1, 40)]
            case 3:
                found[at:at] = found[chance.randrange(len(found) or 1) :][: chance.randrange(1, 60)]
            case 4:
                found[at : at + 1] = bytes([found[at] ^ 1 << chance.randrange(8)]) if found else b""
            case _:
                del found[chance.randrange(len(found) // 2, len(found) + 1) :]
    return bytes(found)


@pytest.mark.parametrize("read", [read_picture, read_mask])
@pytest.mark.parametrize("name", FILES)
def test_mutated_pictures_end_in_pixels_or_a_message(name: str, read: Any) -> None:
    chance = random.Random(name)
    kinds = {"pixels": 0, "message": 0}
    for _ in range(MUTATIONS):
        data = mutated(FILES[name], chance)
        start = time.monotonic()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's own, about what it passes over
            try:
                pixels = read(data, "x")
            except JobError as error:
                kinds["message"] += str(error).startswith(("cannot read x", "x "))
            else:
                assert (pixels.dtype, pixels.ndim) == ((np.uint8, 3) if read is read_picture else (bool, 2))
                assert 0 < pixels.shape[0] * pixels.shape[1] <= MAX_PIXELS
                kinds["pixels"] += 1
        assert time.monotonic() - start < SECONDS
    assert kinds["message"] > 0
    assert sum(kinds.values()) == MUTATIONS


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP"])
def test_all_orientations(orientation: int, kind: str) -> None:
    """Against Pillow's own rotations, as TIFF defines the eight."""
    pixels = np.kron(np.random.default_rng(3).integers(0, 2, (3, 5, 1)) * 255, np.ones((8, 8, 3))).astype(np.uint8)
    meant = Image.fromarray(pixels)
    undone = [
        None, None, Image.Transpose.FLIP_LEFT_RIGHT, Image.Transpose.ROTATE_180, Image.Transpose.FLIP_TOP_BOTTOM,
        Image.Transpose.TRANSPOSE, Image.Transpose.ROTATE_90, Image.Transpose.TRANSVERSE, Image.Transpose.ROTATE_270,
    ][orientation]  # fmt: skip
    tag = Image.Exif()
    tag[0x0112] = orientation
    file = io.BytesIO()
    (meant if undone is None else meant.transpose(undone)).save(file, kind, exif=tag, quality=100, lossless=True)
    found = read_picture(file.getvalue(), "x")
    assert found.shape == pixels.shape
    assert np.abs(found.astype(int) - pixels).max() <= 4  # of JPEG


def test_what_is_read_can_be_written_to() -> None:
    for name, data in FILES.items():
        if name != "grey":
            read_picture(data, "x")[0, 0] = 0


def test_a_file_larger_than_any_picture_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pictures, "MAX_BYTES", 1000)
    (tmp_path / "a.png").write_bytes(bytes(1000))
    assert len(read_bytes(tmp_path / "a.png")) == 1000
    (tmp_path / "b.png").write_bytes(bytes(1001))
    with pytest.raises(JobError, match="has more than 1,000 bytes, which no picture that is taken has"):
        read_bytes(tmp_path / "b.png")
