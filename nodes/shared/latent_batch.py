"""What a LATENT batch carries beside its samples: the shape of an image's latent, the seed or label of each image.

Starting noise carries `ldm_seed`. Noise on the way between seeds carries `ldm_labels` instead, since a seed would be
untrue for most of it: a text for each index of the batch, so that `batch_index` finds the label of an image that was
taken out of it. A sampler adds `ldm_info`: the checkpoint and the settings.
"""

from __future__ import annotations

from collections.abc import Callable
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...ldm_backend.config.presets import CELEBAHQ_256
from ...ldm_backend.errors import InputError
from ...ldm_backend.sampling.noise import MAX_SEED, seeds_of
from ..host.model import ModelPatcher, intermediate_device, ldm_model_of
from .inputs import SIZE_STEP

# This pack's own keys of the LATENT dict. The host and other packs hand them on as they are.
SEED_KEY = "ldm_seed"
LABELS_KEY = "ldm_labels"
INFO_KEY = "ldm_info"
# The host's, beside the samples.
INDEX_KEY, MASK_KEY = "batch_index", "noise_mask"
# Hosts since 0.11.0 scale an empty latent by this ratio to that of the model; older ones take it as it is.
DOWNSCALE_KEY = "downscale_ratio_spacial"

MOST_OF_A_LABEL = 1000
"""Letters. A walk between walks between walks has some hundred."""

_WHOLE = (torch.int64, torch.int32, torch.int16, torch.uint8, torch.int8)


def latent_shape(width: int, height: int, model: ModelPatcher | None = None) -> tuple[tuple[int, int, int], int]:
    """(C, H, W) of the latent of an image, and its downscale; 3 channels at a quarter of the size without a model.

    Raises:
        InputError: A side that is no multiple of 32, or a model of another family.
    """
    for name, side in (("width", width), ("height", height)):
        if side % SIZE_STEP:
            lower = side // SIZE_STEP * SIZE_STEP
            raise InputError(
                f"{name} is {side}; expected a multiple of {SIZE_STEP}. Set {name} to {max(lower, SIZE_STEP)} or "
                f"{lower + SIZE_STEP}."
            )
    first_stage = ldm_model_of(model).ldm_config.first_stage if model is not None else CELEBAHQ_256.first_stage
    downscale = first_stage.downscale
    return (first_stage.z_channels, height // downscale, width // downscale), downscale


def check_carried(latent: dict[str, Any], name: str) -> None:
    """Refuse what no node writes under the keys that are read here; whether it fits the batch is told where it counts.

    Raises:
        InputError: An index that is no list of whole numbers, a seed or label that is none, an info that is no table.
    """
    for key, (fits, expected) in _CARRIED.items():
        if latent.get(key) is not None and not fits(latent[key]):
            kind = type(latent[key]).__name__
            raise InputError(
                f"{name}: {key} is a {kind} that no node of ComfyUI or of this pack writes; expected {expected}. A "
                "node before this one changed the latent: leave it out, or make the latent with LDM Latent Noise."
            )


def _is_index(value: Any) -> bool:
    listed = isinstance(value, list | tuple | range) or (isinstance(value, np.ndarray | Tensor) and value.ndim == 1)
    return listed and all(isinstance(index, Integral) or _is_whole(index) for index in value)


def _is_whole(value: Any) -> bool:
    """Of tensors: a single whole number."""
    return isinstance(value, Tensor) and value.ndim == 0 and value.dtype in _WHOLE


def _is_seed(value: Any) -> bool:
    return isinstance(value, Integral) and not isinstance(value, bool) and 0 <= int(value) <= MAX_SEED


def _are_labels(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(
        isinstance(text, str) and len(text) <= MOST_OF_A_LABEL for text in value
    )


_CARRIED: dict[str, tuple[Callable[[Any], bool], str]] = {
    INDEX_KEY: (_is_index, "a list of whole numbers, one for each image"),
    SEED_KEY: (_is_seed, "a whole number from 0 to 2**64 - 1"),
    LABELS_KEY: (_are_labels, f"a list of texts of at most {MOST_OF_A_LABEL} letters"),
    INFO_KEY: (lambda value: isinstance(value, dict), "a table of settings"),
}


def batch_indices(latent: dict[str, Any]) -> list[int]:
    """The index that each image of a latent had in its first batch."""
    indices = latent.get(INDEX_KEY)
    return [int(index) for index in (range(latent["samples"].shape[0]) if indices is None else indices)]


def image_seeds(latent: dict[str, Any], seed: int | None = None) -> list[int] | None:
    """The seed of each image of a latent: from `seed`, else from what LDM Latent Noise wrote into it, else None.

    Raises:
        InputError: The latent's batch_index does not fit its batch.
    """
    seed = latent.get(SEED_KEY) if seed is None else seed
    if seed is None:
        return None
    images = latent["samples"].shape[0]
    indices = batch_indices(latent)
    if len(indices) != images:
        raise InputError(
            f"The latent holds {images} images but batch_index names {len(indices)}. A node before this one "
            "changed the batch without its index; make the batch with LDM Latent Noise."
        )
    return seeds_of(int(seed), indices)


def labelled(samples: Tensor, labels: list[str]) -> dict[str, Any]:
    """A LATENT of these samples, with a text for each."""
    return {
        "samples": samples.to(intermediate_device()),
        INDEX_KEY: list(range(len(labels))),
        LABELS_KEY: labels,
    }


def own_labels(latent: dict[str, Any]) -> list[str] | None:
    """What the latent says of each of its images: its labels, else "seed N", else None.

    None also where `batch_index` names an image twice or one that has no label: a node before this one has joined or
    repeated batches, and the texts of the first would be wrong for the rest.

    Raises:
        InputError: The latent's batch_index does not fit its batch.
    """
    images = latent["samples"].shape[0]
    indices = batch_indices(latent)
    if len(indices) != len(set(indices)):
        return None
    labels = latent.get(LABELS_KEY)
    if labels is None:
        seeds = image_seeds(latent)
        return None if seeds is None else [f"seed {seed}" for seed in seeds]
    if len(indices) != images or min(indices) < 0 or max(indices) >= len(labels):
        return None
    return [labels[index] for index in indices]
