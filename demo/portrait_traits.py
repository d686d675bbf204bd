"""What tells one demo portrait from another: palettes, styles and the draw of one person's traits."""

from __future__ import annotations

import colorsys
from dataclasses import dataclass

import numpy as np
from portrait_canvas import Point

SKINS = ("fbe0cc", "f3cfb3", "e8b992", "d6a074", "b57f58", "8f5f3f", "6d4630")
HAIRS = ("26201f", "3f2a20", "633f28", "8a5230", "b5622f", "b98d52", "e0bd7c", "a3a3a6", "dcdad6")
EYES = ("4a2f1e", "6b4526", "6d7a3f", "4c7f63", "4a86b8", "7d93a3")
CLOTHES = ("2f4a6d", "b8433f", "e9e4da", "3c3f45", "5f8f7b", "d9a441", "7b5a8c", "c97b84")
BACKDROPS = ("8fb3c9", "d9b79a", "a9b89a", "b7a3c4", "c9c3b8", "6f8794", "e0cfa8", "c99a94")
STYLES = ("short", "side", "fringe", "long", "bob", "curly", "afro", "bun", "receding", "bald")
STYLE_ODDS = (0.17, 0.12, 0.10, 0.20, 0.12, 0.08, 0.05, 0.07, 0.05, 0.04)
NECKLINES = ("round", "vee", "collar", "high")


@dataclass(frozen=True)
class Traits:
    """Everything that tells one portrait from another; lengths in units of 1/128 of the picture's side."""

    skin: np.ndarray
    hair: np.ndarray
    iris: np.ndarray
    cloth: np.ndarray
    backdrop: tuple[np.ndarray, np.ndarray]
    style: str
    neckline: str
    centre: Point
    half: Point  # half width and half height of the face
    jaw: float  # width of the jaw relative to the cheekbones
    tilt: float
    yaw: float  # how far the features move sideways as the head turns
    light: Point
    eye: Point  # half width and half height of an open eye
    eye_gap: float
    gaze: Point
    brow: tuple[float, float, float]  # height over the eye, arch, thickness
    nose: Point  # length, half width
    mouth: tuple[float, float, float]  # half width, smile, opening
    lip: float  # how far the lips differ from the skin
    parting: float  # -1 left .. 1 right
    volume: float
    blush: float
    beard: str
    glasses: bool
    earrings: bool


def _rgb(code: str) -> np.ndarray:
    return np.array([int(code[i : i + 2], 16) / 255 for i in (0, 2, 4)], dtype=np.float32)


def _vary(rng: np.random.Generator, colour: np.ndarray, hue: float = 0.012, light: float = 0.05) -> np.ndarray:
    """Returns `colour` with its hue and lightness moved a little."""
    h, v, s = colorsys.rgb_to_hls(*(float(c) for c in colour))
    v = min(max(v + rng.uniform(-light, light), 0.04), 0.96)
    return np.array(colorsys.hls_to_rgb((h + rng.uniform(-hue, hue)) % 1, v, s), dtype=np.float32)


def draw_traits(rng: np.random.Generator) -> Traits:
    """Draws the traits of one person; every call takes its numbers from `rng` only."""
    style = str(rng.choice(STYLES, p=STYLE_ODDS))
    skin_index = int(rng.integers(len(SKINS)))
    # Fair and ginger hair on the darkest skins would be rare enough to be learnt badly: keep to the dark colours.
    hairs = HAIRS if skin_index < 4 else (*HAIRS[:4], HAIRS[7])
    first, second = rng.choice(len(BACKDROPS), 2, replace=False)
    can_beard = style in ("short", "side", "curly", "receding", "bald", "afro")
    beard = str(rng.choice(("none", "full", "moustache"), p=(0.52, 0.32, 0.16))) if can_beard else "none"
    smile = rng.uniform(0.2, 3.2)
    return Traits(
        skin=_vary(rng, _rgb(SKINS[skin_index]), 0.01, 0.025),
        hair=_vary(rng, _rgb(str(rng.choice(hairs))), 0.01, 0.03),
        iris=_vary(rng, _rgb(str(rng.choice(EYES))), 0.02, 0.04),
        cloth=_vary(rng, _rgb(str(rng.choice(CLOTHES))), 0.02, 0.05),
        backdrop=(_vary(rng, _rgb(BACKDROPS[first]), 0.02, 0.06), _vary(rng, _rgb(BACKDROPS[second]), 0.02, 0.06)),
        style=style,
        neckline=str(rng.choice(NECKLINES)),
        centre=(64 + rng.uniform(-1.5, 1.5), 65 + rng.uniform(-1.5, 1.5)),
        half=(rng.uniform(25.5, 29.5), rng.uniform(33, 37)),
        jaw=rng.uniform(0.68, 0.9),
        tilt=rng.uniform(-0.09, 0.09),
        yaw=rng.uniform(-3.5, 3.5),
        light=(float(rng.choice((-1.0, 1.0))) * rng.uniform(0.3, 0.75), -rng.uniform(0.3, 0.6)),
        eye=(rng.uniform(6.2, 7.4), rng.uniform(3.3, 4.6)),
        eye_gap=rng.uniform(11.8, 13.4),
        gaze=(rng.uniform(-1.8, 1.8), rng.uniform(-0.5, 0.5)),
        brow=(rng.uniform(8.2, 10.2), rng.uniform(0.6, 2.6), rng.uniform(2.2, 3.6)),
        nose=(rng.uniform(14, 17), rng.uniform(4.4, 6.2)),
        mouth=(rng.uniform(8.5, 11.5), smile, rng.uniform(2.2, 4.0) if rng.random() < 0.3 and smile > 0.8 else 0.0),
        lip=rng.uniform(0.25, 0.9) if beard == "none" else 0.3,
        parting=rng.uniform(-0.8, 0.8),
        volume=rng.uniform(0.0, 1.0),
        blush=rng.uniform(0.0, 0.35),
        beard=beard,
        glasses=bool(rng.random() < 0.16),
        earrings=bool(rng.random() < 0.3) and style in ("bob", "bun", "long", "fringe", "afro"),
    )
