"""Portraits of 512 and 256 pixels a side, and what a small picture loses: the pairs that the upscaler learns from."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image
from train_data import load_portraits

SIZE, COUNT = 512, 1_500  # drawn; their halves serve too, so that the network does not learn one scale of faces
HELD_OUT = 32  # drawn from other seeds; they only measure
FIRST = 1_000_000  # seeds that the portraits of the other demo model do not have
SCALE = 4


def training_portraits(work: Path) -> np.ndarray:
    """Returns the portraits to learn from, uint8 (COUNT, SIZE, SIZE, 3)."""
    return load_portraits(work, FIRST, COUNT, SIZE)


def held_out_portraits(work: Path) -> np.ndarray:
    """Returns those that only measure, uint8 (HELD_OUT, SIZE, SIZE, 3)."""
    return load_portraits(work, FIRST + COUNT, HELD_OUT, SIZE)


def halve(images: np.ndarray) -> np.ndarray:
    """Averages blocks of 2 x 2 pixels of uint8 pictures (..., H, W, 3)."""
    *rest, height, width, channels = images.shape
    blocks = images.reshape(*rest, height // 2, 2, width // 2, 2, channels)
    return (blocks.mean((-4, -2)) + 0.5).astype(np.uint8)


def degrade(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Makes the small picture of a large one (H, W, 3), a fourth of its side, as the original's training did.

    That is the light form of BSRGAN's degradation (arXiv 2103.14006): blur, a resize on the way and one to the end in
    random order, noise of one or two levels, and JPEG at qualities of 80 to 95. Sometimes half of the way is a plain
    average.
    """
    height, width = (side // SCALE for side in image.shape[:2])
    if rng.random() < 0.25:
        image = halve(image)
    picture = Image.fromarray(image)
    for step in rng.permutation(3):
        if step == 0:
            picture = _blur(picture, rng)
        elif step == 1 and rng.random() < 0.8:
            factor = rng.uniform(1, picture.width / width)
            picture = picture.resize((round(picture.width / factor), round(picture.height / factor)), _filter(rng))
        elif step == 2:
            picture = _jpeg(_noise(picture, rng), rng) if rng.random() < 0.9 else _noise(picture, rng)
    return np.asarray(_jpeg(picture.resize((width, height), _filter(rng)), rng))


def _blur(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A Gaussian; one picture in two has another width along each side."""
    wide = rng.uniform(0, 2)
    high = rng.uniform(0, 2) if rng.random() < 0.5 else wide
    kernels = [_gaussian(sigma) for sigma in (high, wide)]
    pixels = np.asarray(picture).astype(np.float32)
    for axis, kernel in enumerate(kernels):
        reach = len(kernel) // 2
        padding = [(reach, reach) if i == axis else (0, 0) for i in range(3)]
        padded = np.pad(pixels, padding, mode="reflect")
        size = pixels.shape[axis]
        parts = (weight * np.take(padded, range(i, i + size), axis) for i, weight in enumerate(kernel))
        pixels = sum(parts, start=np.zeros_like(pixels))
    return Image.fromarray((pixels + 0.5).clip(0, 255).astype(np.uint8))


def _gaussian(sigma: float) -> np.ndarray:
    x = np.arange(-5, 6)
    weights = np.exp(-0.5 * (x / max(sigma, 0.1)) ** 2)
    return (weights / weights.sum()).astype(np.float32)


def _noise(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    pixels = np.asarray(picture).astype(np.float32)
    noise = rng.normal(0, rng.uniform(1, 2), pixels.shape if rng.random() < 0.6 else (*pixels.shape[:2], 1))
    return Image.fromarray((pixels + noise + 0.5).clip(0, 255).astype(np.uint8))


def _jpeg(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=int(rng.integers(80, 96)))
    return Image.open(buffer).convert("RGB")


def _filter(rng: np.random.Generator) -> Image.Resampling:
    return (Image.Resampling.BOX, Image.Resampling.BILINEAR, Image.Resampling.BICUBIC)[rng.integers(3)]
