"""The pictures that a run will make, as guides need to know them, and what guides are given brought to their form."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..conditioning.pictures import as_pictures
from ..errors import InputError
from ..networks.first_stage import FirstStage
from ..views.latent_rgb import place_of


@dataclass(frozen=True)
class Space:
    """The pictures of a run.

    Attributes:
        first_stage: That decodes them.
        images: In the batch.
        height: Of a picture, in pixels.
        width: likewise.
        works_on: Where the first stage computes; None is where its weights are.
    """

    first_stage: FirstStage
    images: int
    height: int
    width: int
    works_on: torch.device | None = None

    @property
    def channels(self) -> int:
        """Of a picture, 3 or 1."""
        return self.first_stage.config.out_channels

    @property
    def device(self) -> torch.device:
        """Where the pictures are."""
        return self.works_on or place_of(self.first_stage)

    def pictures(self, images: np.ndarray | Tensor, what: str, factor: int = 1, channels: int | None = None) -> Tensor:
        """Pictures of a guide, checked.

        Args:
            images: (N, H, W, C) uint8, or float from 0 to 1; N is that of the batch, or 1 for all of it.
            what: They are, for the message.
            factor: By which each side is smaller than those of the run.
            channels: 1 takes their luma; None leaves as many as the run's pictures have.

        Returns:
            (N, C, H, W) float32 in [-1, 1] on the device.

        Raises:
            InputError: Another size or number, NaN or infinity, or no pictures.
        """
        found = as_pictures(images, channels or self.channels)
        expected = (self.height // factor, self.width // factor)
        if self.height % factor or self.width % factor:
            raise InputError(
                f"{what} is {factor} times smaller than the pictures of the run, and these have "
                f"{self.width}x{self.height} pixels; expected multiples of {factor}. Take another factor or size."
            )
        if tuple(found.shape[2:]) != expected or len(found) not in (1, self.images):
            raise InputError(
                f"{what}: {len(found)} of {found.shape[3]}x{found.shape[2]} pixels; expected {self.images} (or 1 for "
                f"all) of {expected[1]}x{expected[0]}, for the pictures of the run have {self.width}x{self.height}. "
                "Crop or resize them, or draw another size."
            )
        return found.to(self.device)


def of_part(values: Tensor, part: slice) -> Tensor:
    """Those for some images of the batch, where one may stand for all."""
    return values if len(values) == 1 else values[part]
