"""What the nodes of guides have in common: the chain that their wire carries, their inputs, and their previews."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ...ldm_backend.conditioning.masked_image import filled_pixels
from ...ldm_backend.errors import InputError, check_choice
from ...ldm_backend.guidance.guides import CODECS, Guide, LossGradient, Projection, ScoreGradient
from ...ldm_backend.guidance.losses import PictureLoss
from ...ldm_backend.guidance.measurements import Measurement
from ...ldm_backend.memory.estimates import Size, image_bytes
from .limits import check_pictures

GUIDES_TYPE = "LDM_GUIDES"
GUIDES = io.Custom(GUIDES_TYPE)

LOSS, SCORE = "loss", "score"
METHODS = (LOSS, SCORE)

MOST_GUIDES = 64
"""In a chain; each of them costs at least a picture of memory."""


@dataclass(frozen=True)
class GuideChain:
    """What LDM_GUIDES carries; a node that adds a guide makes another chain.

    Attributes:
        guides: At least one, in the order in which they were connected.
    """

    guides: tuple[Guide, ...]


def guided_node_inputs(*own: Any) -> list[Any]:
    """The inputs of a guide: its own, and the chain that it is put at the end of."""
    return [
        *own,
        GUIDES.Input("guides", optional=True, tooltip="Guides that work together with this one, from another of them."),
    ]


def window_inputs() -> list[Any]:
    """When a guide works."""
    return [
        io.Float.Input(
            "start",
            default=0.0,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="Where the guide begins to work: 0 is nothing but noise, 1 the finished picture.",
        ),
        io.Float.Input(
            "end",
            default=1.0,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip="Where it stops. Less than 1 leaves the last details to the model.",
        ),
        io.Int.Input(
            "every_nth",
            default=1,
            min=1,
            max=1000,
            tooltip="It works at the first of so many steps between start and end. More saves time.",
        ),
    ]


def projection_inputs() -> list[Any]:
    """Noise, strength, window and codec of a measurement."""
    return [
        io.Float.Input(
            "noise",
            default=0.0,
            min=0.0,
            max=1.0,
            step=0.01,
            tooltip=(
                "Standard deviation of the noise in the picture, for pictures from 0 to 1. 0: it is taken to the "
                "letter, with its noise and JPEG artefacts. 0.02 to 0.1 for noisy ones."
            ),
        ),
        io.Float.Input(
            "strength",
            default=1.0,
            min=0.01,
            max=1.0,
            step=0.01,
            tooltip="How far each step goes towards what is known. 1: the whole way.",
        ),
        *window_inputs(),
        io.Combo.Input(
            "codec",
            options=list(CODECS),
            default=CODECS[0],
            tooltip=(
                "How pictures and latents are turned into each other at each step. network: by the VAE, exact. linear: "
                "by the colours of the previews, at almost no cost, a colour for each latent cell."
            ),
        ),
    ]


PROJECTION_ADVANCED = ("start", "end", "every_nth", "codec")


def gradient_inputs() -> list[Any]:
    """Strength, method and window of a loss."""
    return [
        io.Float.Input(
            "strength",
            default=0.3,
            min=0.01,
            max=100.0,
            step=0.01,
            tooltip="How far each step goes, whatever is wanted: 0.1 to 1. Above that pictures fall apart.",
        ),
        io.Combo.Input(
            "method",
            options=list(METHODS),
            default=LOSS,
            tooltip=(
                "loss: moves the predicted picture, by a gradient through the decoder (MPGD). score: corrects the "
                "predicted noise, by a gradient through decoder and UNet (the paper's appendix C), slower; with eta 0."
            ),
        ),
        io.Int.Input(
            "inner",
            default=1,
            min=1,
            max=20,
            tooltip="Only for loss: moves at each step. More follow closer and cost as much more.",
        ),
        *window_inputs(),
    ]


GRADIENT_ADVANCED = ("method", "inner", "start", "end", "every_nth")


def guide_outputs(shown: str) -> list[Any]:
    """The chain, and a picture of what the guide knows; `shown` says what is to be seen."""
    return [
        GUIDES.Output(display_name=GUIDES_TYPE, tooltip="For LDM Guided, or for the input guides of another guide."),
        io.Image.Output(display_name="IMAGE", tooltip=f"What the guide knows, to look at: {shown}."),
    ]


def projection(known: Measurement, guides: GuideChain | None, every_nth: int, **settings: Any) -> GuideChain:
    """The chain with a projection at its end.

    Args:
        known: What the picture is made to agree with.
        guides: That are there already.
        every_nth: See `window_inputs`.
        settings: strength, start, end and codec.

    Raises:
        InputError: A setting out of range, or too many guides.
    """
    return _joined(guides, Projection(known, every=every_nth, **settings))


def descent(
    wanted: PictureLoss, guides: GuideChain | None, method: str, inner: int, every_nth: int, **settings: Any
) -> GuideChain:
    """The chain with a gradient at its end.

    Args:
        wanted: The loss.
        guides: That are there already.
        method: One of METHODS.
        inner: Moves at each step, for LOSS.
        every_nth: See `window_inputs`.
        settings: strength, start and end.

    Raises:
        InputError: A setting out of range, several moves for SCORE, or too many guides.
    """
    check_choice("method", method, METHODS, InputError)
    if method == LOSS:
        return _joined(guides, LossGradient(wanted, inner=inner, every=every_nth, **settings))
    if inner != 1:
        raise InputError(
            f"inner is {inner}, and method is score, which corrects the noise once at each step. Set inner to 1, or "
            "method to loss."
        )
    return _joined(guides, ScoreGradient(wanted, every=every_nth, **settings))


def _joined(guides: GuideChain | None, guide: Guide) -> GuideChain:
    before = () if guides is None else guides.guides
    if len(before) >= MOST_GUIDES:
        raise InputError(f"guides holds {len(before)} guides; expected at most {MOST_GUIDES} together. Leave some out.")
    return GuideChain((*before, guide))


def pictured(task: str, image: Tensor, times: int = 1) -> Tensor:
    """An IMAGE of 1, 3 or 4 channels as it is shown: (N, H, W, 3) in 0..1, each pixel `times` as wide and high.

    Raises:
        TooLargeError: It does not fit into memory; `task` is named.
    """
    size = Size(image.shape[0], image.shape[1] * times, image.shape[2] * times)
    check_pictures(task, size, lambda *of: 2 * image_bytes(*of), image.device)
    shown = image[..., :3].clamp(0.0, 1.0).expand(*image.shape[:3], 3)
    return shown.repeat_interleave(times, 1).repeat_interleave(times, 2) if times > 1 else shown.contiguous()


def masked(task: str, image: Tensor, mask: Tensor, inside: bool) -> Tensor:
    """An IMAGE as `pictured` shows it, grey inside of a MASK or, where not `inside`, outside of it.

    Either may be one for all of the other.

    Raises:
        InputError: A mask of another size or number.
        TooLargeError: As `pictured`.
    """
    shown = pictured(task, image)
    masks = len(mask) if mask.ndim == 3 else 1
    size = Size(masks if len(image) == 1 else len(image), image.shape[1], image.shape[2])
    check_pictures(task, size, lambda *of: 2 * image_bytes(*of), image.device)
    filled = filled_pixels(mask, (size.images, size.height, size.width)).to(shown.device)
    grey = torch.full_like(shown[:1, :1, :1], 0.5)
    return torch.where((filled if inside else ~filled)[..., None], grey, shown)
