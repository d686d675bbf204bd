"""What gradients cost in memory, and whether they can be at all: told before a run begins."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..errors import TooLargeError
from ..memory.estimates import Size, check_fits
from ..memory.free_memory import free_bytes
from ..memory.gradients import decoder_gradient_bytes, encoder_gradient_bytes, unet_gradient_bytes
from ..networks.unet import UNet
from .gradients import check_weights
from .guides import Guide, LossGradient, ScoreGradient
from .losses import Style
from .space import Space


def check_gradients(guides: Sequence[Guide], space: Space, unet: UNet | None) -> Callable[[int], int]:
    """Refuse gradients that cannot be taken, image by image.

    Args:
        guides: Of the run.
        space: The pictures of the run.
        unet: That score gradients go through; None where it is not one of ours, and not counted.

    Returns:
        Bytes that the gradients of a number of pictures take together.

    Raises:
        InputError: Weights that no gradient goes through.
        TooLargeError: One picture needs more memory than there is; the message says which size fits.
    """
    descending = [guide for guide in guides if isinstance(guide, LossGradient | ScoreGradient)]
    if not descending:
        return lambda images: 0
    through = unet if any(isinstance(guide, ScoreGradient) for guide in descending) else None
    check_weights(space.first_stage, "first stage")
    if through is not None:
        check_weights(through, "UNet")
    styled = any(isinstance(guide.wanted, Style) for guide in descending)

    def cost(images: int, height: int, width: int) -> int:
        return gradient_bytes(space, through, styled, (images, height, width))

    _check_one(space, cost)
    return lambda images: cost(images, space.height, space.width)


def gradient_bytes(space: Space, unet: UNet | None, styled: bool, size: tuple[int, int, int]) -> int:
    """Bytes of gradients through the decoder and, where they are given, UNet and encoder.

    Args:
        space: Names the first stage and the device.
        unet: Of score gradients.
        styled: A loss looks at features of the encoder.
        size: (images, height, width) in pixels.
    """
    config = space.first_stage.config
    images, height, width = size
    cells = (height // config.downscale, width // config.downscale)
    total = decoder_gradient_bytes(config, images, *cells, blocks=space.device.type == "cpu")
    if styled:
        total += encoder_gradient_bytes(config, images, height, width)
    if unet is not None:
        total += unet_gradient_bytes(unet.config, images, *cells)
    return total


def _check_one(space: Space, cost: Callable[[int, int, int], int]) -> None:
    step = space.first_stage.downscale * 8
    try:
        check_fits(
            "A gradient through the decoder", Size(1, space.height, space.width), cost, free_bytes(space.device), step
        )
    except TooLargeError as error:
        raise TooLargeError(
            f"{error} Working at every n-th step takes as much; a Projection of a measurement needs no gradient, so "
            "take that where there is one."
        ) from None
