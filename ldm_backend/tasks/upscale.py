"""Super-resolution: small pictures to large ones of the same."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..conditioning.low_resolution import low_resolution
from ..config.conditioning import SUPER_RESOLUTION
from ..kernels.fast_conv import empty_caches
from ..pipeline import LatentDiffusion, decode_to_uint8, sample_latents
from ..sampling.samplers import AUTO, Callback, eta_of
from .colours import with_colours_of
from .sampling import UPSCALE_SAMPLER, UPSCALE_STEPS, begin


def upscale(
    model: LatentDiffusion,
    images: np.ndarray,
    seeds: Sequence[int],
    steps: int = UPSCALE_STEPS,
    eta: float | None = None,
    sampler: str = UPSCALE_SAMPLER,
    grid: str = AUTO,
    tile: int | None = None,
    keep_colours: bool = False,
    callback: Callback | None = None,
) -> np.ndarray:
    """Enlarge pictures, each side by what the first stage halves: four times with the released model.

    The model was trained on clean small pictures, lightly blurred and compressed; what is broken in heavily compressed
    or noisy ones it takes for content. The original ran 100 steps of "ddim" with eta 1. The default has few steps, and
    keeps the fresh noise of eta 1, because that repairs what few steps leave, such as colours that drift: on the demo
    upscaler 15 of them come nearer to the truth than 20 steps of "dpmpp_2m", which adds none.

    Args:
        model: From `load`, of the task "super-resolution".
        images: uint8 (N, H, W, 3), of any size; sides that the network cannot halve are continued by reflection and
            cut off again.
        seeds: One for each picture, which depends on no other picture of the batch.
        steps: Model evaluations, 1 to as many as the training has timesteps.
        eta: 0..1, fresh noise in each step of "ddim"; None takes 1 there, and 0 with other samplers. With 0 the noise
            at the start alone decides.
        sampler: One of `samplers.SAMPLERS`.
        grid: One of `schedule.GRIDS`, or "auto", see `generate`.
        tile: Side of a tile in pixels of `images`; all tiles are averaged at each step. None takes pictures whole, and
            tiles only where that does not fit into memory, which is said in the log.
        keep_colours: Give the result the low frequencies of `images`: averaged over the pixels that one of `images`
            becomes, it is that one, within half a level, except where it meets black or white. The model may else
            shift colours a little. Not the default, which is what the original gives.
        callback: Called with a `StepInfo` after each step; whatever it raises ends the run.

    Returns:
        uint8 (N, 4 H, 4 W, 3).

    Raises:
        ScheduleError: Steps, eta, sampler or grid out of range.
        InputError: A model of another task, images that are none, or seeds or a tile out of range.
        TooLargeError: More than fits into memory.
        SamplingError: The model gave NaN or infinity.
        CheckpointError: A file of the model was changed since it was loaded.
    """
    begin(model, SUPER_RESOLUTION, "upscale")
    c = low_resolution(images, model.config)
    z = sample_latents(model, seeds, steps, eta_of(sampler, eta), sampler, grid, callback, conditioning=c, tile=tile)
    enlarged = decode_to_uint8(model, z)
    empty_caches(model.first_stage)
    height, width = (side * model.first_stage.downscale for side in images.shape[1:3])
    enlarged = enlarged[:, :height, :width]
    if keep_colours:
        return with_colours_of(c[:, :, : images.shape[1], : images.shape[2]], enlarged)
    return np.ascontiguousarray(enlarged)
