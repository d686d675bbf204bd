"""Latent cells of an image of some size, for a model."""

from __future__ import annotations

from ..config.model import LDMConfig
from ..errors import InputError, short_repr


def latent_size(config: LDMConfig, height: int | None, width: int | None) -> tuple[int, int]:
    """Latent cells of an image of that many pixels; None takes the side of the training images.

    Raises:
        InputError: A side that the networks cannot halve as often as they do.
    """
    downscale = config.first_stage.downscale
    unit = config.unet.size_multiple * downscale
    cells = []
    for name, side in (("height", height), ("width", width)):
        if side is None:
            cells.append(config.unet.sample_size)
            continue
        if isinstance(side, bool) or not isinstance(side, int) or side < 1 or side % unit:
            lower = side // unit * unit if isinstance(side, int) else 0
            fits = f"{lower} or {lower + unit}" if lower > 0 else unit
            raise InputError(
                f"{name} is {short_repr(side)}; this model needs a multiple of {unit} pixels: take {fits}."
            )
        cells.append(side // downscale)
    return cells[0], cells[1]
