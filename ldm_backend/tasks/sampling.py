"""Samples of a UNet that sees further channels behind those of the noisy latent (CompVis' concat)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..config.conditioning import check_task
from ..config.model import LDMConfig, UNetConfig
from ..errors import InputError, TooLargeError
from ..kernels.fast_conv import empty_caches, kernel_bytes
from ..memory.chunks import Chunks
from ..memory.estimates import FLOAT, Size, check_fits, image_bytes, sampling_bytes, unet_bytes
from ..memory.free_memory import free_bytes
from ..pipeline import LatentDiffusion
from ..sampling.noise import StepNoise, draw_noise
from ..sampling.samplers import AUTO, Callback, adds_noise, grid_of, sample
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
def sample_conditioned(
    model: LatentDiffusion, c: Tensor, run: Sampling, tile: int | None = None, divisible: bool = True
) -> Tensor:
    """Draw a latent for each image of a conditioning; none depends on its neighbours.

    Args:
        model: From `load`, checked by `begin`.
        c: (N, C, h, w) what the UNet sees beside the noise, anywhere.
        run: With a seed for each image.
        tile: Latent cells of a tile's side; None takes the whole, and tiles only where that does not fit into memory.
        divisible: Tiles are allowed: what happens in one needs nothing that is far away.

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
    _check_memory(model, c, tile, divisible)
    noisy = adds_noise(run.sampler, run.eta)
    pairs = model.schedule.timesteps(run.steps, grid_of(model.schedule, run.grid, run.sampler))
    shape = (model.config.first_stage.z_channels, c.shape[2], c.shape[3])
    x_T = draw_noise(run.seeds, shape).to(model.device)  # noqa: N806 - the papers' name
    denoiser = Conditioned(model, c, tile, divisible)
    settings = {"eta": run.eta, "step_noise": StepNoise(run.seeds, shape) if noisy else None, "callback": run.callback}
    try:
        return sample(run.sampler, denoiser, x_T, model.schedule, pairs, **settings)
    finally:
        empty_caches(model.unet)


class Conditioned:
    """The UNet with its conditioning, as a sampler calls it; see `sampling.step.Denoiser`.

    A batch that does not fit into memory goes through it in parts, and an image that does not fit alone in tiles.

    Args:
        model: From `load`.
        c: (N, C, h, w), for the images of the latents in their order.
        tile: As for `sample_conditioned`.
        divisible: likewise.
    """

    def __init__(self, model: LatentDiffusion, c: Tensor, tile: int | None = None, divisible: bool = True) -> None:
        self._unet, self._chunks = model.unet, Chunks("UNet")
        self._c = c.to(model.device, torch.float32)
        self._tile = tile
        self._smaller = [one for one in _tiles(model.config) if one < max(c.shape[2:])] if divisible else []

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
            return self._chunks.whole(
                lambda part: self._unet(torch.cat([x[part], c[part]], dim=1), t),
                x.shape,
                x.device,
                lambda n: evaluation_bytes(self._unet.config, n, x.shape[2], x.shape[3], self._unet.dtype.itemsize),
            )

        if self._tile is None or self._tile >= max(x_t.shape[2:]):
            return predict(x_t, self._c)
        return averaged_over_tiles(predict, x_t, self._c, self._tile, self._unet.size_multiple)


def evaluation_bytes(config: UNetConfig, images: int, height: int, width: int, itemsize: int) -> int:
    """One evaluation, with the latents and their conditioning joined; arguments as for `unet_bytes`."""
    joined = FLOAT * images * height * width * (config.in_channels + config.out_channels)
    return unet_bytes(config, images, height, width, itemsize) + joined


def _tiles(config: LDMConfig) -> list[int]:
    return [tile for tile in _TILES if tile % config.unet.size_multiple == 0]


def _check_memory(model: LatentDiffusion, c: Tensor, tile: int | None, divisible: bool) -> None:
    """Refuse what cannot be sampled, before anything is allocated; sides in pixels of the picture that it becomes."""
    config, itemsize, scale = model.config, model.unet.dtype.itemsize, model.config.first_stage.downscale
    most = tile or (min(_tiles(config), default=None) if divisible else None)

    def cost(n: int, height: int, width: int) -> int:
        cells = (height // scale, width // scale)
        high, wide = (min(side, most) if most else side for side in cells)
        latents = sampling_bytes(config, (n, height, width), 1, itemsize) - unet_bytes(config.unet, 1, *cells, itemsize)
        conditioning = FLOAT * n * config.unet.in_channels * cells[0] * cells[1]
        evaluation = evaluation_bytes(config.unet, 1, high, wide, itemsize)
        return latents + conditioning + evaluation + image_bytes(n, height, width)

    size = Size(len(c), c.shape[2] * scale, c.shape[3] * scale)
    free = free_bytes(model.device) - kernel_bytes(model.unet)
    check_fits("Sampling", size, cost, free, model.unet.size_multiple * scale)
