"""The batch that makes the most images a second."""

from __future__ import annotations

import torch

from .checkpoints.checkpoint import Checkpoint
from .memory.estimates import decoder_bytes, image_bytes, largest, sampling_bytes
from .memory.free_memory import free_bytes

# From here on larger batches gained nothing on the CPU: `benchmarks/batch.py`, on the demo. The number for graphics
# cards is not measured; there memory is what decides.
_ENOUGH = {"cpu": 8, "cuda": 64}

# Of the weights' bytes: the file's pages while they are read, and transformed kernels.
_NETWORKS = 3


def best_batch(checkpoint: Checkpoint, device: torch.device, itemsize: int, size: tuple[int, int] | None = None) -> int:
    """How many images to sample together.

    Args:
        checkpoint: Not loaded yet.
        device: Where it will be.
        itemsize: Bytes of a number in the UNet.
        size: Of the images in latent cells, high and wide; None is the training size.

    Returns:
        1 or more: as many as fit into the memory that is free now, and no more than make the rate grow.
    """
    config = checkpoint.config
    rows, columns = size or (config.unet.sample_size, config.unet.sample_size)
    height, width = rows * config.first_stage.downscale, columns * config.first_stage.downscale
    parts = (checkpoint.unet, checkpoint.first_stage, checkpoint.conditioner)
    weights = sum(4 * tensor.numel() for part in parts for tensor in part.values())
    free = free_bytes(device) - _NETWORKS * weights

    def fits(images: int) -> bool:
        work = max(
            sampling_bytes(config, (images, height, width), images, itemsize),
            decoder_bytes(config.first_stage, 1, rows, columns),
        )
        return work + image_bytes(images, height, width) <= free

    return max(1, largest(_ENOUGH.get(device.type, 1), fits))
