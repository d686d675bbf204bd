"""RePaint (Lugmayr et al., arXiv 2201.09865): new content inside a mask, from a model that was not trained for it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import reduce

import torch
from torch import Tensor
from torch.nn.functional import max_pool2d, pad

from ..errors import InputError, ScheduleError
from ..sampling.noise import add_noise
from ..sampling.samplers import Callback, Denoiser, Evaluations, NoiseSource, StepInfo, ddim_coefficients, drawn_ahead
from ..sampling.schedule import Pairs, Schedule


@dataclass(frozen=True)
class Move:
    """One move along the timesteps: a denoising step where t_prev comes after t, else a jump back to more noise."""

    t: float
    t_prev: float
    down: bool


def repaint_moves(pairs: Pairs, jump_length: int, resamples: int) -> list[Move]:
    """The way of a run: each stretch of `jump_length` steps is gone through `resamples` times, with jumps back between.

    Args:
        pairs: (t, t_prev) for each step, noisiest first, from `Schedule.timesteps`.
        jump_length: Steps in a stretch, 1 or more; the last stretch may be shorter.
        resamples: Passes through each stretch, 1 (no jumps) or more.

    Returns:
        `len(pairs) * resamples` steps down, one after the other, and the jumps between them.

    Raises:
        ScheduleError: jump_length or resamples below 1.

    Source: RePaint algorithm 1 and its appendix on jumps. There the steps closest to the clean image and to pure noise
        are gone through once; here all stretches are treated alike, so that the number of evaluations is plain.
    """
    for name, value in (("jump_length", jump_length), ("resamples", resamples)):
        if value < 1:
            raise ScheduleError(f"{name} is {value!r}; expected 1 or more.")
    moves: list[Move] = []
    for start in range(0, len(pairs), jump_length):
        stretch = [Move(t, t_prev, down=True) for t, t_prev in pairs[start : start + jump_length]]
        jump = Move(stretch[-1].t_prev, stretch[0].t, down=False)
        moves += stretch + (resamples - 1) * [jump, *stretch]
    return moves


@torch.no_grad()
def inpaint(
    denoiser: Denoiser,
    x_T: Tensor,
    x_0: Tensor,
    mask: Tensor,
    schedule: Schedule,
    moves: list[Move],
    step_noise: NoiseSource,
    callback: Callback | None = None,
) -> Tensor:
    """Fill the masked cells of x_0 so that they fit to the others.

    Args:
        denoiser: The network, see `step.Denoiser`.
        x_T: (N, C, H, W) standard normal start, on the device to work on.
        x_0: (N, C, H, W) clean latents, likewise.
        mask: (N, 1, H, W) bool, True for cells to fill, likewise.
        schedule: tables.
        moves: From `repaint_moves`.
        step_noise: Gives (N, C, H, W) fresh noise for each move.
        callback: Called after each evaluation; whatever it raises ends the run.

    Returns:
        (N, C, H, W) float32 latents, equal to x_0 outside of the mask.

    Raises:
        SamplingError: The model gave NaN or infinity.

    Source: RePaint eq. 8: unknown cells by the DDPM posterior (DDIM with eta 1), known ones from q(x_t | x_0).
    """
    x_0, x_t = x_0.float(), x_T.float()
    evaluations = sum(move.down for move in moves)
    index = 0
    draws = drawn_ahead(step_noise, x_t.device, len(moves))
    with Evaluations(denoiser, schedule, evaluations) as model, draws as draw:
        for move in moves:
            a_t, a_prev = schedule.alpha_cumprod(move.t), schedule.alpha_cumprod(move.t_prev)
            noise = draw()
            if not move.down:
                x_t = add_noise(x_t, noise, a_prev / a_t)
                continue
            c = ddim_coefficients(a_t, a_prev, eta=1.0)
            pred_x0, eps = model.predict(x_t, move.t, index)
            unknown = c.signal_prev * pred_x0 + c.direction * eps + c.std_dev_t * noise
            # One draw serves both: each cell uses it once.
            x_t = torch.where(mask, unknown, add_noise(x_0, noise, a_prev))
            if callback is not None:
                callback(StepInfo(index, evaluations, move.t, x_t, torch.where(mask, pred_x0, x_0)))
            index += 1
    return torch.where(mask, x_t, x_0)  # a grid may end above a clean image, at timestep 0


def latent_mask(mask: Tensor, shape: torch.Size, downscale: int) -> Tensor:
    """The latent cells to fill: all that hold a masked pixel, however faint.

    Args:
        mask: (N, H, W), (1, H, W) or (H, W) in 0..1, at the image's size.
        shape: (N, C, h, w) of the latent.
        downscale: Pixels to a latent cell, along one side.

    Returns:
        (N, 1, h, w) bool, on the mask's device.

    Raises:
        InputError: The mask has another size than the latent's image, or does not fit the batch.
    """
    images, height, width = shape[0], shape[2] * downscale, shape[3] * downscale
    if mask.ndim not in (2, 3) or tuple(mask.shape[-2:]) != (height, width):
        raise InputError(
            f"The mask has shape {tuple(mask.shape)}; the latent is of images {width} pixels wide and {height} high, "
            f"so expected (N, {height}, {width}). Crop or resize image and mask in the same way. (Load Image gives an "
            "empty mask of 64x64 for a picture that has none: paint one with Open in MaskEditor.)"
        )
    masks = len(mask) if mask.ndim == 3 else 1
    if masks not in (1, images):
        raise InputError(f"There are {masks} masks for {images} latents; expected 1 or {images}.")
    masked = (mask > 0).float().reshape(-1, 1, height, width)
    return (max_pool2d(masked, downscale) > 0).expand(images, -1, -1, -1)


def composite(image: Tensor, inpainted: Tensor, mask: Tensor, feather: int = 0) -> Tensor:
    """The inpainted picture inside the mask, the original, to the bit, outside of it.

    Args:
        image: (N, H, W, C) original, on the device to work on.
        inpainted: (N, H, W, C) new content, anywhere.
        mask: (N, H, W) or (H, W) in 0..1, anywhere.
        feather: Pixels inside the mask over which the original fades out, 0 or more; nothing outside changes.

    Returns:
        (N, H, W, C) on the device of `image`; where one input has a single image, it serves for all of the others.

    Raises:
        InputError: Sizes, channels or batches differ, or feather is negative.
    """
    mask = mask.reshape(-1, *mask.shape[-2:])
    if len({image.shape[1:3], inpainted.shape[1:3], mask.shape[1:]}) > 1 or image.shape[3] != inpainted.shape[3]:
        raise InputError(
            f"image has shape {tuple(image.shape)}, inpainted {tuple(inpainted.shape)} and mask {tuple(mask.shape)}; "
            "expected the same height, width and channels. Give the picture that was encoded and the mask that was "
            "painted on it."
        )
    batches = {len(image), len(inpainted), len(mask)} - {1}
    if len(batches) > 1:
        raise InputError(
            f"image holds {len(image)} pictures, inpainted {len(inpainted)} and mask {len(mask)}; expected the same "
            "number, or one that serves for all."
        )
    if feather < 0:
        raise InputError(f"feather is {feather}; expected 0 (a hard edge) or more pixels.")
    inpainted, mask = inpainted.to(image.device), mask.to(image.device)
    weight = mask.clamp(0.0, 1.0)
    if feather:
        weight = weight * (distance_inside(mask > 0, feather + 1) / (feather + 1))
    weight = weight.unsqueeze(-1)
    return image * (1.0 - weight) + inpainted * weight


def distance_inside(mask: Tensor, limit: int) -> Tensor:
    """How far each masked pixel is from the nearest unmasked one, in pixels.

    Args:
        mask: (N, H, W) bool. Beyond the border nothing counts as unmasked.
        limit: Largest distance that is told apart, 1 or more.

    Returns:
        (N, H, W) float32 Euclidean distance, 0 outside of the mask, at most `limit`.
    """
    # Exact squared distance, one axis after the other: along the rows first, then the best of the rows nearby.
    squared = torch.where(mask, torch.inf, 0.0)
    for axis in (-1, -2):
        squared = reduce(torch.minimum, _shifted(squared, limit, axis))
    return squared.sqrt().clamp(max=limit)


def _shifted(squared: Tensor, limit: int, axis: int) -> Iterator[Tensor]:
    """`squared` moved by -limit..limit along an axis, plus the square of the move."""
    around = (limit, limit) if axis == -1 else (0, 0, limit, limit)
    padded = pad(squared, around, value=torch.inf)
    length = squared.shape[axis]
    for move in range(2 * limit + 1):
        yield padded.narrow(axis, move, length) + (move - limit) ** 2
