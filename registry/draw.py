"""Draw the icon and the banner that the registry shows: `python registry/draw.py`.

The demo model draws everything but the letters.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

import ldm_backend
from ldm_backend.pipeline import LatentDiffusion
from ldm_backend.sampling.noise import draw_noise
from ldm_backend.sampling.samplers import StepInfo, sample
from ldm_backend.views.images import to_uint8

HERE = Path(__file__).parent
DEMO = HERE.parent / "demo" / "portraits-128"

STEPS = 100
SEED = 12
ICON_SIDE = 400  # the registry takes up to 800 x 400
BANNER_SIZE = (1260, 540)  # 21:9, as the registry asks for
PAPER, INK, SOFT_INK = (22, 24, 30), (240, 240, 236), (160, 166, 178)


def states(model: LatentDiffusion, shares: tuple[float, ...]) -> list[Image.Image]:
    """The picture on its way from noise to portrait.

    Args:
        model: Of the demo.
        shares: How far, 0 (noise) to 1 (portrait), rising.

    Returns:
        One picture for each share.
    """
    size = model.config.unet.sample_size
    latents = [draw_noise([SEED], (model.config.unet.in_channels, size, size))]

    def keep(info: StepInfo) -> None:
        latents.append(info.x_prev.clone())

    pairs = model.schedule.timesteps(STEPS, "leading")
    sample("ddim", model.unet, latents[0], model.schedule, pairs, callback=keep)
    chosen = torch.cat([latents[round(share * STEPS)] for share in shares])
    return [Image.fromarray(picture) for picture in to_uint8(model.vq.decode(chosen))]


def rounded(picture: Image.Image, radius: int) -> Image.Image:
    """The picture with round corners, transparent outside."""
    scale = 4  # drawn larger and reduced: smooth edges
    mask = Image.new("L", (picture.width * scale, picture.height * scale))
    box = (0, 0, mask.width - 1, mask.height - 1)
    ImageDraw.Draw(mask).rounded_rectangle(box, radius * scale, fill=255)
    picture = picture.convert("RGBA")
    picture.putalpha(mask.resize(picture.size, Image.Resampling.LANCZOS))
    return picture


def icon(model: LatentDiffusion) -> Image.Image:
    """One portrait in slanted stripes, from noise at the left to the finished picture."""
    pictures = states(model, (0.0, 0.35, 0.6, 1.0))
    layers = [np.asarray(picture.resize((ICON_SIDE, ICON_SIDE), Image.Resampling.BICUBIC)) for picture in pictures]
    y, x = np.mgrid[:ICON_SIDE, :ICON_SIDE] / ICON_SIDE
    place = x + 0.25 * (y - 0.5)
    stripe = np.digitize(place, (0.14, 0.27, 0.4))
    chosen = np.choose(stripe[..., None], layers)
    return rounded(Image.fromarray(chosen), ICON_SIDE // 8)


def banner(model: LatentDiffusion) -> Image.Image:
    """The title, and below it the way from noise to the portrait."""
    sheet = Image.new("RGB", BANNER_SIZE, PAPER)
    pen = ImageDraw.Draw(sheet)
    pen.text((60, 44), "Latent Diffusion", INK, ImageFont.load_default(76))
    pen.text((62, 142), "CelebA-HQ LDM and its family, as ComfyUI nodes", SOFT_INK, ImageFont.load_default(31))
    side, gap = 216, 15
    for index, picture in enumerate(states(model, (0.0, 0.5, 0.7, 0.85, 1.0))):
        tile = rounded(picture.resize((side, side), Image.Resampling.BICUBIC), 16)
        sheet.paste(tile, (60 + index * (side + gap), 252), tile)
    return sheet


def main() -> None:
    """Write both pictures beside this file."""
    model = ldm_backend.load(DEMO, device="cpu")
    icon(model).save(HERE / "icon.png", optimize=True)
    banner(model).save(HERE / "banner.png", optimize=True)


if __name__ == "__main__":
    with torch.inference_mode():
        main()
