"""Paints what lies around and over the face of a portrait: hair, beard, glasses and earrings."""

from __future__ import annotations

import numpy as np
from portrait_canvas import Canvas, Point, ellipse, ribbon, smooth
from portrait_face import FacePainter, toned
from portrait_traits import Traits

BACK_HAIR = ("long", "bob", "fringe", "curly", "afro")

# Hairlines from the left temple over the forehead to the right one: (x / half width, y / half height of the face).
# "side" is written for a parting at its high point and is mirrored when the person parts on the other side.
HAIRLINES: dict[str, tuple[Point, ...]] = {
    "short": ((-0.99, -0.18), (-0.86, -0.46), (-0.5, -0.63), (0.0, -0.68), (0.5, -0.63), (0.86, -0.46), (0.99, -0.18)),
    "side": ((-1.0, -0.14), (-0.88, -0.36), (-0.45, -0.48), (0.1, -0.62), (0.42, -0.76), (0.84, -0.50), (0.99, -0.16)),
    "fringe": ((-1.0, 0.2), (-0.9, -0.22), (-0.5, -0.38), (0.0, -0.40), (0.5, -0.38), (0.9, -0.22), (1.0, 0.2)),
    "long": ((-1.02, 0.55), (-0.92, -0.05), (-0.66, -0.48), (0.12, -0.82), (0.66, -0.48), (0.92, -0.05), (1.02, 0.55)),
    "bob": ((-1.02, 0.5), (-0.93, -0.02), (-0.72, -0.38), (0.2, -0.76), (0.74, -0.44), (0.93, -0.05), (1.02, 0.5)),
    "curly": ((-1.03, 0.2), (-0.92, -0.25), (-0.5, -0.52), (0.0, -0.56), (0.5, -0.52), (0.92, -0.25), (1.03, 0.2)),
    "afro": ((-1.0, 0.0), (-0.9, -0.4), (-0.5, -0.62), (0.0, -0.66), (0.5, -0.62), (0.9, -0.4), (1.0, 0.0)),
    "bun": ((-0.99, -0.1), (-0.88, -0.45), (-0.5, -0.68), (0.0, -0.75), (0.5, -0.68), (0.88, -0.45), (0.99, -0.1)),
    "receding": ((-1.0, -0.1), (-0.9, -0.52), (-0.62, -0.86), (0.0, -0.80), (0.62, -0.86), (0.9, -0.52), (1.0, -0.1)),
}


class PortraitPainter(FacePainter):
    """Adds hair, beard and accessories to the layers of a face."""

    def __init__(self, canvas: Canvas, traits: Traits) -> None:
        super().__init__(canvas, traits)
        self._back_mask = np.zeros_like(canvas.x)

    @property
    def hair_behind_shoulders(self) -> bool:
        """True if the clothes cover the hair that falls behind the neck."""
        return self.t.style != "long" or self.t.parting > 0.2

    def back_hair(self) -> None:
        """The hair that is seen beside the neck or around the whole head."""
        c, t, w, h = self.canvas, self.t, self.w, self.h
        if t.style not in BACK_HAIR:
            return
        c.tilted = True
        side = w + self.lift * 0.9 + 1
        if t.style in ("afro", "curly"):
            outline = self._back_outline()
        else:
            end = self.cy + (1.75 if t.style == "long" else 0.82 + 0.2 * t.volume) * h
            flare = 3 + 4 * t.volume
            right = [(0.5 * w, self.cy - 0.8 * h), (0.9 * w, self.cy - 0.5 * h), (side, self.cy),
                     (side + 0.4 * flare, self.cy + 0.3 * h), (side + flare, 0.4 * self.cy + 0.6 * end),
                     (side + 0.6 * flare, end - 2), (0.55 * w, end + 1.5)]  # fmt: skip
            outline = smooth([(self.cx + x, y) for x, y in right] + [(self.cx - x, y) for x, y in reversed(right)])
        mask = self._back_mask = c.mask(outline)
        c.paint(mask, self._hair_colours(0.96))
        c.paint(mask * c.spot((self.cx, self.cy + 0.85 * h), (0.62 * w, 0.5 * h)), toned(t.hair, 0.4), 0.8)

    def top_hair(self) -> None:
        """The hair over the skull, down to the hairline and the temples."""
        c, t, w, h = self.canvas, self.t, self.w, self.h
        c.tilted = True
        if t.style == "bald":
            c.paint(self._face_mask * c.spot((self.cx + 12 * t.light[0], self.cy - 0.8 * h), (7, 4)), (1, 1, 1), 0.28)
            return
        flip = -1 if t.parting < 0 else 1
        shift = 0.35 * t.yaw
        line = [(self.cx + shift + flip * x * w * 1.02, self.cy + y * h) for x, y in HAIRLINES[t.style]]
        if flip < 0:
            line.reverse()
        if t.style in ("curly", "afro"):
            crown = [p for p in self._back_outline() if p[1] < self.cy + 0.1 * h]
            crown.sort(key=lambda p: -np.arctan2(p[0] - self.cx, self.cy + 0.1 * h - p[1] + 1e-6))
            outline = [*crown, *smooth(line, closed=False)]
        else:
            lift = 3.0 if t.style in ("bun", "receding") else self.lift
            level = self.cy - 0.15 * h
            angle = np.linspace(-0.06 * np.pi, 1.06 * np.pi, 30)
            crown = [
                (self.cx + float(np.cos(a)) * (w + 0.55 * lift), level - float(np.sin(a)) * (0.87 * h + lift))
                for a in angle
            ]
            outline = [*smooth(line, closed=False), *crown]
        mask = c.mask(outline)
        if t.style in ("long", "bob", "fringe"):
            mask = np.maximum(mask, self._locks() * self._back_mask)
        c.paint(c.mask([(x, y + 2.2) for x, y in outline], soften=1.6) * self._face_mask * (1 - mask),
                toned(t.skin, 0.5, 0.03), 0.5)  # fmt: skip
        if t.style == "bun":
            self._bun()
        c.paint(mask, self._hair_colours(1.0))

    def beard(self) -> None:
        """Full beard or moustache, with a soft edge."""
        c, t, w, h = self.canvas, self.t, self.w, self.h
        if t.beard == "none":
            return
        c.tilted = True
        colour = toned(t.hair, 0.85) * 0.85 + t.skin * 0.15
        x, y = self.fx, self.mouth_y
        if t.beard == "full":
            high = self.cy - 0.02 * h
            corner = self.cy + 0.72 * h
            outer = [(-w, high), (-0.84 * w, corner), (0, self.cy + 1.09 * h), (0.84 * w, corner), (w, high)]
            inner = [(0.86 * w, y - 12), (0.62 * w, y - 6), (0, y - 3.5), (-0.62 * w, y - 6), (-0.86 * w, y - 12)]
            full = [(self.cx + px, py) for px, py in smooth(outer, closed=False)]
            full += [(x + px, py) for px, py in smooth(inner, closed=False)]
            c.paint(c.mask(full, soften=0.8), colour * 0.95, 0.95)
        moustache = [(x - 10.5, y - 1.0), (x - 5, y - 4.6), (x, y - 4.2), (x + 5, y - 4.6), (x + 10.5, y - 1.0)]
        c.paint(c.mask(ribbon(moustache, (2.0, 3.6, 3.2, 3.6, 2.0)), soften=0.6), colour * 0.9, 0.92)

    def accessories(self) -> None:
        """Glasses and earrings."""
        c, t = self.canvas, self.t
        c.tilted = True
        if t.earrings:
            for side in (-1, 1):
                spot = (self.cx + side * (self.w + 1.0) - 0.3 * t.yaw, self.cy + 14.5)
                c.paint(c.mask(ellipse(*spot, 2.4, 2.4)), (0.86, 0.68, 0.3))
                c.paint(c.mask(ellipse(spot[0] - 0.6, spot[1] - 0.7, 1.1, 1.1)), (1, 0.94, 0.75))
        if not t.glasses:
            return
        frame = (0.13, 0.11, 0.12)
        for side in (-1, 1):
            x, y = self.fx + side * t.eye_gap, self.eye_y + 0.6
            c.paint(c.mask(ellipse(x, y, 9.6, 8.6)), (0.92, 0.96, 1.0), 0.10)
            rim = c.mask(ellipse(x, y, 10.6, 9.6)) - c.mask(ellipse(x, y, 8.8, 7.8))
            c.paint(np.clip(rim, 0, 1), frame, 0.92)
            start, end = x + side * 10, self.cx + side * (self.w + 1)
            arm = [(start, y - 2), ((start + end) / 2, y - 2.5), (end, y - 3)]
            c.paint(c.mask(ribbon(arm, (2.0, 2.0, 2.0))), frame, 0.85)
        bridge = [(self.fx - 3.4, self.eye_y - 0.5), (self.fx, self.eye_y - 1.6), (self.fx + 3.4, self.eye_y - 0.5)]
        c.paint(c.mask(ribbon(bridge, (2.0, 2.0, 2.0))), frame, 0.92)

    # ---- helpers

    def _hair_colours(self, factor: float) -> np.ndarray:
        """Returns the lit colour of the hair at every pixel, (size, size, 3)."""
        c, t = self.canvas, self.t
        x, y = c.head_grid()
        lit = 0.92 + 0.22 * t.light[0] * (x - self.cx) / self.w - 0.10 * (y - self.cy + 0.5 * self.h) / self.h
        gloss = c.spot((self.cx + 15 * t.light[0], self.cy - 0.88 * self.h), (11, 4.2))
        base = t.hair * np.clip(lit, 0.55, 1.15)[..., None] * factor
        return np.clip(base + (0.16 * factor * gloss)[..., None] * (0.4 + t.hair), 0, 1)

    def _curls(self, cy: float, rx: float, ry: float, count: int, depth: float) -> list[Point]:
        """Returns an ellipse whose edge bulges `count` times by `depth` units."""
        angle = np.linspace(0, 2 * np.pi, 180, endpoint=False)
        bump = depth * np.abs(np.sin(0.5 * count * angle + 3 * self.t.parting))
        return [
            (self.cx + float(np.cos(a)) * (rx + b), cy - float(np.sin(a)) * (ry + b))
            for a, b in zip(angle, bump, strict=True)
        ]

    def _back_outline(self) -> list[Point]:
        if self.t.style == "afro":
            return self._curls(self.cy - 0.3 * self.h, 1.3 * self.w + 3 * self.t.volume, 1.0 * self.h, 17, 2.6)
        return self._curls(self.cy - 0.05 * self.h, self.w + self.lift + 2, 1.02 * self.h + 4, 17, 2.6)

    def _locks(self) -> np.ndarray:
        """Returns the mask of the strands in front of the temples, so that the back hair joins the crown."""
        end = {"long": 1.2, "bob": 0.75, "fringe": 0.8}[self.t.style] * self.h
        masks = []
        for side in (-1, 1):
            x = self.cx + side * (self.w + 0.45 * self.lift - 0.5)
            top = (x - side * 1.5, self.cy - 0.45 * self.h)
            widths = (6.0, 0.9 * self.lift + 3, 0.9 * self.lift + 3, 0.9 * self.lift)
            strand = [top, (x, self.cy), (x + side * 0.8, self.cy + 0.5 * end), (x - side * 0.8, self.cy + end)]
            masks.append(ribbon(strand, widths))
        return self.canvas.mask(*masks)

    def _bun(self) -> None:
        c, t = self.canvas, self.t
        centre = (self.cx - 0.6 * t.yaw, self.cy - 1.02 * self.h - 7)
        mask = c.mask(ellipse(*centre, 11 + 2 * t.volume, 9 + 2 * t.volume))
        c.paint(mask, self._hair_colours(0.8))
        c.paint(mask * c.spot((centre[0] + 5 * t.light[0], centre[1] - 2), (4.5, 3.0)), toned(t.hair, 1.4), 0.45)
