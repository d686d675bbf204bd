"""Drawing primitives for the demo portraits: an antialiased float canvas and smooth curves.

All coordinates are "units" of 1/128 of the picture's side before the zoom on the head, y grows downwards.
Colours are sRGB triples in 0..1.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

UNITS = 128.0
ZOOM, ZOOM_FROM, ZOOM_TO = 1.13, (64.0, 68.0), (64.0, 66.5)  # the face fills the frame like a CelebA-HQ crop
SUPERSAMPLE = 4  # masks are drawn four times as large and averaged down: 16 coverage levels per edge pixel

Point = tuple[float, float]
Colour = Sequence[float] | np.ndarray


def smooth(points: Sequence[Point], closed: bool = True, per_segment: int = 10) -> list[Point]:
    """Returns a Catmull-Rom curve through `points`, sampled `per_segment` times between two neighbours."""
    p = np.asarray(points, dtype=np.float64)
    before, after = (p[-1:], p[:2]) if closed else (2 * p[:1] - p[1:2], 2 * p[-1:] - p[-2:-1])
    p = np.concatenate([before, p, after])
    t = (np.arange(per_segment) / per_segment)[None, :, None]
    a, b, c, d = p[:-3, None], p[1:-2, None], p[2:-1, None], p[3:, None]
    curve = 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)
    flat = [(float(x), float(y)) for x, y in curve.reshape(-1, 2)]
    return flat if closed else [*flat, (float(p[-2, 0]), float(p[-2, 1]))]


def ellipse(cx: float, cy: float, rx: float, ry: float, count: int = 40) -> list[Point]:
    """Returns the outline of an ellipse as a closed polygon."""
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
    return [(cx + rx * float(np.cos(a)), cy + ry * float(np.sin(a))) for a in angle]


def ribbon(points: Sequence[Point], widths: Sequence[float]) -> list[Point]:
    """Returns the outline of a stroke along the smooth curve through `points`, with one width per point."""
    line = np.asarray(smooth(points, closed=False))
    width = np.interp(np.linspace(0, len(points) - 1, len(line)), np.arange(len(points)), widths)
    tangent = np.gradient(line, axis=0)
    tangent /= np.maximum(np.linalg.norm(tangent, axis=1, keepdims=True), 1e-9)
    offset = np.stack([-tangent[:, 1], tangent[:, 0]], axis=1) * width[:, None] / 2
    return [(float(x), float(y)) for x, y in np.concatenate([line + offset, (line - offset)[::-1]])]


class Canvas:
    """A square RGB picture that is painted layer by layer through antialiased masks.

    Args:
        size: Side of the picture in pixels.
        pivot: Point (units) around which a tilted head turns.
        tilt: Rotation (radians, clockwise on the screen) applied to every polygon while `tilted` is true.
    """

    def __init__(self, size: int, pivot: Point, tilt: float) -> None:
        self.size = size
        self.pixels = np.zeros((size, size, 3), dtype=np.float32)
        axis = (np.arange(size, dtype=np.float32) + 0.5) * (UNITS / size)
        self.x, self.y = np.meshgrid(
            (axis - ZOOM_TO[0]) / ZOOM + ZOOM_FROM[0], (axis - ZOOM_TO[1]) / ZOOM + ZOOM_FROM[1]
        )
        self.tilted = False
        self._pivot = pivot
        self._turn = (float(np.cos(tilt)), float(np.sin(tilt)))

    def head_grid(self) -> tuple[np.ndarray, np.ndarray]:
        """Returns the pixel coordinates (units) as seen from the upright head."""
        cos, sin = self._turn
        dx, dy = self.x - self._pivot[0], self.y - self._pivot[1]
        return self._pivot[0] + cos * dx + sin * dy, self._pivot[1] - sin * dx + cos * dy

    def mask(self, *polygons: Sequence[Point], soften: float = 0.0) -> np.ndarray:
        """Returns the coverage (size, size) in 0..1 of the union of `polygons`, blurred by `soften` units."""
        big = self.size * SUPERSAMPLE
        image = Image.new("L", (big, big))
        draw = ImageDraw.Draw(image)
        for polygon in polygons:
            draw.polygon([self._place(p) for p in polygon], fill=255)
        image = image.reduce(SUPERSAMPLE)
        if soften:
            image = image.filter(ImageFilter.GaussianBlur(soften * self.size / UNITS))
        return np.asarray(image, dtype=np.float32) / 255

    def paint(self, mask: np.ndarray, colour: Colour, opacity: float = 1.0) -> None:
        """Blends `colour`, one triple or a picture (size, size, 3), over the canvas where `mask` covers it."""
        alpha = (mask * opacity)[..., None]
        self.pixels += alpha * (np.asarray(colour, dtype=np.float32) - self.pixels)

    def spot(self, centre: Point, radius: Point) -> np.ndarray:
        """Returns a soft round mask (Gaussian with standard deviations `radius`, units) that follows the tilt."""
        x, y = self.head_grid()
        return np.exp(-0.5 * (((x - centre[0]) / radius[0]) ** 2 + ((y - centre[1]) / radius[1]) ** 2))

    def to_uint8(self) -> np.ndarray:
        """Returns the picture as uint8 (size, size, 3)."""
        return (np.clip(self.pixels, 0, 1) * 255 + 0.5).astype(np.uint8)

    def _place(self, point: Point) -> Point:
        x, y = point
        if self.tilted:
            cos, sin = self._turn
            dx, dy = x - self._pivot[0], y - self._pivot[1]
            x, y = self._pivot[0] + cos * dx - sin * dy, self._pivot[1] + sin * dx + cos * dy
        scale = self.size * SUPERSAMPLE / UNITS
        return (
            ((x - ZOOM_FROM[0]) * ZOOM + ZOOM_TO[0]) * scale,
            ((y - ZOOM_FROM[1]) * ZOOM + ZOOM_TO[1]) * scale,
        )
