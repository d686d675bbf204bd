"""Samples of a UNet that sees further channels behind those of the noisy latent (CompVis' concat)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..config.conditioning import check_task
from ..config.model import LDMConfig
from ..errors import InputError, TooLargeError
from ..kernels.fast_conv import empty_caches, kernel_bytes
from ..memory.estimates import FLOAT, Size, check_fits, evaluation_bytes, image_bytes, latents_bytes
from ..memory.free_memory import free_bytes
from ..pipeline import LatentDiffusion, evaluation
from ..sampling.samplers import AUTO, Callback, Denoiser, sample_seeds
from ..sampling.schedule import Schedule
from .tiles import averaged_over_tiles, check_tile

logger = logging.getLogger("comfyui_ldm")

STEPS, SAMPLER = 20, "dpmpp_2m"  # of all tasks, unless others are asked for

# Sides of tiles in latent cells, tried from the largest where the whole does not fit. The models were trained at 64.
_TILES = (256, 192, 128, 96, 64)


@dataclass(frozen=True)
class Sampling:
    """How a run samples: the arguments of these names of `upscale`, `inpaint` and `synthesise`."""

    seeds: Sequence[int]
    steps: int = STEPS
    eta: float = 0.0
    sampler: str = SAMPLER
    grid: str = AUTO
    callback: Callback | None = None


def begin(model: LatentDiffusion, task: str, caller: str) -> None:
    """What every task checks before it computes anything.

    Args:
        model: From `load`.
        task: That the model must be for.
        caller: Named in errors.

    Raises:
        InputError: A model of another task.
        CheckpointError: A file of the model was changed since it was loaded.
    """
    check_task(model.task, task, caller)
    for file in model.files:
        file.check()


@torch.no_grad()
def sample_conditioned(model: LatentDiffusion, c: Tensor, run: Sampling, tile: int | None = None) -> Tensor:
    """Draw a latent for each image of a conditioning; none depends on its neighbours.

    Args:
        model: From `load`, checked by `begin`.
        c: (N, C, h, w) what the UNet sees beside the noise, anywhere.
        run: With a seed for each image.
        tile: Latent cells of a tile's side; None takes the whole, and tiles only where that does not fit into memory.

    Returns:
        (N, z, h, w) float32 latents on the model's device.

    Raises:
        ScheduleError: Steps, eta, sampler or grid out of range.
        InputError: Another number of seeds than of images, a seed out of range, or a tile that cannot be one.
        TooLargeError: More than fits into memory.
        SamplingError: The model gave NaN or infinity.
    """
    if len(run.seeds) != len(c):
        raise InputError(f"There are {len(run.seeds)} seeds for {len(c)} images; expected one for each.")
    if tile is not None:
        check_tile(tile, model.unet.size_multiple)
    free = free_bytes(model.device) - kernel_bytes(model.unet)
    check_conditioned("Sampling", model.config, model.unet.dtype.itemsize, c.shape, free, tile)
    denoiser = Conditioned(evaluation(model), model.config, c.to(model.device), tile)
    try:
        return draw(denoiser, model.schedule, run)
    finally:
        empty_caches(model.unet)


class Conditioned:
    """A network with its conditioning, as a sampler calls it; see `sampling.step.Denoiser`.

    An image that does not fit into memory alone goes through it in tiles.

    Args:
        predict: What the network says of (N, C, h, w) latents that its conditioning is joined to, and a timestep.
        config: Of the model.
        c: (N, C, h, w) on the device to work on, for the images of the latents in their order.
        tile: As for `sample_conditioned`.
        report: Called after each tile of an evaluation with how many are done, and how many there are.
    """

    def __init__(
        self,
        predict: Denoiser,
        config: LDMConfig,
        c: Tensor,
        tile: int | None = None,
        report: Callable[[int, int], None] | None = None,
    ) -> None:
        self._predict, self._report = predict, report
        self._unit, self.z_channels = config.unet.size_multiple, config.first_stage.z_channels
        self.c = c.float()
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

    def _evaluate(self, x_t: Tensor, t: float) -> Tensor:
        def predict(x: Tensor, c: Tensor) -> Tensor:
            return self._predict(torch.cat([x, c], dim=1), t)

        if self._tile is None or self._tile >= max(x_t.shape[2:]):
            return predict(x_t, self.c)
        return averaged_over_tiles(predict, x_t, self.c, self._tile, self._unit, self._report)


def draw(denoiser: Conditioned, schedule: Schedule, run: Sampling) -> Tensor:
    """The loop of a sampler, from each image's own noise.

    Args:
        denoiser: With the conditioning of each image.
        schedule: Of the model.
        run: With a seed for each image.

    Returns:
        (N, z, h, w) float32 latents on the device of the conditioning.

    Raises:
        ScheduleError: Steps, eta, sampler or grid out of range.
        InputError: A seed out of range.
        TooLargeError: More than fits into memory.
        SamplingError: The model gave NaN or infinity.
    """
    shape = (denoiser.z_channels, denoiser.c.shape[2], denoiser.c.shape[3])
    return sample_seeds(
        run.sampler, denoiser, run.seeds, shape, schedule, run.steps,
        device=denoiser.c.device, grid=run.grid, eta=run.eta, callback=run.callback,
    )  # fmt: skip


def _tiles(config: LDMConfig) -> list[int]:
    return [tile for tile in _TILES if tile % config.unet.size_multiple == 0]


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
        tile: As for `sample_conditioned`.

    Raises:
        TooLargeError: With the nearest sizes that fit.
    """
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
