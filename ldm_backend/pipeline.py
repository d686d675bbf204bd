"""checkpoint -> noise -> latents -> image, wired for use without a host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .checkpoints.checkpoint import load_into, read_checkpoint
from .checkpoints.compvis import build_first_stage
from .checkpoints.file_marks import FileMark
from .checkpoints.hub import local_path
from .config.model import LDMConfig
from .kernels.fast_conv import empty_caches, kernel_bytes
from .memory.chunks import Chunks
from .memory.estimates import Size, check_fits, image_bytes, sampling_bytes, unet_bytes
from .memory.free_memory import free_bytes
from .memory.mapped import release_pages
from .networks import skip_init
from .networks.decoding import decoded
from .networks.deep_cache import DeepCache
from .networks.kl import KLModel
from .networks.precision import resolve, set_first_stage_precision, set_precision
from .networks.unet import UNet
from .networks.vq import VQModel
from .sampling.noise import StepNoise, draw_noise
from .sampling.samplers import Callback, EpsModel, adds_noise, sample
from .sampling.schedule import Schedule
from .views.images import to_uint8


@dataclass(frozen=True)
class LatentDiffusion:
    """A loaded model: `unet(x, t)` returns eps, `vq.decode(z)` NCHW in [-1, 1]; both are on `device`.

    Attributes:
        files: What the weights were read from, and may still be mapped from.
    """

    unet: UNet
    vq: VQModel | KLModel
    schedule: Schedule
    config: LDMConfig
    device: torch.device
    files: tuple[FileMark, ...] = ()


def load(
    path: str | Path,
    device: str | torch.device | None = None,
    *,
    weights: str = "auto",
    config: LDMConfig | str | Path | None = None,
    scale_factor: float | None = None,
    precision: str = "fp32",
    first_stage_precision: str = "fp32",
    compiled: bool = False,
) -> LatentDiffusion:
    """Load a checkpoint.

    Args:
        path: Hugging Face folder, CompVis checkpoint or single file; see `read_checkpoint`. A name like
            "CompVis/ldm-celebahq-256" that is no path is taken from the Hugging Face hub, its local cache first.
        device: Where the networks go; None takes CUDA where there is one, else the CPU.
        weights: "ema" or "raw" where the file holds both; "auto" takes EMA where present.
        config: For files that come without: a configuration, the name of a preset, or the path of a CompVis YAML.
        scale_factor: Replaces that of the configuration, for a model trained with another.
        precision: Of the UNet, one of `precision.PRECISIONS`; fp32 is exact.
        first_stage_precision: Of encoder and decoder, one of `precision.FIRST_STAGE_PRECISIONS`; fp32 is exact.
        compiled: Make the UNet faster at the cost of its first evaluation and memory, see `UNet.compile_evaluation`.

    Raises:
        CheckpointError: Missing, damaged, refused or unfitting files.
        ConfigError: Not this family, a configuration is needed, or unknown precision.
    """
    target = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    unet_format = resolve(precision, target)
    checkpoint = read_checkpoint(local_path(path), weights, config, scale_factor)
    files = tuple(FileMark.of(file) for file in {checkpoint.unet_file, checkpoint.first_stage_file})
    unet = UNet(checkpoint.config.unet, skip_init, device="meta")
    first_stage = build_first_stage(checkpoint.config.vq, skip_init, device="meta")
    load_into(unet, checkpoint.unet, checkpoint.unet_file)
    load_into(first_stage, checkpoint.first_stage, checkpoint.first_stage_file)
    set_precision(unet, unet_format)
    set_first_stage_precision(first_stage, first_stage_precision)
    release_pages([*unet.parameters(), *first_stage.parameters()])  # checking has read all of them, the encoder's too
    if compiled:
        unet.compile_evaluation()
    schedule = Schedule(checkpoint.config.schedule)
    return LatentDiffusion(unet.to(target), first_stage.to(target), schedule, checkpoint.config, target, files)


def generate(
    model: LatentDiffusion,
    seeds: Sequence[int] = (3,),
    steps: int = 200,
    eta: float = 0.0,
    sampler: str = "ddim",
    grid: str = "leading",
    callback: Callback | None = None,
    cache_interval: int = 1,
    cache_depth: int = 1,
) -> np.ndarray:
    """Draw one image for each seed; the defaults are the model card's recipe.

    Args:
        model: From `load`.
        seeds: One for each image; all are sampled as one batch, in parts where memory is short, and none depends on
            its neighbours.
        steps: Model evaluations, 1..1000.
        eta: 0..1, fresh noise in each step of "ddim"; 0 is deterministic.
        sampler: One of `samplers.SAMPLERS`.
        grid: One of `schedule.GRIDS`, see `Schedule.timesteps`.
        callback: Called with a `StepInfo` after each step; whatever it raises ends the run.
        cache_interval: 1 evaluates the whole network at each step; above, see `DeepCache`: faster, another picture.
        cache_depth: Levels that run at each step nevertheless, 1..levels; counts only with an interval above 1.

    Returns:
        uint8 (N, H, W, 3) at the training size.

    Raises:
        ScheduleError: Steps, eta, sampler or grid out of range.
        InputError: No seeds, or a seed or cache setting out of range.
        TooLargeError: More than fits into memory.
        SamplingError: The model gave NaN or infinity.
        CheckpointError: A file of the model was changed since it was loaded.
    """
    z = sample_latents(model, seeds, steps, eta, sampler, grid, callback, cache_interval, cache_depth)
    images = decode_to_uint8(model, z)
    empty_caches(model.vq)
    return images


def sample_latents(
    model: LatentDiffusion,
    seeds: Sequence[int],
    steps: int,
    eta: float = 0.0,
    sampler: str = "ddim",
    grid: str = "leading",
    callback: Callback | None = None,
    cache_interval: int = 1,
    cache_depth: int = 1,
) -> Tensor:
    """What `generate` decodes; its arguments and errors.

    Returns:
        (N, C, h, w) float32 latents on the model's device.
    """
    for file in model.files:
        file.check()
    check_memory(model, len(seeds), whole=cache_interval > 1)
    eps_model = evaluation(model) if cache_interval == 1 else DeepCache(model.unet, cache_interval, cache_depth)
    noisy = adds_noise(sampler, eta)
    pairs = model.schedule.timesteps(steps, grid)
    size = model.config.unet.sample_size
    shape = (model.config.unet.in_channels, size, size)
    x_T = draw_noise(seeds, shape).to(model.device)  # noqa: N806 - the papers' name
    step_noise = StepNoise(seeds, shape) if noisy else None
    try:
        return sample(sampler, eps_model, x_T, model.schedule, pairs, eta=eta, step_noise=step_noise, callback=callback)
    finally:
        empty_caches(model.unet)


def check_memory(model: LatentDiffusion, images: int, whole: bool = False) -> None:
    """Refuse a batch that cannot be sampled, before anything is allocated.

    Args:
        model: From `load`.
        images: In the batch.
        whole: The network cannot take it in parts.

    Raises:
        TooLargeError: With the largest batch that fits.
    """
    config, itemsize = model.config, model.unet.dtype.itemsize
    side = config.unet.sample_size * config.vq.downscale
    kernels = kernel_bytes(model.unet)

    def cost(n: int, height: int, width: int) -> int:
        return sampling_bytes(config, (n, height, width), n if whole else 1, itemsize) + image_bytes(n, height, width)

    check_fits("Sampling", Size(images, side, side), cost, free_bytes(model.device) - kernels, side)


def evaluation(model: LatentDiffusion) -> EpsModel:
    """The UNet as a sampler calls it; a batch that does not fit into memory goes through it in parts."""
    chunks, unet = Chunks("UNet"), model.unet

    def predict(x_t: Tensor, t: float) -> Tensor:
        return chunks.whole(
            lambda part: unet(x_t[part], t),
            x_t.shape,
            x_t.device,
            lambda n: unet_bytes(unet.config, n, x_t.shape[2], x_t.shape[3], unet.dtype.itemsize),
        )

    return predict


@torch.no_grad()
def decode_to_uint8(model: LatentDiffusion, z: Tensor) -> np.ndarray:
    """Quantise and decode (N, C, h, w) latents to uint8 (N, H, W, 3).

    On the CPU one by one: the decoder needs the most memory, and together they would be no faster there.

    Raises:
        TooLargeError: Not even tiles of an image fit into memory.
        CheckpointError: As `generate`.
    """
    for file in model.files:
        file.check()
    parts = decoded(model.vq, z, model.device, Chunks("Decoder"), at_most=1)
    return np.concatenate([to_uint8(images) for _, images in parts])
