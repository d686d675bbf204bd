"""What may be wanted of a picture, as losses that have a gradient: one number for each picture, the less the better."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..conditioning.masked_image import filled_pixels
from ..errors import InputError, short_repr
from ..networks.first_stage import FirstStage
from ..views.images import as_channels
from .measurements import BoundLoss
from .space import Space, of_part

# (n, C, H, W) pictures in [-1, 1] to the features of each, (n, C', H', W').
Features = Callable[[Tensor], Sequence[Tensor]]


class PictureLoss(ABC):
    """What is wanted."""

    @abstractmethod
    def loss(self, space: Space) -> BoundLoss:
        """For the pictures of a run.

        Raises:
            InputError: It does not fit to these pictures.
        """


@dataclass(frozen=True, eq=False)
class MeanColour(PictureLoss):
    """The mean of all pixels.

    Attributes:
        colour: Red, green and blue, each from 0 to 1.
    """

    colour: Sequence[float]

    def loss(self, space: Space) -> BoundLoss:
        """Squared distance of the mean, in the range [-1, 1] of pictures."""
        wanted = _colours([self.colour], space)[0]
        return lambda x, part: (x.mean((2, 3)) - wanted.to(x)).square().mean(1)


@dataclass(frozen=True, eq=False)
class Palette(PictureLoss):
    """Pixels that have one of a few colours.

    Attributes:
        colours: Each red, green and blue from 0 to 1.
    """

    colours: Sequence[Sequence[float]]

    def loss(self, space: Space) -> BoundLoss:
        """Mean over the pixels of the squared distance to the nearest colour."""
        wanted = _colours(self.colours, space)

        def value(x: Tensor, part: slice) -> Tensor:
            distances = [(x - colour.to(x)[:, None, None]).square().mean(1) for colour in wanted]
            return torch.stack(distances).amin(0).mean((1, 2))

        return value


@dataclass(frozen=True, eq=False)
class Reference(PictureLoss):
    """Another picture, inside of a mask.

    Attributes:
        images: (N, H, W, C) uint8 or float from 0 to 1; one stands for all.
        masks: (N, H, W) or (H, W), where the picture shall be like it; None is everywhere.
    """

    images: np.ndarray | Tensor
    masks: np.ndarray | Tensor | None = None

    def loss(self, space: Space) -> BoundLoss:
        """Mean over the masked pixels of the squared difference."""
        wanted = space.pictures(self.images, "The reference")
        shape = (space.images, space.height, space.width)
        inside = torch.ones(shape, dtype=torch.bool) if self.masks is None else filled_pixels(self.masks, shape)
        if not bool(inside.flatten(1).any(1).all()):
            raise InputError(
                "A mask of the reference is empty; expected pixels of 0.5 or more, where the two are compared. Change "
                "the mask, or leave it out to compare everywhere."
            )
        weight = inside[:, None].float().to(space.device)
        weight = weight / (weight.sum((1, 2, 3), keepdim=True) * space.channels)
        return lambda x, part: ((x - of_part(wanted, part)).square() * weight[part].to(x)).sum((1, 2, 3))


@dataclass(frozen=True, eq=False)
class Style(PictureLoss):
    """The style of another picture: how the features of an encoder go together, wherever in the picture they are.

    Attributes:
        images: (N, H, W, C) uint8 or float from 0 to 1, of the size of the run; one stands for all.
        features: Of pictures; None takes those of the first stage's encoder.

    Source: Gatys et al., arXiv 1508.06576, eq. 3 to 5.
    """

    images: np.ndarray | Tensor
    features: Features | None = None

    def loss(self, space: Space) -> BoundLoss:
        """Sum over the layers of the squared difference of Gram matrices, each relative to the style's own."""
        features = self.features or (lambda x: encoder_features(space.first_stage, x))
        with torch.inference_mode(False), torch.no_grad():
            styles = [gram(layer) for layer in features(space.pictures(self.images, "The picture of the style"))]

        def value(x: Tensor, part: slice) -> Tensor:
            found = [gram(layer) for layer in features(x)]
            wanted = [of_part(style, part) for style in styles]
            errors = [(f - w).square().sum((1, 2)) / w.square().sum((1, 2)) for f, w in zip(found, wanted, strict=True)]
            return torch.stack(errors).sum(0)

        return value


@dataclass(frozen=True, eq=False)
class AnyLoss(PictureLoss):
    """A function of pictures.

    Attributes:
        function: (n, C, H, W) pictures in about [-1, 1] to their (n,) losses, each of its picture alone; torch must
            have the gradient. It is called with any part of the batch.
    """

    function: Callable[[Tensor], Tensor]

    def loss(self, space: Space) -> BoundLoss:
        """The function."""
        return lambda x, part: self.function(x)


def gram(features: Tensor) -> Tensor:
    """(N, C, H, W) features to the (N, C, C) mean over the places of their products."""
    flat = features.flatten(2)
    return flat @ flat.transpose(1, 2) / flat.shape[2]


def encoder_features(first_stage: FirstStage, x: Tensor) -> list[Tensor]:
    """What the encoder of a first stage makes of pictures at each of its levels.

    Args:
        first_stage: Of the model.
        x: (N, C, H, W) pictures in [-1, 1].

    Returns:
        (N, C', H', W') of each level, the finest first.
    """
    encoder = first_stage.encoder
    blocks: list[Any] = list(encoder.down_blocks)
    h, levels = encoder.conv_in(x.to(encoder.conv_in.weight.dtype)), []
    for block in blocks:
        for layer in block.layers():
            h = layer(h)
        levels.append(h.to(x.dtype))
    return levels


def _colours(colours: Sequence[Sequence[float]], space: Space) -> list[Tensor]:
    """(C,) each, in [-1, 1]."""
    if not colours:
        raise InputError("colours is empty; expected at least one colour.")
    found = []
    for colour in colours:
        numbers = list(colour)
        if len(numbers) != 3 or not all(isinstance(n, int | float) and 0.0 <= n <= 1.0 for n in numbers):
            raise InputError(f"A colour is {short_repr(numbers)}; expected red, green and blue, each from 0 to 1.")
        rgb = torch.tensor(numbers, device=space.device) * 2.0 - 1.0
        found.append(as_channels(rgb[None], space.channels)[0])
    return found
