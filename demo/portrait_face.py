"""Paints the backdrop, the shoulders and the face of a portrait from its traits."""

from __future__ import annotations

import numpy as np
from portrait_canvas import Canvas, Point, ellipse, ribbon, smooth
from portrait_traits import Traits


def toned(colour: np.ndarray, factor: float, warmth: float = 0.0) -> np.ndarray:
    """Returns a lighter (`factor` > 1, towards white) or darker `colour`; `warmth` moves it towards red."""
    tone = colour + (1 - colour) * (factor - 1) if factor > 1 else colour * factor
    return np.clip(tone + np.array([warmth, 0, -0.6 * warmth], dtype=np.float32), 0, 1)


class FacePainter:
    """Paints the backdrop, the body and the face of one person on a canvas; the caller chooses the order.

    Args:
        canvas: Where to paint; its tilt must be that of the person.
        traits: The person.
    """

    def __init__(self, canvas: Canvas, traits: Traits) -> None:
        self.canvas, self.t = canvas, traits
        self.cx, self.cy = traits.centre
        self.w, self.h = traits.half
        self.fx = self.cx + traits.yaw  # where the features are centred
        self.eye_y = self.cy + 1.0
        self.mouth_y = self.cy + 0.6 * self.h
        self.lift = 5.5 + 3.0 * traits.volume  # thickness of the hair over the skull
        self._face_mask = np.zeros_like(canvas.x)

    # ---- behind the face

    def background(self) -> None:
        """A soft gradient with a glow behind the head on the side of the light."""
        c, t = self.canvas, self.t
        ramp = np.clip((c.y + 0.5 * t.light[0] * (c.x - 64)) / 128, 0, 1)[..., None]
        c.pixels[:] = t.backdrop[0] * (1 - ramp) + t.backdrop[1] * ramp
        glow = np.exp(-0.5 * (((c.x - 64 - 30 * t.light[0]) / 42) ** 2 + ((c.y - 40) / 42) ** 2))
        c.paint(glow, (1, 1, 1), 0.22)

    def clothes(self) -> None:
        """Shoulders, lit from above, with the collar that belongs to the neckline."""
        c, t = self.canvas, self.t
        c.tilted = False
        top = self.cy + self.h + 9
        wide = 1.55 * self.w
        shape = smooth(
            [(self.cx - wide - 6, 140), (self.cx - wide, top + 12), (self.cx - 0.75 * wide, top + 3.5),
             (self.cx - 10, top - 4), (self.cx + 10, top - 4), (self.cx + 0.75 * wide, top + 3.5),
             (self.cx + wide, top + 12), (self.cx + wide + 6, 140)]
        )  # fmt: skip
        mask = c.mask(shape)
        lit = np.clip(0.92 - 0.016 * (c.y - top) + 0.005 * np.sign(t.light[0]) * (c.x - 64), 0.5, 1.1)
        c.paint(mask, np.clip(t.cloth * lit[..., None], 0, 1))

    def neck(self) -> None:
        """Neck and the skin inside the neckline, with the shadow that the chin throws on it."""
        c, t = self.canvas, self.t
        c.tilted = False
        top, half = self.cy + self.h + 8, 0.5 * self.w
        drop = {"round": 7.0, "vee": 15.0, "collar": 8.0, "high": 1.0}[t.neckline]
        spread = {"round": 19.0, "vee": 15.0, "collar": 13.0, "high": half + 1.0}[t.neckline]
        skin = [(self.cx - half, self.cy + 0.5 * self.h), (self.cx - half, top - 4), (self.cx - spread, top + 0.5)]
        low = [(self.cx, top + drop)] if t.neckline == "vee" else smooth(
            [(self.cx - spread, top + 0.5), (self.cx - 0.6 * spread, top + 0.75 * drop), (self.cx, top + drop),
             (self.cx + 0.6 * spread, top + 0.75 * drop), (self.cx + spread, top + 0.5)], closed=False
        )  # fmt: skip
        outline = [*skin, *low, *[(2 * self.cx - x, y) for x, y in reversed(skin)]]
        if t.neckline == "high":
            edge = toned(t.cloth, 1.15)
            c.paint(c.mask([(self.cx - half - 2, top - 6), (self.cx + half + 2, top - 6), (self.cx + half + 6, top + 7),
                            (self.cx - half - 6, top + 7)]), edge)  # fmt: skip
            outline = [(x, min(y, top - 4)) for x, y in outline]
        mask = c.mask(outline)
        c.paint(mask, toned(t.skin, 0.86, 0.02))
        c.paint(mask * c.spot((self.fx, self.cy + self.h + 1), (self.w * 0.75, 5.5)), toned(t.skin, 0.5, 0.03), 0.75)
        if t.neckline == "collar":
            for side in (-1, 1):
                flap = [(self.cx + side * (half + 1), top - 5), (self.cx + side * 1.5, top + 8.5),
                        (self.cx + side * 11, top + 15), (self.cx + side * (half + 9), top + 3)]  # fmt: skip
                c.paint(c.mask(flap), toned(t.cloth, 1.3))

    def ears(self) -> None:
        """Both ears; long hair covers them later."""
        c, t = self.canvas, self.t
        c.tilted = True
        for side in (-1, 1):
            x = self.cx + side * (self.w + 0.8) - 0.3 * t.yaw
            c.paint(c.mask(ellipse(x, self.cy + 4, 4.2, 7.2)), toned(t.skin, 0.92, 0.03))
            c.paint(c.mask(ellipse(x + side * 0.6, self.cy + 4, 2.0, 4.2), soften=0.6), toned(t.skin, 0.68, 0.04), 0.8)

    # ---- the face

    def face(self) -> None:
        """The face as a lit ellipsoid, with sockets, cheeks and chin put in as soft spots."""
        c, t, w, h = self.canvas, self.t, self.w, self.h
        c.tilted = True
        jaw = t.jaw * w
        half = [(0.5 * w, -0.97 * h), (0.9 * w, -0.62 * h), (w, -0.1 * h), (0.5 * (0.96 * w + jaw), 0.38 * h),
                (jaw * 0.86, 0.68 * h), (0.42 * jaw, 0.95 * h)]  # fmt: skip
        outline = [(0.0, -1.02 * h), *half, (0.25 * t.yaw, h), *[(-x, y) for x, y in reversed(half)]]
        self._face_mask = mask = c.mask(smooth([(self.cx + x, self.cy + y) for x, y in outline]))
        x, y = c.head_grid()
        nx, ny = (x - self.cx) / (1.12 * w), (y - self.cy) / (1.15 * h)
        nz = np.sqrt(np.clip(1 - nx**2 - ny**2, 0, 1))
        lit = np.clip(0.80 * nz + t.light[0] * nx + 0.6 * t.light[1] * ny, -0.2, 1.1)[..., None]
        shadow, light = toned(t.skin, 0.62, 0.035), toned(t.skin, 1.22, 0.01)
        tone = np.where(lit < 0.6, shadow + (t.skin - shadow) * np.clip((lit + 0.1) / 0.7, 0, 1),
                        t.skin + (light - t.skin) * np.clip((lit - 0.6) / 0.5, 0, 1))  # fmt: skip
        c.paint(mask, tone)
        for side in (-1, 1):
            c.paint(mask * c.spot((self.fx + side * t.eye_gap, self.eye_y - 2), (6.5, 4.2)), shadow, 0.38)
            cheek = c.spot((self.fx + side * 15.5, self.cy + 13), (5.5, 4.5))
            c.paint(mask * cheek, (0.90, 0.36, 0.33), (0.04 + t.blush) * float(t.skin.mean()))
        c.paint(mask * c.spot((self.fx, self.mouth_y + 7.5), (6.5, 1.8)), shadow, 0.45)

    def nose(self) -> None:
        """A lit ridge, a shadow on the far side, and two nostrils."""
        c, t = self.canvas, self.t
        c.tilted = True
        length, half = t.nose
        side = -1 if t.light[0] > 0 else 1
        tip = (self.fx + 0.35 * t.yaw, self.eye_y + length)
        shadow = toned(t.skin, 0.58, 0.05)
        ridge = ribbon([(self.fx + side * 2.6, self.eye_y - 3), (self.fx + side * 2.6, self.eye_y + 6),
                        (tip[0] + side * (half - 0.6), tip[1] - 0.5)], (2.5, 3.0, 4.5))  # fmt: skip
        c.paint(c.mask(ridge, soften=1.3), shadow, 0.42)
        c.paint(c.spot((tip[0], tip[1] + 2.6), (half, 1.3)), shadow, 0.4)
        c.paint(c.spot((tip[0] - side * 0.8, tip[1] - 2.2), (2.0, 2.6)), toned(t.skin, 1.5), 0.6)
        c.paint(c.spot((self.fx - side * 0.6, self.eye_y + 4), (1.4, 5)), toned(t.skin, 1.35), 0.4)
        for wing in (-1, 1):
            nostril = [(tip[0] + wing * half * 0.28, tip[1] + 1.9), (tip[0] + wing * half * 0.62, tip[1] + 1.2),
                       (tip[0] + wing * half, tip[1] - 0.2)]  # fmt: skip
            c.paint(c.mask(ribbon(smooth(nostril, closed=False, per_segment=3), [1.8] * 7), soften=0.4),
                    toned(t.skin, 0.5, 0.06), 0.6)  # fmt: skip

    def eyes(self) -> None:
        """Both eyes."""
        self.canvas.tilted = True
        for side in (-1, 1):
            self._eye(side, (self.fx + side * self.t.eye_gap, self.eye_y))

    def _eye(self, side: int, centre: Point) -> None:
        c, t = self.canvas, self.t
        (x, y), (half, tall) = centre, t.eye
        upper = [(x - side * half, y + 0.9), (x - side * 0.5 * half, y - 0.75 * tall),
                 (x + side * 0.15 * half, y - tall), (x + side * 0.7 * half, y - 0.55 * tall),
                 (x + side * half, y - 0.2)]  # fmt: skip
        lower = [(x + side * half, y - 0.2), (x + side * 0.45 * half, y + 0.62 * tall),
                 (x - side * 0.4 * half, y + 0.66 * tall), (x - side * half, y + 0.9)]  # fmt: skip
        white = c.mask(smooth(upper, closed=False) + smooth(lower, closed=False))
        c.paint(white, (0.96, 0.95, 0.93))
        iris = (x + t.gaze[0], y - 0.3 + t.gaze[1])
        c.paint(white * c.mask(ellipse(*iris, 3.9, 3.9)), toned(t.iris, 0.62))
        c.paint(white * c.mask(ellipse(iris[0], iris[1] + 0.5, 2.9, 2.9), soften=0.5), toned(t.iris, 1.12))
        c.paint(white * c.mask(ellipse(*iris, 1.9, 1.9)), (0.06, 0.05, 0.06))
        c.paint(white * c.spot((x, y - tall), (half, 1.7)), (0.25, 0.18, 0.18), 0.45)
        glint = (iris[0] + 1.3 * np.sign(t.light[0]), iris[1] - 1.3)
        c.paint(c.mask(ellipse(*glint, 1.15, 1.15)), (1, 1, 1), 0.95)
        lid = toned(t.hair, 0.45) * 0.5 + toned(t.skin, 0.2) * 0.5
        lashes = [*upper[:-1], (upper[-1][0] + side * 0.8, upper[-1][1] - 0.3)]
        c.paint(c.mask(ribbon(lashes, (1.2, 2.0, 2.2, 2.2, 1.4))), lid, 0.95)
        c.paint(c.mask(ribbon(lower, (1.2, 1.6, 1.6, 1.0)), soften=0.5), toned(t.skin, 0.55, 0.04), 0.6)

    def brows(self) -> None:
        """Both brows, thick inside and tapered outside."""
        c, t = self.canvas, self.t
        c.tilted = True
        height, arch, thick = t.brow
        y = self.eye_y - height
        colour = toned(t.skin, 0.45) * 0.35 + toned(t.hair, 0.7) * 0.65
        for side in (-1, 1):
            x = self.fx + side * t.eye_gap
            line = [(x - side * 6.8, y + 1.2), (x - side * 1.5, y - 0.4 * arch), (x + side * 3.5, y - arch),
                    (x + side * 8.0, y + 1.6)]  # fmt: skip
            c.paint(c.mask(ribbon(line, (thick, thick, 0.9 * thick, 1.3)), soften=0.35), colour, 0.9)

    def mouth(self) -> None:
        """Lips, a dark line or teeth between them, corners up with the smile."""
        c, t = self.canvas, self.t
        c.tilted = True
        half, smile, gap = t.mouth
        half += 0.5 * max(smile, 0)
        x, y = self.fx + 0.1 * t.yaw, self.mouth_y
        lips = toned(t.skin, 0.78) * (1 - t.lip) + t.lip * np.array([0.72, 0.27, 0.28], dtype=np.float32) * (
            0.55 + 0.5 * float(t.skin.mean())
        )
        left, right = (x - half, y - smile), (x + half, y - smile)
        bow = [left, (x - 0.45 * half, y - 2.1 - 0.25 * smile), (x - 1.2, y - 2.7), (x, y - 2.1), (x + 1.2, y - 2.7),
               (x + 0.45 * half, y - 2.1 - 0.25 * smile), right]  # fmt: skip
        bottom = [right, (x + 0.5 * half, y + 2.6 + gap), (x, y + 3.7 + gap), (x - 0.5 * half, y + 2.6 + gap), left]
        c.paint(c.mask(smooth(bow, closed=False) + smooth(bottom, closed=False)), lips)
        c.paint(c.spot((x, y + 2.3 + gap), (0.4 * half, 0.9)), toned(lips, 1.35), 0.5)
        middle = [left, (x - 0.5 * half, y + 0.1), (x, y + 0.5), (x + 0.5 * half, y + 0.1), right]
        if gap:
            floor = [right, (x + 0.5 * half, y + 0.6 + gap), (x, y + 1.2 + gap), (x - 0.5 * half, y + 0.6 + gap), left]
            open_mask = c.mask(smooth(middle, closed=False) + smooth(floor, closed=False))
            c.paint(open_mask, (0.95, 0.94, 0.92))
            c.paint(open_mask * c.spot((x, y + 1.6 + gap), (half, 0.9)), (0.45, 0.15, 0.16), 0.5)
        else:
            c.paint(c.mask(ribbon(middle, (1.2, 1.7, 1.8, 1.7, 1.2)), soften=0.3), toned(lips, 0.42), 0.9)
