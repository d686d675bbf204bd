"""Restoring pictures by a model that was trained for nothing but to draw: what is known of them guides a sampler."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from ..conditioning.masked_image import filled_pixels
from ..conditioning.pictures import as_pictures, reflected
from ..config.conditioning import UNCONDITIONAL, check_task
from ..errors import InputError, check_choice
from ..kernels.fast_conv import empty_caches
from ..pipeline import LatentDiffusion, decode_to_uint8, sample_latents
from ..sampling.samplers import AUTO, Callback
from ..views.images import as_channels
from .guided import Guides
from .guides import NETWORK, Projection
from .measurements import Blurred, GreyPicture, KnownPixels, LowResolution, Measurement
from .operators import BOX

UPSCALE, INPAINT, COLOURISE, DEBLUR = "upscale", "inpaint", "colourise", "deblur"
RESTORATIONS = (UPSCALE, INPAINT, COLOURISE, DEBLUR)

STEPS, SAMPLER = 25, "ddim"


def restore(
    model: LatentDiffusion,
    images: np.ndarray,
    seeds: Sequence[int],
    task: str,
    *,
    masks: np.ndarray | None = None,
    factor: int = 4,
    filter: str = BOX,  # noqa: A002 - what Pillow and torch call it
    blur: float | np.ndarray | None = None,
    noise: float = 0.0,
    steps: int = STEPS,
    eta: float | None = None,
    sampler: str = SAMPLER,
    grid: str = AUTO,
    codec: str = NETWORK,
    callback: Callback | None = None,
) -> np.ndarray:
    """Restore pictures of what an unconditional model draws: of faces, with a model of faces.

    Each step decodes the predicted picture, makes it agree with what is known and encodes the change, see
    `guides.Projection`. For models that were trained to enlarge or to inpaint there are `ldm_backend.upscale`
    and `ldm_backend.inpaint`; for other guides, `generate(guides=...)` and `guided.Guides`.

    Args:
        model: From `load`, unconditional.
        images: uint8 (N, H, W, 3), or (N, H, W, 1) of grey ones, of any size; sides that the networks cannot halve are
            continued by reflection and cut off again.
        seeds: One for each picture, which depends on no other picture of the batch.
        task: One of RESTORATIONS: "upscale" makes the sides `factor` times as large; "inpaint" makes the masked parts
            anew; "colourise" finds colours for grey levels; "deblur" undoes `blur`.
        masks: For "inpaint": (N, H, W), or (H, W) for all: bool, uint8 or float; 0.5 (128 of 255) and more is made
            anew.
        factor: For "upscale", 1 or more.
        filter: For "upscale": how the pictures were made smaller, "box" or "bicubic".
        blur: For "deblur": the kernel (h, w), or the sigma of a Gaussian in pixels.
        noise: Standard deviation of the noise in `images`, for pictures from 0 to 1. With 0 the result copies what
            there is of noise and of JPEG's artefacts.
        steps: Model evaluations, 1 to as many as the training has timesteps.
        eta: 0..1, fresh noise in each step of "ddim"; None takes 1 there, which lets later steps repair earlier ones.
        sampler: One of `samplers.SAMPLERS`.
        grid: One of `schedule.GRIDS`, or "auto", see `generate`.
        codec: "network", or the cheap "linear", see `Projection`.
        callback: Called with a `StepInfo` after each step; whatever it raises ends the run.

    Returns:
        uint8 (N, H, W, C), for "upscale" (N, factor H, factor W, C), C as the model's pictures have. Inpainted without
        noise, every known pixel is that of `images`.

    Raises:
        ScheduleError: Steps, eta, sampler or grid out of range.
        InputError: A model of another task, images or settings that do not fit to the task, an empty mask, or seeds out
            of range.
        TooLargeError: More than fits into memory.
        SamplingError: The model gave NaN or infinity.
        CheckpointError: A file of the model was changed since it was loaded.
    """
    _check(model, images, seeds, task, masks, blur)
    scale = factor if task == UPSCALE and isinstance(factor, int) and factor > 0 else 1
    unit = model.unet.size_multiple * model.first_stage.downscale
    grown = _grown(images, unit // math.gcd(unit, scale))
    filled = None if masks is None else filled_pixels(masks, (len(images), *images.shape[1:3])).numpy(force=True)
    known: Measurement
    if task == UPSCALE:
        known = LowResolution(grown, factor, filter, noise=noise)
    elif filled is not None:
        known = KnownPixels(grown, _grown(filled[..., None], unit)[..., 0], noise=noise)
    elif blur is not None:
        known = Blurred(grown, blur, noise=noise)
    else:
        known = GreyPicture(grown, noise=noise)
    z = sample_latents(
        model, seeds, steps, _eta_of(eta, sampler), sampler, grid, callback,
        height=grown.shape[1] * scale, width=grown.shape[2] * scale, guides=Guides(Projection(known, codec=codec)),
    )  # fmt: skip
    made = decode_to_uint8(model, z)[:, : images.shape[1] * scale, : images.shape[2] * scale]
    empty_caches(model.first_stage)
    if filled is not None and not noise:
        original = as_channels(torch.from_numpy(images), made.shape[3], dim=-1).numpy()
        made = np.where(filled[..., None], made, original)
    return np.ascontiguousarray(made)


def _check(
    model: LatentDiffusion,
    images: np.ndarray,
    seeds: Sequence[int],
    task: str,
    masks: np.ndarray | None,
    blur: float | np.ndarray | None,
) -> None:
    check_choice("task", task, RESTORATIONS, InputError)
    check_task(model.task, UNCONDITIONAL, "restore")
    as_pictures(images, model.config.first_stage.in_channels)
    if images.dtype != np.uint8:
        raise InputError(f"The images are {images.dtype}; expected uint8.")
    if len(seeds) != len(images):
        raise InputError(f"There are {len(seeds)} seeds for {len(images)} images; expected one for each.")
    if (task == INPAINT) != (masks is not None) or (task == DEBLUR) != (blur is not None):
        given = " and ".join(name for name, value in (("masks", masks), ("blur", blur)) if value is not None)
        raise InputError(
            f"task is {task} with {given or 'neither masks nor blur'}; expected masks for inpaint, blur for deblur, "
            "and neither for the others."
        )


def _eta_of(eta: float | None, sampler: str) -> float:
    if eta is not None:
        return eta
    return 1.0 if sampler == SAMPLER else 0.0


def _grown(images: np.ndarray, multiple: int) -> np.ndarray:
    """(N, H, W, C), continued by reflection at the right and at the bottom."""
    channels_first = torch.from_numpy(np.ascontiguousarray(images)).movedim(-1, 1)
    return reflected(channels_first, multiple).movedim(1, -1).numpy()
