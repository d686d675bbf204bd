"""Runs of `ldm upscale` and `ldm inpaint` in this process, and pictures for them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from generated import manifest
from PIL import Image
from typer.testing import CliRunner

from ldm_backend.errors import LDMError
from ldm_headless.cli import app
from ldm_headless.files.png import read_png, read_png_info

QUICK = ("--steps", "2", "--device", "cpu")


def command(name: str, *arguments: object) -> tuple[int, str]:
    """Exit code and all that was said, in one line."""
    result = CliRunner().invoke(app, [name, *map(str, arguments)])
    if isinstance(result.exception, LDMError):
        text = f"{result.output} {result.exception}"
        return getattr(result.exception, "exit_code", 2), " ".join(text.split())
    return result.exit_code, " ".join(result.output.split())


def draw(path: Path, *size: int, seed: int = 0, **saving: Any) -> np.ndarray:
    """Write a picture of noise, and return what its file shows."""
    pixels = np.random.default_rng(seed).integers(0, 256, size or (6, 10, 3), np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path, **saving)
    with Image.open(path) as picture:
        return np.array(picture)


def lines(out: Path) -> dict[str, dict[str, Any]]:
    """Of the manifest, by the names of the pictures."""
    return {line["file"]: line for line in manifest(out)}


def pixels_of(out: Path, name: str) -> np.ndarray:
    return read_png(out / name)


def info_of(out: Path, name: str) -> dict[str, Any]:
    return json.loads(read_png_info(out / name))
