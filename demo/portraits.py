"""Draws the portraits that the demo model is trained on: head and shoulders, centred, one person per seed.

The style is made for a small model: a constant frame, soft shading, no texture, and no stroke under about 2 pixels
at 128 x 128, which an autoencoder that reduces each side four times can still carry.

Usage:
    python demo/portraits.py --out grid.png --count 16
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image
from portrait_canvas import Canvas
from portrait_hair import PortraitPainter
from portrait_traits import draw_traits


def draw_portrait(seed: int, size: int = 128) -> np.ndarray:
    """Draws one portrait.

    Args:
        seed: Any non-negative integer; the same seed always gives the same person, whatever the size.
        size: Side of the picture in pixels.

    Returns:
        uint8 picture of shape (size, size, 3).
    """
    traits = draw_traits(np.random.default_rng(seed))
    x, y = traits.centre
    canvas = Canvas(size, (x, y + traits.half[1] + 6), traits.tilt)
    painter = PortraitPainter(canvas, traits)
    painter.background()
    if painter.hair_behind_shoulders:
        painter.back_hair()
        painter.clothes()
    else:
        painter.clothes()
        painter.back_hair()
    painter.neck()
    painter.ears()
    painter.face()
    painter.beard()
    painter.mouth()
    painter.nose()
    painter.eyes()
    painter.top_hair()
    painter.brows()
    painter.accessories()
    return canvas.to_uint8()


def contact_sheet(images: np.ndarray, columns: int = 4) -> Image.Image:
    """Returns uint8 pictures (N, H, W, 3) side by side in rows of `columns`, on white."""
    count, height, width, _ = images.shape
    sheet = Image.new("RGB", (columns * (width + 2) - 2, -(-count // columns) * (height + 2) - 2), "white")
    for i, image in enumerate(images):
        sheet.paste(Image.fromarray(image), (i % columns * (width + 2), i // columns * (height + 2)))
    return sheet


def main() -> None:
    """Writes a contact sheet of portraits."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, required=True, help="the picture to write")
    parser.add_argument("--count", type=int, default=16, help="number of portraits")
    parser.add_argument("--seed", type=int, default=0, help="seed of the first portrait")
    parser.add_argument("--size", type=int, default=128, help="side of one portrait in pixels")
    args = parser.parse_args()
    images = np.stack([draw_portrait(args.seed + i, args.size) for i in range(args.count)])
    contact_sheet(images).save(args.out)


if __name__ == "__main__":
    main()
