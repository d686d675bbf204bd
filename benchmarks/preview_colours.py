"""How much of the colours of decoded pictures the linear previews explain, and what a fit on pictures would.

    python benchmarks/preview_colours.py demo/portraits-128 --images output

Prints rgb = latent @ weight + bias, rgb in [-1, 1], as ComfyUI's previews have it for any first stage, and with
`--images` the same fitted on a folder of pictures.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from ldm_backend.checkpoints.first_stage import load_first_stage
from ldm_backend.errors import InputError, LDMError
from ldm_backend.networks.first_stage import FirstStage
from ldm_backend.views.images import as_channels, from_uint8
from ldm_backend.views.latent_rgb import (
    Cells,
    LatentRGB,
    design,
    fit_cells,
    paired_cells,
    place_of,
    probe_cells,
)

IMAGE_SIDE = 256  # of the images to fit on: what the models were trained on, and a multiple of every downscale
IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")


def explained_variance(rgb: LatentRGB, cells: Cells) -> float:
    """Share of the variance of these cells' colours that the map explains, all three colours together.

    Returns: 1 for a perfect map, 0 for one as good as the mean colour, below 0 for a worse one.
    Raises: InputError: all cells have the same colour, which leaves nothing to explain.
    """
    solution = torch.tensor([*rgb.weight, rgb.bias], dtype=torch.float64)
    left = (cells.colours - design(cells) @ solution).square().sum()
    total = (cells.colours - cells.colours.mean(dim=0)).square().sum()
    if total == 0:
        raise InputError("All colours to explain are the same; use images that differ.")
    return 1.0 - (left / total).item()


@torch.no_grad()
def image_cells(first_stage: FirstStage, images: Iterable[Tensor]) -> Cells:
    """The cells of real images, encoded.

    Args:
        first_stage: first stage.
        images: each (N, 3, H, W) in [-1, 1], H and W multiples of its downscale; at least one.
    Raises: InputError: no images, or a size or number of channels that does not fit.
    """
    device = place_of(first_stage)
    channels = first_stage.config.in_channels
    parts = [
        paired_cells(
            first_stage.encode(as_channels(image.to(device), channels)), as_channels(image, 3), first_stage.downscale
        )
        for image in images
    ]
    if not parts:
        raise InputError("No images to fit on; give at least one.")
    return Cells(torch.cat([part.latents for part in parts]), torch.cat([part.colours for part in parts]))


def read_images(folder: Path) -> Iterator[Tensor]:
    """The images of a folder in the order of their names, one by one as (1, 3, 256, 256) in [-1, 1], cut to squares.

    Raises: InputError: no folder, no images in it, or a file that is named like an image and is none.
    """
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; give one that holds images.")
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGE_SUFFIXES)
    if not files:
        raise InputError(f"{folder}: holds no images ({', '.join(IMAGE_SUFFIXES)}); give a folder that does.")
    for file in files:
        try:
            with Image.open(file) as image:
                square = ImageOps.fit(image.convert("RGB"), (IMAGE_SIDE, IMAGE_SIDE))
        except (UnidentifiedImageError, OSError) as error:
            raise InputError(f"{file}: cannot be read as an image; remove or replace it.") from error
        yield from_uint8(np.array(square)[None])


def described(fit: LatentRGB, of: str, cells: Cells) -> list[str]:
    """Lines that tell a fit, and how much it explains of some cells."""
    rows = [*((f"channel {i}", row) for i, row in enumerate(fit.weight)), ("bias", fit.bias)]
    numbers = [f"  {name:10}" + "  ".join(f"{value:+.4f}" for value in colours) for name, colours in rows]
    return [f"fit on {of}", *numbers, f"  explains {explained_variance(fit, cells):.3f} of their colours"]


def main() -> None:
    """Read the arguments, fit, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("checkpoint", type=Path, help="a checkpoint, or a first stage alone")
    parser.add_argument("--scale-factor", type=float, help="replaces that of the checkpoint")
    parser.add_argument("--images", type=Path, help="a folder of images to fit on, cut to 256x256")
    arguments = parser.parse_args()
    try:
        first_stage = load_first_stage(arguments.checkpoint, scale_factor=arguments.scale_factor)
        probe = probe_cells(first_stage)
        fit = fit_cells(probe)
        lines = described(fit, "the probe, as ComfyUI's previews", probe)
        if arguments.images:
            cells = image_cells(first_stage, read_images(arguments.images))
            lines.append(f"  explains {explained_variance(fit, cells):.3f} of the images' colours")
            lines += described(fit_cells(cells), f"the images in {arguments.images}", cells)
    except LDMError as error:
        raise SystemExit(f"preview_colours: {error}") from error
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
