"""Painted maps as labels, and labels as what a UNet sees beside the noise."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar, cast

import numpy as np
import torch
from torch import Tensor

from ...ldm_backend.conditioning.segmentation import as_labels, default_palette, labels_from_colours
from ...ldm_backend.errors import InputError
from ...ldm_backend.memory.sizes import latent_size
from ...ldm_backend.networks.conditioners.spatial_rescaler import SpatialRescaler
from ..host.model import LDMModel
from .limits import check_labels, size_of

COLOURS, NUMBERS = "colours", "numbers"
KINDS = (COLOURS, NUMBERS)

Made = TypeVar("Made")


def painted_levels(task: str, image: Tensor) -> np.ndarray:
    """uint8 (N, H, W, C) of an IMAGE of 1 or 3 channels; of one with alpha the colours.

    Raises:
        TooLargeError: It does not fit into memory; `task` is named.
    """
    check_labels(task, size_of(image), image.device)
    return (image[..., :3].clamp(0.0, 1.0) * 255.0).round().to(torch.uint8).cpu().numpy()


@torch.no_grad()
def label_channels(model: LDMModel, levels: np.ndarray, kind: str) -> Tensor:
    """What the UNet of a semantic synthesis sees beside the noise.

    Args:
        model: For semantic synthesis.
        levels: From `painted_levels`.
        kind: One of KINDS.

    Returns:
        (N, C, h, w) float32.

    Raises:
        InputError: A colour or number that is no label of the model, or sides that the networks cannot halve.
    """
    conditioner = cast(SpatialRescaler, model.conditioner)  # every model of this task has one
    n_labels = conditioner.config.n_labels
    naming("image", lambda: latent_size(model.ldm_config, *levels.shape[1:3]))  # refuses other sides
    labels = naming("image", lambda: as_labels(_numbers(levels, kind, n_labels), n_labels))
    return conditioner(labels).float()


def _numbers(levels: np.ndarray, kind: str, n_labels: int) -> np.ndarray:
    if kind == COLOURS:
        return labels_from_colours(np.broadcast_to(levels, (*levels.shape[:3], 3)), default_palette(n_labels))
    if (levels != levels[..., :1]).any():
        different = int((levels != levels[..., :1]).any(-1).sum())
        raise InputError(
            f"The map is no grey picture: red, green and blue differ in {different} pixels, which are no numbers. Set "
            "labels to colours."
        )
    return levels[..., 0].astype(np.int64)


def naming(name: str, made: Callable[[], Made]) -> Made:
    """What is made, with the input of this name in the message where it is refused."""
    try:
        return made()
    except InputError as error:
        raise InputError(f"{name}: {error}") from error
