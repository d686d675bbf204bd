"""Inpainting with the model that was trained for it: new content in a mask, every other pixel as it was."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from ..conditioning.masked_image import ANY, filled_pixels, masked_image
from ..conditioning.pictures import as_pictures, reflected
from ..config.conditioning import INPAINTING
from ..errors import InputError
from ..kernels.fast_conv import empty_caches
from ..pipeline import LatentDiffusion, decode_to_uint8, sample_latents
from ..sampling.samplers import AUTO, Callback
from ..views.images import as_channels
from .sampling import SAMPLER, STEPS, begin


def inpaint(
    model: LatentDiffusion,
    images: np.ndarray,
    masks: np.ndarray,
    seeds: Sequence[int],
    steps: int = STEPS,
    eta: float = 0.0,
    sampler: str = SAMPLER,
    grid: str = AUTO,
    mask_reduction: str = ANY,
    tile: int | None = None,
    callback: Callback | None = None,
) -> np.ndarray:
    """Make the masked parts of pictures anew, from what is around them.

    The original ran 50 steps of "ddim" with eta 0 and the mask reduction "nearest".

    Args:
        model: From `load`, of the task "inpainting".
        images: uint8 (N, H, W, 3), of any size; sides that the networks cannot halve are continued by reflection and
            cut off again.
        masks: (N, H, W), or (H, W) for all: bool, uint8 or float; 0.5 (128 of 255) and more is made anew.
        seeds: One for each picture, which depends on no other picture of the batch.
        steps: Model evaluations, 1 to as many as the training has timesteps.
        eta: 0..1, fresh noise in each step of "ddim"; 0 is deterministic.
        sampler: One of `samplers.SAMPLERS`.
        grid: One of `schedule.GRIDS`, or "auto", see `generate`.
        mask_reduction: "any" marks a latent cell if one of its pixels is masked; "nearest", the original, only if its
            first pixel is, and so does not see strokes that are thinner than a cell.
        tile: Side of a tile in latent cells; all tiles are averaged at each step, and what is drawn in one sees no
            further than it. None takes pictures whole, and tiles only where that does not fit into memory, which is
            said in the log.
        callback: Called with a `StepInfo` after each step; whatever it raises ends the run.

    Returns:
        uint8 (N, H, W, 3): outside of the mask that of `images`, to the bit. A picture without a masked pixel comes
        back as it is, and nothing is sampled for it.

    Raises:
        ScheduleError: Steps, eta, sampler or grid out of range.
        InputError: A model of another task, images or masks that are none, or seeds or a tile out of range.
        TooLargeError: More than fits into memory.
        SamplingError: The model gave NaN or infinity.
        CheckpointError: A file of the model was changed since it was loaded.
    """
    begin(model, INPAINTING, "inpaint")
    pictures = as_pictures(images, model.config.first_stage.in_channels)
    if images.dtype != np.uint8:
        raise InputError(f"The images are {images.dtype}; expected uint8, so that what is kept stays to the bit.")
    if len(seeds) != len(images):
        raise InputError(f"There are {len(seeds)} seeds for {len(images)} images; expected one for each.")
    filled = filled_pixels(masks, (len(images), *images.shape[1:3]))
    chosen = [index for index, mask in enumerate(filled) if bool(mask.any())]
    result = images.copy()
    if not chosen:
        return result
    unit = model.unet.size_multiple * model.first_stage.downscale
    hole = reflected(filled[chosen][:, None], unit)[:, 0]  # also of what is mirrored the hole must not be seen
    c = masked_image(model.first_stage, reflected(pictures[chosen], unit), hole, mask_reduction)
    taken = [seeds[index] for index in chosen]
    z = sample_latents(model, taken, steps, eta, sampler, grid, callback, conditioning=c, tile=tile)
    made = decode_to_uint8(model, z)
    empty_caches(model.first_stage)
    made = as_channels(torch.from_numpy(made[:, : images.shape[1], : images.shape[2]]), images.shape[3], dim=-1).numpy()
    result[chosen] = np.where(filled[chosen].numpy(force=True)[..., None], made, images[chosen])
    return result
