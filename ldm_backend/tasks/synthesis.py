"""Semantic synthesis: maps of labels to pictures."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ..conditioning.segmentation import as_labels
from ..config.conditioning import SEMANTIC_SYNTHESIS, SegmentationConfig
from ..errors import InputError
from ..kernels.fast_conv import empty_caches
from ..memory.sizes import latent_size
from ..pipeline import LatentDiffusion, decode_to_uint8, sample_latents
from ..sampling.samplers import AUTO, Callback
from .sampling import SAMPLER, STEPS, begin


def synthesise(
    model: LatentDiffusion,
    labels: np.ndarray,
    seeds: Sequence[int],
    steps: int = STEPS,
    eta: float = 0.0,
    sampler: str = SAMPLER,
    grid: str = AUTO,
    tile: int | None = None,
    callback: Callback | None = None,
) -> np.ndarray:
    """Draw pictures of what maps of labels say, of any size that the networks can halve.

    Which number stands for what in the released models was never published, see `conditioning.segmentation`. Users of
    the original ran 200 steps of "ddim" with eta 1.

    Args:
        model: From `load`, of the task "semantic-synthesis".
        labels: (N, H, W) or (H, W) whole numbers, below the number of labels that the model knows. Colours become
            labels by `conditioning.segmentation.labels_from_colours`.
        seeds: One for each map, whose picture depends on no other of the batch. One map is drawn once for each seed.
        steps: Model evaluations, 1 to as many as the training has timesteps.
        eta: 0..1, fresh noise in each step of "ddim"; 0 is deterministic.
        sampler: One of `samplers.SAMPLERS`.
        grid: One of `schedule.GRIDS`, or "auto", see `generate`.
        tile: Side of a tile in latent cells; all tiles are averaged at each step. None takes pictures whole, and tiles
            only where that does not fit into memory, which is said in the log.
        callback: Called with a `StepInfo` after each step; whatever it raises ends the run.

    Returns:
        uint8 (N, H, W, 3).

    Raises:
        ScheduleError: Steps, eta, sampler or grid out of range.
        InputError: A model of another task, labels that the model does not know, sides that the networks cannot halve,
            or seeds or a tile out of range.
        TooLargeError: More than fits into memory.
        SamplingError: The model gave NaN or infinity.
        CheckpointError: A file of the model was changed since it was loaded.
    """
    begin(model, SEMANTIC_SYNTHESIS, "synthesise")
    c = label_channels(model, labels)
    if len(c) == 1:
        c = c.expand(len(seeds), -1, -1, -1)
    z = sample_latents(model, seeds, steps, eta, sampler, grid, callback, conditioning=c, tile=tile)
    images = decode_to_uint8(model, z)
    empty_caches(model.first_stage)
    return images


@torch.no_grad()
def label_channels(model: LatentDiffusion, labels: np.ndarray | Tensor) -> Tensor:
    """What the UNet of a semantic synthesis sees beside the noise.

    Args:
        model: From `load`, of the task "semantic-synthesis".
        labels: As for `synthesise`.

    Returns:
        (N, C, h, w) float32 on the model's device.

    Raises:
        InputError: As `synthesise`.
    """
    config, conditioner = model.config.conditioning, model.conditioner
    if not isinstance(config, SegmentationConfig) or conditioner is None:
        raise InputError(
            f"The model takes no map of labels, its task is {model.config.task}; load one for semantic synthesis."
        )
    found = as_labels(labels, config.n_labels)
    latent_size(model.config, *found.shape[1:])  # refuses other sides
    return conditioner(found.to(model.device))
