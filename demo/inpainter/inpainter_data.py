"""Portraits with holes: the latents that the inpainter draws, and what it sees of them."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from torch import Tensor
from train_data import SIZE, load_portraits, to_tensor

import ldm_backend
from ldm_backend.conditioning.masked_image import masked_image
from ldm_backend.networks.first_stage import FirstStage

COUNT, HOLES = 4_000, 3  # portraits, and holes in each
HELD_OUT = 32  # drawn from other seeds; they only measure
FIRST = 2_000_000  # seeds that the portraits of the other demo models do not have
PORTRAITS = Path(__file__).parents[1] / "portraits-128"  # its first stage, and the weights to begin with
_AT_ONCE = 32

log = logging.getLogger("comfyui_ldm.demo")


def draw_hole(rng: np.random.Generator) -> np.ndarray:
    """Returns a hole, bool (SIZE, SIZE): boxes, ellipses, strokes of a brush, or one side of the picture."""
    picture = Image.new("L", (SIZE, SIZE))
    draw = ImageDraw.Draw(picture)
    kind = rng.choice(("boxes", "ellipses", "strokes", "side"), p=(0.3, 0.25, 0.35, 0.1))
    if kind == "side":
        share, turned = int(rng.uniform(0.25, 0.5) * SIZE), int(rng.integers(4))
        hole = np.zeros((SIZE, SIZE), bool)
        hole[:share] = True
        return np.ascontiguousarray(np.rot90(hole, turned))
    for _ in range(int(rng.integers(1, 4))):
        if kind == "strokes":
            points = rng.uniform(0.1, 0.9, (int(rng.integers(2, 6)), 2)) * SIZE
            width = int(rng.integers(6, 24))
            draw.line([(float(x), float(y)) for x, y in points], 255, width, "curve")
            continue
        sides = rng.uniform(14, 64, 2)
        corner = rng.uniform(0, SIZE - sides)
        box = [float(number) for number in (*corner, *(corner + sides))]
        (draw.rectangle if kind == "boxes" else draw.ellipse)(box, 255)
    return np.asarray(picture) > 0


def held_out(work: Path) -> tuple[np.ndarray, np.ndarray]:
    """Returns portraits that only measure, uint8 (HELD_OUT, SIZE, SIZE, 3), and their holes, bool."""
    holes = [draw_hole(np.random.default_rng((19, index))) for index in range(HELD_OUT)]
    return load_portraits(work, FIRST + COUNT, HELD_OUT), np.stack(holes)


class Pairs:
    """Draws latents of portraits with what the model sees of them; encoded once, float16.

    Args:
        work: Folder of the training.
    """

    def __init__(self, work: Path) -> None:
        self._latents, self._seen = (work / f"{name}.npy" for name in ("latents", "seen"))
        if not self._seen.is_file():
            self._encode(work)
        self.latents, self.seen = (np.load(path, mmap_mode="r") for path in (self._latents, self._seen))

    def _encode(self, work: Path) -> None:
        images = load_portraits(work, FIRST, COUNT)
        log.info("encoding %d portraits, %d times with a hole", COUNT, HOLES)
        stage = ldm_backend.load(PORTRAITS, "cpu").first_stage
        latents, seen = [], []
        for start in range(0, COUNT, _AT_ONCE):
            x = to_tensor(images[start : start + _AT_ONCE])
            with torch.no_grad():
                latents.append(stage.encode(x).half())
            seen.append(torch.stack([self._with_hole(stage, x, start, number) for number in range(HOLES)], 1))
        for path, parts in ((self._latents, latents), (self._seen, seen)):
            partial = path.with_suffix(".part.npy")
            np.save(partial, torch.cat(parts).numpy())
            partial.replace(path)

    @staticmethod
    def _with_hole(stage: FirstStage, x: Tensor, start: int, number: int) -> Tensor:
        holes = [draw_hole(np.random.default_rng((17, start + at, number))) for at in range(len(x))]
        return masked_image(stage, x, torch.from_numpy(np.stack(holes))).half()

    def batch(self, step: int, size: int) -> tuple[Tensor, Tensor]:
        """Returns latents (N, 3, h, w) and what is seen of them (N, 4, h, w); the same for each step."""
        rng = np.random.default_rng((23, step))
        index, number = rng.integers(COUNT, size=size), rng.integers(HOLES, size=size)
        return torch.from_numpy(self.latents[index]).float(), torch.from_numpy(self.seen[index, number]).float()
