"""What can be known of a picture: itself made smaller, some of its pixels, its grey levels, itself blurred.

Each is a linear map A and what it gave, y = A x + noise. A guide brings a picture to where it agrees with y by adding
A+ (y - A x), where A A+ is the identity. Many A+ do that. The one to take is the one whose addition looks like a
picture, since the encoder has to carry it into the latent: it undoes what it does not know from pictures.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..conditioning.masked_image import filled_pixels
from ..errors import InputError, check_choice, short_repr
from ..views.images import as_channels
from .operators import BOX, FILTERS, blurring, gaussian, landweber, noise_gain, shrinking
from .space import Space, of_part

# The loss of each picture of a part of the batch: (n, C, H, W) in [-1, 1] and which of the batch they are, to (n,).
BoundLoss = Callable[[Tensor, slice], Tensor]


@dataclass(frozen=True)
class Bound:
    """A measurement for the pictures of one run.

    Attributes:
        difference: y - A x of (n, C, H, W) pictures x in [-1, 1], and which of the batch they are.
        inverse: A+.
        variance: Of what A+ makes of the noise in y, for each number of a picture that y determines; pictures are in
            [-1, 1].
    """

    difference: Callable[[Tensor, slice], Tensor]
    inverse: Callable[[Tensor], Tensor]
    variance: float

    def correction(self, x: Tensor) -> Tensor:
        """What makes all pictures of the batch agree with the measurement when it is added."""
        return self.inverse(self.difference(x, slice(None)))


@dataclass(frozen=True, eq=False, kw_only=True)
class Measurement(ABC):
    """What is known.

    Attributes:
        noise: Standard deviation of the noise in it, for pictures from 0 to 1; 0 where it is exact.
    """

    noise: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.noise <= 1.0:
            raise InputError(
                f"noise is {short_repr(self.noise)}; expected 0 (exact) to 1, the standard deviation for pictures from "
                "0 to 1."
            )

    @abstractmethod
    def bound(self, space: Space) -> Bound:
        """For the pictures of a run.

        Raises:
            InputError: It does not fit to these pictures.
        """

    def loss(self, space: Space) -> BoundLoss:
        """Half of the squared difference, summed: the negative logarithm of a Gaussian likelihood (LDM eq. 17)."""
        difference = self.bound(space).difference
        return lambda x, part: 0.5 * difference(x, part).square().flatten(1).sum(1)

    def _bound(
        self, difference: Callable[[Tensor, slice], Tensor], inverse: Callable[[Tensor], Tensor], gain: float
    ) -> Bound:
        """With noise whose variance A+ makes so many times as large: tr(A+ A+^T) / tr(A+ A)."""
        return Bound(difference, inverse, gain * (2.0 * self.noise) ** 2)


@dataclass(frozen=True, eq=False)
class LowResolution(Measurement):
    """The picture made smaller.

    Attributes:
        images: (N, h, w, C) uint8 or float from 0 to 1; one stands for all.
        factor: By which each side of the picture is larger, 1 or more; 1 is the picture itself, with noise.
        filter: How it was made smaller, one of FILTERS.
    """

    images: np.ndarray | Tensor
    factor: int = 4
    filter: str = BOX

    def __post_init__(self) -> None:
        super().__post_init__()
        check_choice("filter", self.filter, FILTERS, InputError)
        if isinstance(self.factor, bool) or not isinstance(self.factor, int) or self.factor < 1:
            raise InputError(f"factor is {short_repr(self.factor)}; expected a whole number from 1.")

    def bound(self, space: Space) -> Bound:
        """See `Measurement`; the inverse answers in smooth pictures, see `operators.shrinking`."""
        y = space.pictures(self.images, "The low-resolution picture", self.factor)
        shrink, enlarge = shrinking(space.height, space.width, self.factor, self.filter)
        return self._bound(lambda x, part: of_part(y, part) - shrink(x), enlarge, enlarge.squares() / y[0, 0].numel())


@dataclass(frozen=True, eq=False)
class KnownPixels(Measurement):
    """The picture outside of a mask.

    Attributes:
        images: (N, H, W, C) uint8 or float from 0 to 1; one stands for all. What is masked is not looked at.
        masks: (N, H, W) or (H, W): what is to be made anew, as for `ldm_backend.inpaint`.
    """

    images: np.ndarray | Tensor
    masks: np.ndarray | Tensor

    def bound(self, space: Space) -> Bound:
        """See `Measurement`; the inverse changes known pixels alone."""
        y = space.pictures(self.images, "The picture with known pixels")
        filled = holes(self.masks, (space.images, space.height, space.width))
        known = (~filled[:, None]).float().to(space.device)
        return self._bound(lambda x, part: (of_part(y, part) - x) * known[part].to(x), lambda d: d, 1.0)


@dataclass(frozen=True, eq=False)
class GreyPicture(Measurement):
    """The luma of the picture (ITU-R BT.601).

    Attributes:
        images: (N, H, W, C) uint8 or float from 0 to 1; one stands for all. Of colours the luma counts.
    """

    images: np.ndarray | Tensor

    def bound(self, space: Space) -> Bound:
        """See `Measurement`.

        The inverse adds the difference to red, green and blue alike, by which the luma changes as much since its
        weights add up to one. The least squares solution would change mostly green: a cast that faces do not have,
        which the encoder undoes. On the demo's portraits that costs 4.7 dB.
        """
        y = space.pictures(self.images, "The grey picture", channels=1)
        channels = space.channels
        return self._bound(
            lambda x, part: of_part(y, part) - as_channels(x, 1), lambda d: d.expand(-1, channels, -1, -1), channels
        )


@dataclass(frozen=True, eq=False)
class Blurred(Measurement):
    """The picture out of focus.

    Attributes:
        images: (N, H, W, C) uint8 or float from 0 to 1; one stands for all.
        kernel: (h, w) what it was correlated with, both sides odd; it is divided by its sum. A number is the sigma of
            a Gaussian in pixels.
        steps: Of Landweber's iteration; more of them sharpen finer detail, and noise.
    """

    images: np.ndarray | Tensor
    kernel: float | np.ndarray | Tensor
    steps: int = 20

    def __post_init__(self) -> None:
        super().__post_init__()
        if isinstance(self.steps, bool) or not isinstance(self.steps, int) or not 1 <= self.steps <= 1000:
            raise InputError(f"steps is {short_repr(self.steps)}; expected a whole number from 1 to 1000.")
        _kernel_of(self.kernel)

    def bound(self, space: Space) -> Bound:
        """See `Measurement`; the inverse is Landweber's, which brings back coarse detail first."""
        y = space.pictures(self.images, "The blurred picture")
        kernel = kernel_for(self.kernel, space.height, space.width)
        blur = blurring(space.height, space.width, kernel)
        inverse = landweber(blur, (space.height, space.width), self.steps)
        return self._bound(lambda x, part: of_part(y, part) - blur(x), inverse, noise_gain(blur, inverse, y.shape[2:]))


def holes(masks: np.ndarray | Tensor, shape: tuple[int, int, int]) -> Tensor:
    """What is to be made anew, as `masked_image.filled_pixels` says.

    Args:
        masks: Of pictures.
        shape: (N, H, W) of these.

    Returns:
        (N, H, W) bool, in each picture some and not all.

    Raises:
        InputError: A mask does not fit, covers all of its picture, or nothing.
    """
    filled = filled_pixels(masks, shape)
    if bool(filled.flatten(1).all(1).any()):
        raise InputError(
            f"A mask covers its whole picture of {shape[2]}x{shape[1]} pixels; expected some outside of it, which are "
            "known. Change the mask, or leave its picture out."
        )
    if not bool(filled.flatten(1).any(1).all()):
        raise InputError(
            "A mask is empty, so that nothing is to be made anew; expected pixels of 0.5 or more in it. Change the "
            "mask, or leave its picture out."
        )
    return filled


def kernel_for(kernel: float | np.ndarray | Tensor, height: int, width: int) -> Tensor:
    """A kernel as `Blurred` takes it, divided by its sum: (h, w) float64.

    Raises:
        InputError: It is no such kernel, or reaches too far for pictures of this size.
    """
    taps = _kernel_of(kernel)
    if taps.shape[0] // 2 >= height or taps.shape[1] // 2 >= width:
        raise InputError(
            f"The kernel has {taps.shape[1]}x{taps.shape[0]} taps, too many for pictures of {width}x{height}; expected "
            "less than twice these sides. Take a smaller kernel or sigma."
        )
    return taps


def _kernel_of(kernel: float | np.ndarray | Tensor) -> Tensor:
    if isinstance(kernel, int | float):
        if isinstance(kernel, bool) or not math.isfinite(kernel) or not 0.1 <= kernel <= 1000.0:
            raise InputError(f"The sigma of the blur is {short_repr(kernel)}; expected 0.1 to 1000 pixels.")
        return gaussian(kernel)
    taps = torch.as_tensor(kernel).double().cpu()
    if taps.ndim != 2 or not taps.shape[0] % 2 or not taps.shape[1] % 2:
        raise InputError(f"The kernel has shape {tuple(taps.shape)}; expected (h, w), both odd.")
    if not bool(torch.isfinite(taps).all()) or float(taps.sum()) <= 0.0:
        raise InputError(
            f"The kernel adds up to {float(taps.sum()):g}; expected finite taps with a sum above 0, by which they are "
            "divided."
        )
    return taps / taps.sum()
