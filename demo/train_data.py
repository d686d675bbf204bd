"""The drawn data set, cached in the work folder."""

from __future__ import annotations

import logging
import os
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from portraits import draw_portrait
from torch import Tensor

SIZE = 128  # pixels a side: the smallest at which an eye spans several latent cells of 4 x 4 pixels
COUNT = 20_000  # portraits: about ten epochs of them fit the time, too few for so small a model to memorise any
HELD_OUT = 256  # drawn from seeds after the training portraits; they only measure

log = logging.getLogger("comfyui_ldm.demo")


def load_portraits(work: Path, first: int, count: int, size: int = SIZE) -> np.ndarray:
    """Returns the portraits of seeds `first` .. `first + count - 1`, uint8 (count, size, size, 3), drawn once.

    The file is mapped into memory, not read.
    """
    path = work / f"portraits-{size}-{first}-{count}.npy"
    if not path.is_file():
        log.info("drawing %d portraits into %s", count, path)
        unfinished = path.with_suffix(".part")
        images = np.lib.format.open_memmap(unfinished, mode="w+", dtype=np.uint8, shape=(count, size, size, 3))
        draw = partial(draw_portrait, size=size)
        with get_context("spawn").Pool(os.cpu_count()) as pool:
            for i, image in enumerate(pool.imap(draw, range(first, first + count), chunksize=64)):
                images[i] = image
        images.flush()
        os.replace(unfinished, path)
    return np.load(path, mmap_mode="r")


def to_tensor(images: np.ndarray) -> Tensor:
    """Converts uint8 (N, H, W, 3) to float32 (N, 3, H, W) in [-1, 1]."""
    return torch.from_numpy(images.astype(np.float32) / 127.5 - 1).permute(0, 3, 1, 2).contiguous()
