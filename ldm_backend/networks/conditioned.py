"""A UNet with its conditioning, as a sampler calls it.

Either it sees further channels behind those of the noisy latent (CompVis' concat), whole or in tiles; or it attends to
a context (crossattn), guided without a classifier.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from copy import copy

import torch
from torch import Tensor

from ..config.conditioning import UNCONDITIONAL, ClassConfig, TextConfig, VectorsConfig, check_task, purpose_of
from ..config.model import LDMConfig
from ..errors import InputError, TooLargeError, short_repr
from ..memory.chunks import Chunks
from ..memory.estimates import FLOAT, Size, check_fits, evaluation_bytes, image_bytes, latents_bytes
from .tiles import averaged_over_tiles, check_tile
from .unet import UNet

logger = logging.getLogger("comfyui_ldm")

# Sides of tiles in latent cells, tried from the largest where the whole does not fit. The models were trained at 64.
_TILES = (256, 192, 128, 96, 64)
# What a model that attends to something takes in the place of a conditioning.
_GIVEN_AS: dict[type, str] = {ClassConfig: "classes", TextConfig: "prompts", VectorsConfig: "vectors"}


class Conditioned:
    """A network with its conditioning, as a sampler calls it; see `sampling.step.Denoiser`.

    An image that does not fit into memory alone goes through it in tiles.

    Args:
        predict: What the network says of (N, C, h, w) latents that its conditioning is joined to, and a timestep.
        config: Of the model.
        c: (N, C, h, w) on the device to work on, for the images of the latents in their order.
        tile: Latent cells of a tile's side; None takes the whole, and tiles only where that does not fit into memory.
        report: Called after each tile of an evaluation with how many are done, and how many there are.
    """

    def __init__(
        self,
        predict: Callable[[Tensor, float], Tensor],
        config: LDMConfig,
        c: Tensor,
        tile: int | None = None,
        report: Callable[[int, int], None] | None = None,
    ) -> None:
        self._predict, self._report = predict, report
        self._unit = config.unet.size_multiple
        self._c = c.float()
        self._tile = tile
        self._smaller = [one for one in _tiles(config) if one < max(c.shape[2:])]

    def __call__(self, x_t: Tensor, t: float) -> Tensor:
        """What the UNet predicts for (N, z, h, w) latents at timestep t.

        Raises:
            TooLargeError: Not even tiles fit into memory.
        """
        while True:
            try:
                return self._evaluate(x_t, t)
            except TooLargeError as error:
                smaller = [one for one in self._smaller if one < (self._tile or max(x_t.shape[2:]))]
                if not smaller:
                    raise
                self._tile = smaller[0]
                logger.warning(
                    "%s Going on with tiles of %d cells, averaged at each step: the picture is a little different.",
                    *(error, self._tile),
                )

    def part(self, images: slice) -> Conditioned:
        """The same for some images of the batch."""
        one = copy(self)
        one._c = self._c[images]
        return one

    def _evaluate(self, x_t: Tensor, t: float) -> Tensor:
        def predict(x: Tensor, c: Tensor) -> Tensor:
            return self._predict(torch.cat([x, c], dim=1), t)

        if self._tile is None or self._tile >= max(x_t.shape[2:]):
            return predict(x_t, self._c)
        return averaged_over_tiles(predict, x_t, self._c, self._tile, self._unit, self._report)


def in_parts(unet: UNet, chunks: Chunks) -> Callable[..., Tensor]:
    """What a UNet predicts for latents, a timestep and, where it has one, a context (N, tokens, D).

    A batch that does not fit into memory goes through it in parts.
    """

    def predict(x_t: Tensor, t: float, *context: Tensor) -> Tensor:
        return chunks.whole(
            lambda part: unet(x_t[part], t, *(one[part] for one in context)),
            x_t.shape,
            x_t.device,
            lambda n: evaluation_bytes(unet.config, n, x_t.shape[2], x_t.shape[3], unet.dtype.itemsize),
        )

    return predict


class Attending:
    """A network with the context of each image, as a sampler calls it; see `sampling.step.Denoiser`.

    Guided it predicts none + cfg * (wanted - none), of two evaluations in one batch: without and with what is wanted.

    Args:
        predict: What the network says of (N, C, h, w) latents, a timestep and their contexts (N, tokens, D).
        context: (N, tokens, D), of the images of the latents in their order.
        none: (1 or N, tokens, D) the context of nothing wanted, or of what is unwanted; None does not guide.
        cfg: How far to go from there to what is wanted, and beyond where it is above 1.

    Source: Ho and Salimans, arXiv 2207.12598 eq. 6, where w is cfg - 1; CompVis ldm/models/diffusion/ddim.py:170-177.
    """

    def __init__(
        self, predict: Callable[[Tensor, float, Tensor], Tensor], context: Tensor, none: Tensor | None, cfg: float
    ) -> None:
        self._predict, self._cfg = predict, cfg
        self._guided = none is not None
        self._context = context if none is None else torch.cat([none.expand_as(context), context])

    def __call__(self, x_t: Tensor, t: float) -> Tensor:
        """What the network predicts for (N, C, h, w) latents at timestep t."""
        if not self._guided:
            return self._predict(x_t, t, self._context)
        none, wanted = self._predict(torch.cat([x_t, x_t]), t, self._context).chunk(2)
        return none + self._cfg * (wanted - none)


def _tiles(config: LDMConfig) -> list[int]:
    return [tile for tile in _TILES if tile % config.unet.size_multiple == 0]


def check_conditioning(c: Tensor | None, config: LDMConfig, images: int) -> None:
    """Refuse what is no conditioning for a model, or none where it needs one.

    Args:
        c: What it is to see beside the noise.
        config: Of the model.
        images: That are to be drawn.

    Raises:
        InputError: Given to a model that sees nothing, missing, or of another shape, type or number.
    """
    channels, unit = config.unet.in_channels - config.first_stage.z_channels, config.unet.size_multiple
    if c is None:
        check_task(config.task, UNCONDITIONAL, "generate without a conditioning")
        return
    if (other := _GIVEN_AS.get(type(config.conditioning))) is not None:
        raise InputError(
            f"A conditioning is given, and this model {purpose_of(config.task)}. Give {other} in its place, one for "
            "each seed."
        )
    if config.conditioning is None:
        raise InputError(
            f"A conditioning is given, and this model takes none: it {purpose_of(config.task)}. Leave it out, or load "
            "the model that it was made for."
        )
    wanted = f"({images}, {channels}, h, w) with h and w multiples of {unit}"
    if not isinstance(c, Tensor) or not c.is_floating_point() or c.ndim != 4:
        what = f"{c.dtype} of shape {tuple(c.shape)}" if isinstance(c, Tensor) else short_repr(c)
        raise InputError(
            f"The conditioning is {what}; expected float {wanted}, since this model {purpose_of(config.task)}. What "
            "ldm_backend.conditioning has makes it."
        )
    if len(c) != images:
        raise InputError(f"There are {images} seeds for {len(c)} images; expected one for each.")
    if c.shape[1] != channels or 0 in c.shape[2:] or c.shape[2] % unit or c.shape[3] % unit:
        raise InputError(
            f"The conditioning has shape {tuple(c.shape)}; expected {wanted}. What ldm_backend.conditioning has makes "
            "it so."
        )
    if not bool(torch.isfinite(c).all()):
        odd = int((~torch.isfinite(c)).sum())
        raise InputError(f"The conditioning holds NaN or infinity {odd} times; expected finite numbers: make it anew.")


def check_cfg(cfg: float) -> None:
    """Raise InputError unless this can be a scale of guidance."""
    if type(cfg) not in (int, float) or not math.isfinite(cfg):
        raise InputError(f"cfg is {short_repr(cfg)}; expected a number, 1 for no guidance.")


def check_classes(classes: Sequence[int | None] | None, cfg: float, config: LDMConfig, images: int) -> None:
    """Refuse classes for a model that has none, none where it has, and guidance that cannot be.

    Args:
        classes: Of the images; the network that embeds them knows which there are.
        cfg: As for `Attending`.
        config: Of the model.
        images: That are to be drawn.

    Raises:
        InputError: Classes given to a model of another task, missing, or of another number than the images; or cfg is
            no number, or not 1 where the model has no class that is none.
    """
    one = config.conditioning
    check_cfg(cfg)
    if not isinstance(one, ClassConfig):
        if classes is not None or cfg != 1:
            raise InputError(
                f"classes are {short_repr(classes)} and cfg {short_repr(cfg)}; expected None and 1, as this model "
                f"{purpose_of(config.task)}. Leave them out, or load a model of classes."
            )
        return
    known = f"0 to {one.pictured - 1}" + (", or None for no class" if one.last_is_none else "")
    if not isinstance(classes, Sequence) or isinstance(classes, str) or len(classes) != images:
        raise InputError(
            f"classes are {short_repr(classes)}, and there are {images} seeds; expected one class for each seed "
            f"({known}), as this model {purpose_of(config.task)}."
        )
    if cfg != 1 and not one.last_is_none:
        raise InputError(
            f"cfg is {short_repr(cfg)}, and this model has no class that is none, which guidance starts from; expected "
            "1. Leave it out."
        )


def check_conditioned(
    task: str,
    config: LDMConfig,
    itemsize: int,
    shape: Sequence[int],
    free: int,
    tile: int | None = None,
) -> None:
    """Refuse what cannot be sampled, before anything is allocated; sides in pixels of the picture that it becomes.

    Args:
        task: For the message.
        config: Of the model.
        itemsize: Bytes of a number of the network's format.
        shape: (N, C, h, w) of the conditioning or of the latents; C does not count.
        free: Bytes that there are.
        tile: As for `Conditioned`.

    Raises:
        InputError: A tile that cannot be one.
        TooLargeError: With the nearest sizes that fit.
    """
    if tile is not None:
        check_tile(tile, config.unet.size_multiple)
    scale = config.first_stage.downscale
    most = tile or min(_tiles(config), default=None)

    def cost(n: int, height: int, width: int) -> int:
        cells = (height // scale, width // scale)
        high, wide = (min(side, most) if most else side for side in cells)
        conditioning = FLOAT * n * config.unet.in_channels * cells[0] * cells[1]
        one = evaluation_bytes(config.unet, 1, high, wide, itemsize)
        return latents_bytes(config, n, *cells) + conditioning + one + image_bytes(n, height, width)

    size = Size(shape[0], shape[2] * scale, shape[3] * scale)
    check_fits(task, size, cost, free, config.unet.size_multiple * scale)
