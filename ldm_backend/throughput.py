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


def best_batch(checkpoint: Checkpoint, device: torch.device, itemsize: int) -> int:
    """How many images of the training size to sample together.

    Args:
        checkpoint: Not loaded yet.
        device: Where it will be.
        itemsize: Bytes of a number in the UNet.

    Returns:
        1 or more: as many as fit into the memory that is free now, and no more than make the rate grow.
    """
    config = checkpoint.config
    cells = config.unet.sample_size
    side = cells * config.vq.downscale
    weights = sum(4 * tensor.numel() for part in (checkpoint.unet, checkpoint.first_stage) for tensor in part.values())
    free = free_bytes(device) - _NETWORKS * weights

    def fits(images: int) -> bool:
        work = max(
            sampling_bytes(config, (images, side, side), images, itemsize), decoder_bytes(config.vq, 1, cells, cells)
        )
        return work + image_bytes(images, side, side) <= free

    return max(1, largest(_ENOUGH.get(device.type, 1), fits))
