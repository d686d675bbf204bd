"""The guides of a run: by which of three ways something known or wanted is brought in, how strongly, and when."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import InputError, check_choice, short_repr
from .losses import PictureLoss
from .measurements import Measurement

NETWORK, LINEAR = "network", "linear"
CODECS = (NETWORK, LINEAR)


@dataclass(frozen=True, eq=False, kw_only=True)
class Guide:
    """When a guide works.

    Attributes:
        start: Where it begins, 0 (nothing but noise) to 1 (a clean picture), as a share of the training's timesteps.
        end: Where it ends, likewise.
        every: It works at the first of so many steps within that window.
    """

    start: float = 0.0
    end: float = 1.0
    every: int = 1

    def __post_init__(self) -> None:
        if not 0.0 <= self.start <= self.end <= 1.0:
            raise InputError(
                f"start is {short_repr(self.start)} and end {short_repr(self.end)}; expected 0 (noise) to 1 (the "
                "picture), start before end."
            )
        _check_whole("every", self.every)


@dataclass(frozen=True, eq=False)
class Projection(Guide):
    """Decode the predicted picture, make it agree with what is known, and encode the change. Takes no gradient.

    With noise in the measurement it goes only part of the way: as far as the prediction is less certain than the
    measurement, see `guided.damping`. Several projections take turns on the same picture until they agree.

    Attributes:
        known: What the picture is made to agree with.
        strength: Share of the way, above 0 to 1.
        codec: "network" decodes and encodes; "linear" takes the colours of the previews for it, at almost no cost, and
            knows no more of a picture than a colour for each latent cell.
    """

    known: Measurement
    strength: float = 1.0
    codec: str = NETWORK

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.known, Measurement):
            raise InputError(
                f"A projection is on {short_repr(self.known)}; expected a measurement, such as LowResolution."
            )
        if not 0.0 < self.strength <= 1.0:
            raise InputError(f"strength is {short_repr(self.strength)}; expected more than 0, to 1 (exact).")
        check_choice("codec", self.codec, CODECS, InputError)


@dataclass(frozen=True, eq=False)
class LossGradient(Guide):
    """Move the predicted clean latent down the gradient of a loss of its picture, through the decoder alone.

    Attributes:
        wanted: A loss, or a measurement, of which it is the squared difference.
        strength: Of a move, above 0, see `gradients.descended`; about 0.1 to 1.
        inner: Moves in each step, each with a gradient of its own.

    Source: MPGD (He et al., arXiv 2311.16424), algorithm 1 without projection; the length of a move is ours.
    """

    wanted: PictureLoss | Measurement
    strength: float = 0.3
    inner: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_gradient(self.wanted, self.strength)
        _check_whole("inner", self.inner)


@dataclass(frozen=True, eq=False)
class ScoreGradient(Guide):
    """Correct the predicted noise by the gradient of a loss through decoder and UNet: the paper's guiding mechanism.

    LDM (arXiv 2112.10752) appendices B and C, with a_t for their alpha_t squared, z0(z_t) the clean latent that the
    network predicts, D the decoder and T any map of pictures that has a gradient:

        (14)  z0(z_t) = (z_t - sqrt(1 - a_t) * eps_theta(z_t, t)) / sqrt(a_t)
        (15)  |z_0 - z0(z_t)|^2 = (1 - a_t) / a_t * |eps - eps_theta(z_t, t)|^2
        (16)  eps^ = eps_theta(z_t, t) + sqrt(1 - a_t) * grad over z_t of log p(y | z_t)    [as it is printed]
        (17)  log p(y | z_t) = -1/2 |y - T(D(z0(z_t)))|^2    for a Gaussian guider of variance 1

    So a correction of the noise (16) is one of the picture (15). p is p(y | T(D(z0(z_t)))); other guiders have other
    losses -log p.

    The sign here is the other one: eps^ = eps - sqrt(1 - a_t) * grad log p = eps + sqrt(1 - a_t) * grad loss. The
    network's output is eps = -sqrt(1 - a_t) * grad log p(z_t), a score with a minus. By Bayes grad log p(z_t | y) is
    grad log p(z_t) + grad log p(y | z_t); times -sqrt(1 - a_t), the second term gets a minus as the first one has. A
    step goes against eps, so against the gradient of the loss, and the loss falls; with a plus it would rise.

    The gradient is divided by its own root mean square for each picture, so that a strength means the same for every
    loss: at 1 the correction is as large as eps is at that noise level, times sqrt(1 - a_t).

    Attributes:
        wanted: A loss, or a measurement, of which it is half the squared difference (eq. 17).
        strength: Of the correction, above 0.
    """

    wanted: PictureLoss | Measurement
    strength: float = 0.3

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_gradient(self.wanted, self.strength)


def _check_gradient(wanted: PictureLoss | Measurement, strength: float) -> None:
    if not isinstance(wanted, PictureLoss | Measurement):
        raise InputError(
            f"A guide by gradient is for {short_repr(wanted)}; expected a loss such as MeanColour, AnyLoss(function) "
            "or a measurement."
        )
    if not 0.0 < strength <= 100.0:
        raise InputError(f"strength is {short_repr(strength)}; expected more than 0, to 100.")


def _check_whole(name: str, value: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 1000:
        raise InputError(f"{name} is {short_repr(value)}; expected a whole number from 1 to 1000.")
