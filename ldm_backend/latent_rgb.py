"""A linear map from latents to colours, for previews that cost nothing. Pure torch; imports vq only."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn.functional import avg_pool2d

from .vq import VQModel

_BLOCKS = 6  # blocks along one side of the probe, each one code
_BLOCK = 4  # latent cells along one side of a block: wide enough for the code's own colour to show


@dataclass(frozen=True)
class LatentRGB:
    """rgb = latent @ weight + bias, rgb in [-1, 1]."""

    weight: list[list[float]]  # one row of three colours for each latent channel
    bias: list[float]


@torch.no_grad()
def fit_latent_rgb(vq: VQModel) -> LatentRGB:
    """Fit the colours of a first stage by least squares on one small decode.

    The probe is a mosaic of codes spread evenly over the codebook, so the fit needs no images and is the same each
    time. It decodes 96x96 pixels for VQ-f4: a fraction of a second on a CPU at full width.

    Args:
        vq: first stage; the fit runs on the device of its codebook.
    Returns: weight and bias as plain floats.
    """
    codebook = vq.quantize.embedding.weight.float()
    picks = torch.linspace(0, codebook.shape[0] - 1, _BLOCKS**2, device=codebook.device).round().long()
    mosaic = codebook[picks].T.reshape(1, -1, _BLOCKS, _BLOCKS)
    z = mosaic.repeat_interleave(_BLOCK, dim=2).repeat_interleave(_BLOCK, dim=3)  # (1, C, 24, 24)
    rgb = avg_pool2d(vq.decode(z).clamp(-1.0, 1.0), vq.downscale)  # one colour for each latent cell
    cells = z[0].flatten(1).T.double().cpu()  # (576, C)
    colours = rgb[0].flatten(1).T.double().cpu()  # (576, 3)
    design = torch.cat([cells, torch.ones_like(cells[:, :1])], dim=1)
    # gelsd, since codes can coincide in an untrained codebook and the plain solver needs full rank.
    solution = torch.linalg.lstsq(design, colours, driver="gelsd").solution
    return LatentRGB(weight=solution[:-1].tolist(), bias=solution[-1].tolist())
