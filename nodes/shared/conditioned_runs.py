"""How nodes draw from a MODEL that sees something beside the noise."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...ldm_backend.kernels.fast_conv import kernel_bytes
from ...ldm_backend.networks.conditioned import Conditioned, check_conditioned
from ...ldm_backend.sampling.samplers import sample_seeds
from ..host.memory import reachable_memory
from ..host.model import ModelPatcher, ldm_model_of, loaded
from ..host.progress import StepsAndTiles
from ..host.vae import LDMVAE


@dataclass(frozen=True)
class Sampling:
    """How a run samples: the inputs of these names, and a seed for each image."""

    seeds: Sequence[int]
    steps: int
    eta: float
    sampler: str
    grid: str


def check_run(task: str, model: ModelPatcher, vae: LDMVAE, size: tuple[int, ...], tile: int | None) -> None:
    """Refuse what cannot be drawn and decoded, before anything is allocated.

    Args:
        task: For the message.
        model: MODEL of this pack.
        vae: Its VAE.
        size: (N, h, w) of the latents.
        tile: Latent cells of a tile's side; None takes the whole, and tiles only where that does not fit into memory.

    Raises:
        InputError: A tile that cannot be one.
        TooLargeError: More than fits into memory.
    """
    inner = ldm_model_of(model)
    unet, config = inner.diffusion_model, inner.ldm_config
    free = reachable_memory(model.load_device) - kernel_bytes(unet)
    images, height, width = size
    latents = torch.Size((images, config.first_stage.z_channels, height, width))
    check_conditioned(task, config, unet.dtype.itemsize, latents, free, tile)
    vae.check_decode(latents)


def run_conditioned(model: ModelPatcher, c: Tensor, run: Sampling, node_id: str | None, tile: int | None) -> Tensor:
    """Draw a latent for each image of a conditioning.

    Args:
        model: MODEL of this pack.
        c: (N, C, h, w) what it sees beside the noise, checked by `check_run`.
        run: With a seed for each image.
        node_id: Node that shows the progress.
        tile: As for `check_run`.

    Returns:
        (N, z, h, w) float32 latents on the model's device.

    Raises:
        LDMError: Steps, eta, sampler or grid out of range, more than fits into memory, or NaN out of the network.
    """
    progress = StepsAndTiles(model, run.steps, node_id)
    sides = [side if tile is None else min(side, tile) for side in c.shape[2:]]
    with loaded(model, torch.Size((*c.shape[:2], *sides))) as inner:
        denoiser = Conditioned(inner.predict, inner.ldm_config, c.to(model.load_device), tile, progress.tile)
        shape = (inner.ldm_config.first_stage.z_channels, c.shape[2], c.shape[3])
        return sample_seeds(
            run.sampler, denoiser, run.seeds, shape, inner.schedule, run.steps,
            device=model.load_device, grid=run.grid, eta=run.eta, callback=progress.step,
        )  # fmt: skip
