"""A linear map from latents to colours, for previews that cost nothing. Knows the first stages."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import rearrange, repeat
from torch import Tensor, nn
from torch.nn.functional import avg_pool2d

from ..networks.first_stage import FirstStage
from .images import as_channels

# The probe is a mosaic of 8x8 codes, each 2x2 latent cells. On the demo's first stage this explains 0.79 of the colour
# variance of decoded portraits, against 0.90 for a fit on those portraits themselves; 6x6 codes of 4x4 cells: 0.70.
_BLOCKS = 8
_BLOCK = 2


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


def fit_latent_rgb(first_stage: FirstStage) -> LatentRGB:
    """Fit the colours of a first stage by least squares on one small decode.

    The probe is a mosaic of codes spread evenly over the codebook, so the fit needs no images and is the same each
    time. It decodes 64x64 pixels for VQ-f4, a sixteenth of an image of 256.

    Args:
        first_stage: First stage; the fit runs where it computes, see `place_of`.

    Returns:
        Weight and bias as plain floats.
    """
    return fit_cells(probe_cells(first_stage))


def fit_cells(cells: Cells) -> LatentRGB:
    """The map with the least squared error on these cells."""
    # gelsd, since codes can coincide in an untrained codebook and the plain solver needs full rank.
    solution = torch.linalg.lstsq(design(cells), cells.colours, driver="gelsd").solution
    return LatentRGB(weight=solution[:-1].tolist(), bias=solution[-1].tolist())


@torch.no_grad()
def probe_cells(first_stage: FirstStage) -> Cells:
    """The decoded mosaic that `fit_latent_rgb` fits on."""
    z = repeat(_mosaic(first_stage), "n c h w -> n c (h down) (w across)", down=_BLOCK, across=_BLOCK)
    return paired_cells(z, as_channels(first_stage.decode(z).clamp(-1.0, 1.0), 3), first_stage.downscale)


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


def paired_cells(z: Tensor, image: Tensor, downscale: int) -> Cells:
    """Latents (N, C, h, w), and an image (N, 3, h * downscale, w * downscale) in [-1, 1] of them."""
    colours = avg_pool2d(image, downscale)  # one colour for each latent cell
    return Cells(_rows(z), _rows(colours))


def _rows(x: Tensor) -> Tensor:
    """(N, C, h, w) to (N * h * w, C) float64 on the CPU."""
    return rearrange(x, "n c h w -> (n h w) c").double().cpu()


def design(cells: Cells) -> Tensor:
    """(M, C + 1) float64: what weight and bias are multiplied by."""
    return torch.cat([cells.latents, torch.ones_like(cells.latents[:, :1])], dim=1)


def _mosaic(first_stage: FirstStage) -> Tensor:
    """(1, C, 8, 8) latents that span what the decoder knows: spread codes or, without a codebook, normal draws."""
    cells = first_stage.spread_latents(_BLOCKS**2).to(place_of(first_stage))
    return rearrange(cells, "(h w) c -> 1 c h w", h=_BLOCKS)
