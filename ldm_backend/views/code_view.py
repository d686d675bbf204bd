"""What the quantiser of VQ-f4 does to latents: which code each cell snaps to, and how far away it was."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from einops import repeat
from torch import Tensor

from ..errors import InputError
from ..finite import all_finite
from ..kernels.fp32 import in_fp32
from ..networks.autoencoder import check_latent
from ..networks.first_stage import FirstStage
from .latent_rgb import fit_latent_rgb

_ROWS = 1024  # codes compared with the codebook at once, as in the quantiser
_FULL_SCALE = 2.0  # relative distance at the bright end of the heat map

# Evenly spaced colours from 0 to _FULL_SCALE. Their lightness rises steadily, so that the map also reads in grey.
_HEAT = ((0.02, 0.02, 0.09), (0.30, 0.07, 0.44), (0.75, 0.19, 0.35), (0.97, 0.56, 0.16), (0.99, 0.98, 0.75))


@dataclass(frozen=True)
class CodeView:
    """Pictures have one block of `downscale` x `downscale` equal pixels for each latent cell."""

    codes: Tensor  # (N, H, W, 3) in 0..1: the colour of the code that each cell snaps to
    distance: Tensor  # (N, H, W, 3) in 0..1: heat map of `relative`
    quantised: Tensor  # (N, C, h, w): the snapped latents, which decode to the same pictures
    indices: Tensor  # (N, h, w) int64: the codes
    relative: Tensor  # (N, h, w): distance to the code in units of the codebook's spacing
    codebook_size: int


@torch.no_grad()
@in_fp32
def view_codes(first_stage: FirstStage, z: Tensor) -> CodeView:
    """Snap latents to the codebook and show how.

    Colours of codes are those of the linear preview (`fit_latent_rgb`). Distances are relative to `code_spacing`, so
    0.5 is the middle between two codes that are typical neighbours. The demo's finished latents and encoded images have
    a mean of 0.6, its noise 0.9.

    Args:
        first_stage: First stage with a codebook.
        z: (N, C, h, w) latents.

    Returns:
        The view, on the device of `z`.

    Raises:
        InputError: A first stage without codebook, latents of another family or with NaN, or a codebook whose codes are
            all the same.
    """
    codebook = first_stage.codebook()
    check_latent(z, first_stage.config)
    if not all_finite(z):
        raise InputError("The latent holds NaN or infinity, which is near no code. Look for the node that made it so.")
    raw = z.float() / first_stage.config.scale_factor
    snapped, indices = codebook(raw)
    relative = torch.linalg.vector_norm(raw - snapped, dim=1) / code_spacing(first_stage)
    quantised = snapped * first_stage.config.scale_factor
    rgb = fit_latent_rgb(first_stage)
    colours = quantised.movedim(1, -1) @ z.new_tensor(rgb.weight, dtype=torch.float32)
    colours = colours + z.new_tensor(rgb.bias, dtype=torch.float32)
    return CodeView(
        codes=_blocks(((colours + 1.0) / 2.0).clamp(0.0, 1.0), first_stage.downscale),
        distance=_blocks(heat(relative), first_stage.downscale),
        quantised=quantised.to(z.dtype),
        indices=indices,
        relative=relative,
        codebook_size=codebook.embedding.num_embeddings,
    )


@torch.no_grad()
@in_fp32
def code_spacing(first_stage: FirstStage) -> float:
    """Mean distance between a code and its nearest other code, in units of the codebook.

    Raises:
        InputError: No codebook, or fewer than two different codes.
    """
    codes = first_stage.codebook().embedding.weight.float()
    nearest = []
    for start in range(0, codes.shape[0], _ROWS):
        distances = torch.cdist(codes[start : start + _ROWS], codes)
        rows = torch.arange(distances.shape[0], device=codes.device)
        distances[rows, start + rows] = torch.inf  # not to itself
        nearest.append(distances.amin(dim=1))
    spacing = torch.cat(nearest).mean().item()
    if spacing == 0.0 or codes.shape[0] < 2:
        raise InputError(
            f"The codebook's {codes.shape[0]} codes are all the same, so distances between them have no scale. The "
            "first stage seems untrained; load another checkpoint."
        )
    return spacing


def heat(relative: Tensor) -> Tensor:
    """Colours of relative distances: any shape to (..., 3) in 0..1, from nearly black at 0 to pale yellow at 2."""
    stops = relative.new_tensor(_HEAT)
    place = (relative / _FULL_SCALE).clamp(0.0, 1.0) * (len(_HEAT) - 1)
    low = place.long().clamp_max(len(_HEAT) - 2)
    return torch.lerp(stops[low], stops[low + 1], (place - low)[..., None])


def _blocks(cells: Tensor, size: int) -> Tensor:
    """(N, h, w, 3) to (N, h * size, w * size, 3), without lines between cells: every fourth pixel would be one."""
    return repeat(cells, "n h w c -> n (h down) (w across) c", down=size, across=size)
