"""The conditioning of semantic synthesis: a map of labels, from numbers or colours.

The released models know 182 labels, as many as COCO-Stuff has. Label order unverified: the class that read their
training data was not published, so that label 0 is "person" (number 1 of COCO-Stuff) is likely, and known to nobody.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError, short_repr
from .coco_stuff import COCO_STUFF

Colour = tuple[int, int, int]


def as_labels(labels: np.ndarray | Tensor, n_labels: int) -> Tensor:
    """Maps of labels as `SpatialRescaler` takes them.

    Args:
        labels: (N, H, W) or (H, W) whole numbers.
        n_labels: How many the model knows.

    Returns:
        (N, H, W) int64.

    Raises:
        InputError: Another shape or type, or a label that the model does not know.
    """
    found = torch.from_numpy(np.ascontiguousarray(labels)) if isinstance(labels, np.ndarray) else labels
    found = found[None] if found.ndim == 2 else found
    if found.ndim != 3 or found.is_floating_point() or found.dtype == torch.bool or 0 in found.shape:
        raise InputError(
            f"The labels are {found.dtype} of shape {tuple(labels.shape)}; expected whole numbers (N, H, W). Colours "
            "become labels by labels_from_colours."
        )
    found = found.to(torch.int64)
    low, high = int(found.min()), int(found.max())
    if low < 0 or high >= n_labels:
        wrong = low if low < 0 else high
        raise InputError(f"The labels hold {wrong}; this model knows 0 to {n_labels - 1}. Give such pixels a label.")
    return found


def label_of(name: str) -> int:
    """The label of a name of COCO-Stuff, 0 for "person"; order unverified, see the top of this file.

    Raises:
        InputError: No such name.
    """
    if not isinstance(name, str):
        raise InputError(f"A label is {short_repr(name)}; expected one of the names of COCO-Stuff.")
    if name not in COCO_STUFF:
        near = [other for other in COCO_STUFF if name.lower() in other or other in name.lower()][:5] if name else []
        hint = f". Near to it: {', '.join(near)}" if near else ""
        raise InputError(
            f"There is no label {short_repr(name)}{hint}. Take one of ldm_backend.conditioning.coco_stuff."
        )
    return COCO_STUFF.index(name)


def default_palette(n_labels: int = len(COCO_STUFF)) -> tuple[Colour, ...]:
    """A colour for each label, all different, for painting maps: the bits of label + 1 dealt out to red, green, blue.

    Source: the colour map of the PASCAL VOC development kit (VOClabelcolormap), without its black.
    """
    return tuple(_voc_colour(label + 1) for label in range(n_labels))


def labels_from_colours(images: np.ndarray, palette: Sequence[Colour]) -> np.ndarray:
    """Painted maps to labels.

    Args:
        images: uint8 (N, H, W, 3).
        palette: Label i has the colour at i; where two are the same, the first counts.

    Returns:
        int64 (N, H, W).

    Raises:
        InputError: Not such images, or a colour that is none of the palette; the message names the most frequent one.
    """
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3:
        raise InputError(f"The maps are {images.dtype} of shape {images.shape}; expected uint8 (N, H, W, 3).")
    table = np.full(2**24, -1, np.int64)
    for label, (red, green, blue) in reversed(list(enumerate(palette))):
        table[red << 16 | green << 8 | blue] = label
    channels = images.astype(np.int64)
    numbers = channels[..., 0] << 16 | channels[..., 1] << 8 | channels[..., 2]
    labels = table[numbers]
    if (unknown := labels < 0).any():
        values, counts = np.unique(numbers[unknown], return_counts=True)
        most = int(values[counts.argmax()])
        colour = (most >> 16, most >> 8 & 255, most & 255)
        raise InputError(
            f"{int(unknown.sum())} pixels have {len(values)} colours that are none of the palette's {len(palette)}, "
            f"most of them {colour}. Paint with hard edges in the palette's colours, and save as PNG."
        )
    return labels


def colours_of_labels(labels: np.ndarray, palette: Sequence[Colour]) -> np.ndarray:
    """The inverse of `labels_from_colours`: (N, H, W) labels of the palette to uint8 (N, H, W, 3)."""
    return np.asarray(palette, np.uint8)[labels]


def _voc_colour(number: int) -> Colour:
    channels = [0, 0, 0]
    for bit in range(24):
        channels[bit % 3] |= (number >> bit & 1) << (7 - bit // 3)
    return channels[0], channels[1], channels[2]
