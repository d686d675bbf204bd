"""A linear map from latents to colours, for previews that cost nothing, and how good it is. Knows the first stages."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from ..errors import InputError
from ..networks.kl import KLModel
from ..networks.vq import VQModel
from ..sampling.noise import draw_noise
from .images import from_uint8

# The probe is a mosaic of 8x8 codes, each 2x2 latent cells. On the demo's first stage this explains 0.79 of the colour
# variance of decoded portraits, against 0.90 for a fit on those portraits themselves; 6x6 codes of 4x4 cells: 0.70.
_BLOCKS = 8
_BLOCK = 2

IMAGE_SIDE = 256  # of the images to fit on: what the models were trained on, and a multiple of every downscale
IMAGE_SUFFIXES = (".bmp", ".jpeg", ".jpg", ".png", ".webp")


@dataclass(frozen=True)
class LatentRGB:
    """rgb = latent @ weight + bias, rgb in [-1, 1]."""

    weight: list[list[float]]  # one row of three colours for each latent channel
    bias: list[float]


@dataclass(frozen=True)
class Cells:
    """Latent cells and the colour that each of them has in the image."""

    latents: Tensor  # (M, C) float64 on the CPU
    colours: Tensor  # (M, 3) float64 on the CPU, in [-1, 1]


def fit_latent_rgb(vq: VQModel | KLModel) -> LatentRGB:
    """Fit the colours of a first stage by least squares on one small decode.

    The probe is a mosaic of codes spread evenly over the codebook, so the fit needs no images and is the same each
    time. It decodes 64x64 pixels for VQ-f4, a sixteenth of an image of 256.

    Args:
        vq: First stage; the fit runs where it computes, see `place_of`.

    Returns:
        Weight and bias as plain floats.
    """
    return fit_cells(probe_cells(vq))


def fit_cells(cells: Cells) -> LatentRGB:
    """The map with the least squared error on these cells."""
    # gelsd, since codes can coincide in an untrained codebook and the plain solver needs full rank.
    solution = torch.linalg.lstsq(_design(cells), cells.colours, driver="gelsd").solution
    return LatentRGB(weight=solution[:-1].tolist(), bias=solution[-1].tolist())


def explained_variance(rgb: LatentRGB, cells: Cells) -> float:
    """Share of the variance of these cells' colours that the map explains, all three colours together.

    Returns:
        1 for a perfect map, 0 for one as good as the mean colour, below 0 for a worse one.

    Raises:
        InputError: All cells have the same colour, which leaves nothing to explain.
    """
    solution = torch.tensor([*rgb.weight, rgb.bias], dtype=torch.float64)
    left = (cells.colours - _design(cells) @ solution).square().sum()
    total = (cells.colours - cells.colours.mean(dim=0)).square().sum()
    if total == 0:
        raise InputError("All colours to explain are the same; use images that differ.")
    return 1.0 - (left / total).item()


@torch.no_grad()
def probe_cells(vq: VQModel | KLModel) -> Cells:
    """The decoded mosaic that `fit_latent_rgb` fits on."""
    z = _mosaic(vq).repeat_interleave(_BLOCK, dim=2).repeat_interleave(_BLOCK, dim=3)  # (1, C, 16, 16)
    return _cells(z, vq.decode(z).clamp(-1.0, 1.0), vq.downscale)


@torch.no_grad()
def image_cells(vq: VQModel | KLModel, images: Iterable[Tensor]) -> Cells:
    """The cells of real images, encoded.

    Args:
        vq: First stage.
        images: Each (N, 3, H, W) in [-1, 1], H and W multiples of its downscale; at least one.

    Raises:
        InputError: No images, or a size or number of channels that does not fit.
    """
    device = place_of(vq)
    parts = [_cells(vq.encode(image.to(device)), image, vq.downscale) for image in images]
    if not parts:
        raise InputError("No images to fit on; give at least one.")
    return Cells(torch.cat([part.latents for part in parts]), torch.cat([part.colours for part in parts]))


def read_images(folder: Path) -> Iterator[Tensor]:
    """The images of a folder in the order of their names, one by one as (1, 3, 256, 256) in [-1, 1], cut to squares.

    Raises:
        InputError: No folder, no images in it, or a file that is named like an image and is none.
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


def place_of(network: nn.Module) -> torch.device:
    """Where a network computes.

    Args:
        network: Of this project, all on one device, or the host's, of which some layers may wait on the CPU and hand
            over their weights when they are called. Those that are on the card cannot do so.

    Returns:
        The card if any weight is there, else the device of the weights.
    """
    places = [parameter.device for parameter in network.parameters()]
    return next((place for place in places if place.type != "cpu"), places[0])


def _cells(z: Tensor, image: Tensor, downscale: int) -> Cells:
    colours = avg_pool2d(image, downscale)  # one colour for each latent cell
    return Cells(_rows(z), _rows(colours))


def _rows(x: Tensor) -> Tensor:
    """(N, C, h, w) to (N * h * w, C) float64 on the CPU."""
    return x.movedim(1, -1).flatten(0, 2).double().cpu()


def _design(cells: Cells) -> Tensor:
    return torch.cat([cells.latents, torch.ones_like(cells.latents[:, :1])], dim=1)


def _mosaic(vq: VQModel | KLModel) -> Tensor:
    """(1, C, 8, 8) latents that span what the decoder knows: spread codes or, without a codebook, normal draws."""
    device = place_of(vq)
    if isinstance(vq, KLModel):
        return draw_noise([0], (vq.config.z_channels, _BLOCKS, _BLOCKS)).to(device)
    codebook = vq.quantize.embedding.weight.to(device, torch.float32)
    picks = torch.linspace(0, codebook.shape[0] - 1, _BLOCKS**2, device=codebook.device).round().long()
    return codebook[picks].T.reshape(1, -1, _BLOCKS, _BLOCKS) * vq.config.scale_factor
