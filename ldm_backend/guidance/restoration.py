"""Restoring pictures by a model that was trained for nothing but to draw: what is known of them guides a sampler."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from ..conditioning.pictures import as_pictures, reflected
from ..config.conditioning import UNCONDITIONAL, check_task
from ..errors import InputError, check_choice
from ..kernels.fast_conv import empty_caches
from ..pipeline import LatentDiffusion, decode_to_uint8, sample_latents
from ..sampling.samplers import AUTO, Callback, eta_of
from ..views.images import as_channels, from_uint8, to_uint8
from .guided import Guides
from .guides import NETWORK, Projection
from .measurements import Blurred, GreyPicture, KnownPixels, LowResolution, Measurement, holes, kernel_for
from .operators import BOX
from .space import Space

UPSCALE, INPAINT, COLOURISE, DEBLUR = "upscale", "inpaint", "colourise", "deblur"
RESTORATIONS = (UPSCALE, INPAINT, COLOURISE, DEBLUR)

STEPS, SAMPLER, FACTOR = 25, "ddim", 4
_HALF_LEVEL = 0.5 / 127.5  # of a picture in [-1, 1]


def restore(
    model: LatentDiffusion,
    images: np.ndarray,
    seeds: Sequence[int],
    task: str,
    *,
    masks: np.ndarray | None = None,
    factor: int = FACTOR,
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
    `guides.Projection`. At the end the decoded picture is made to agree once more, since the first stage loses some of
    that, unless there is noise in what is known. For models that were trained to enlarge or to inpaint there are
    `ldm_backend.upscale` and `ldm_backend.inpaint`; for other guides, `generate(guides=...)` and `guided.Guides`.

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
        uint8 (N, H, W, C), for "upscale" (N, factor H, factor W, C), C as the model's pictures have. Without noise it
        agrees with what is known to about a level; inpainted, every known pixel is that of `images`.

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
    filled = None if masks is None else holes(masks, (len(images), *images.shape[1:3])).numpy(force=True)
    hole = None if filled is None else _grown(filled[..., None], unit)[..., 0]
    known = _measurement(task, grown, hole, factor, filter, blur, noise)
    z = sample_latents(
        model, seeds, steps, eta_of(sampler, eta), sampler, grid, callback,
        height=grown.shape[1] * scale, width=grown.shape[2] * scale, guides=Guides(Projection(known, codec=codec)),
    )  # fmt: skip
    made = decode_to_uint8(model, z)
    empty_caches(model.first_stage)
    if filled is None and not noise:
        made = _agreeing(model, made, known)
    made = made[:, : images.shape[1] * scale, : images.shape[2] * scale]
    if filled is not None and not noise:
        original = as_channels(torch.from_numpy(images), made.shape[3], dim=-1).numpy()
        made = np.where(filled[..., None], made, original)
    return np.ascontiguousarray(made)


def check_settings(
    task: str, factor: int = FACTOR, filter: str = BOX, blur: float | None = None, noise: float = 0.0,  # noqa: A002
    codec: str = NETWORK,
) -> None:  # fmt: skip
    """Refuse what no picture could be restored with, before there is one. Arguments are those of `restore`.

    Raises:
        InputError: One is out of range.
    """
    check_choice("task", task, RESTORATIONS, InputError)
    nothing = np.zeros((0, 0))
    known = _measurement(task, nothing, nothing if task == INPAINT else None, factor, filter, blur, noise)
    Projection(known, codec=codec)


def _measurement(
    task: str,
    images: np.ndarray,
    filled: np.ndarray | None,
    factor: int,
    filter: str,  # noqa: A002
    blur: float | np.ndarray | None,
    noise: float,
) -> Measurement:
    if task == UPSCALE:
        return LowResolution(images, factor, filter, noise=noise)
    if filled is not None:
        return KnownPixels(images, filled, noise=noise)
    if blur is not None:
        return Blurred(images, blur, noise=noise)
    return GreyPicture(images, noise=noise)


def _agreeing(model: LatentDiffusion, made: np.ndarray, known: Measurement) -> np.ndarray:
    """Pictures that agree with what is known, as far as levels of uint8 can: rounded, where a decoder's are cut."""
    x = from_uint8(made).to(model.device)
    bound = known.bound(Space(model.first_stage, *made.shape[:3]))
    return to_uint8(x + bound.correction(x) + _HALF_LEVEL)


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
    if blur is not None:
        kernel_for(blur, *images.shape[1:3])  # which are grown before they are restored


def _grown(images: np.ndarray, multiple: int) -> np.ndarray:
    """(N, H, W, C), continued by reflection at the right and at the bottom."""
    channels_first = torch.from_numpy(np.ascontiguousarray(images)).movedim(-1, 1)
    return reflected(channels_first, multiple).movedim(1, -1).numpy()
