"""Noise from one seed an image, always drawn on the CPU, never from the global generator.

So image i of a batch is the picture of its own seed, whatever the batch size, the order, the device or the machine.
The first draw of a seed is x_T; later draws of the same generator are the noise of the steps, which is what diffusers
gives for one image when the same generator is passed to the initial draw and to `scheduler.step`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from ..errors import InputError

MAX_SEED = 2**64 - 1


def seeds_of(seed: int, batch_index: Iterable[int]) -> list[int]:
    """Seed of each image of a batch: seed + index, continuing at 0 after the largest seed."""
    return [(seed + int(index)) % (MAX_SEED + 1) for index in batch_index]


def _generators(seeds: Sequence[int]) -> list[torch.Generator]:
    for seed in seeds:
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed <= MAX_SEED:
            raise InputError(f"seed is {seed!r}; expected a whole number from 0 to 2**64 - 1.")
    return [torch.Generator("cpu").manual_seed(seed) for seed in seeds]


def _draw(generators: list[torch.Generator], shape: tuple[int, int, int]) -> Tensor:
    return torch.stack([torch.randn(shape, generator=generator) for generator in generators])


def draw_noise(seeds: Sequence[int], shape: tuple[int, int, int]) -> Tensor:
    """x_T of each seed.

    Args:
        seeds: One for each image, 0..2**64-1; at least one.
        shape: (C, H, W) of one latent.

    Returns:
        (N, C, H, W) float32 standard normal on the CPU; row i equals `torch.randn` after `torch.manual_seed(seeds[i])`.

    Raises:
        InputError: No seeds, or one out of range.
    """
    if not seeds:
        raise InputError("seeds is empty; give at least one seed.")
    return _draw(_generators(seeds), shape)


def add_noise(x_0: Tensor, noise: Tensor, alpha_cumprod: float) -> Tensor:
    """A sample of the forward process q(x_t | x_0).

    Args:
        x_0: (N, C, H, W) clean latents, or less noisy ones where `alpha_cumprod` is the ratio of the two levels.
        noise: (N, C, H, W) standard normal, on the same device.
        alpha_cumprod: Of t, 0..1.

    Returns:
        (N, C, H, W) sqrt(alpha_cumprod) * x_0 + sqrt(1 - alpha_cumprod) * noise.

    Source: DDPM (arXiv 2006.11239) eq. 4.
    """
    return math.sqrt(alpha_cumprod) * x_0 + math.sqrt(1.0 - alpha_cumprod) * noise


class StepNoise:
    """The draws of each seed that follow x_T, one call a step; needed when eta > 0.

    Args:
        seeds, shape: As for `draw_noise`.
    """

    def __init__(self, seeds: Sequence[int], shape: tuple[int, int, int]) -> None:
        self._shape = shape
        self._generators = _generators(seeds)
        _draw(self._generators, shape)  # x_T, drawn elsewhere

    def __call__(self) -> Tensor:
        """(N, C, H, W) float32 on the CPU, new at each call."""
        return _draw(self._generators, self._shape)
