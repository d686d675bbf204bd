"""checkpoint -> noise -> latents -> image, wired for use without a host."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from . import uninitialised
from .checkpoint import load_into, read_checkpoint
from .compvis import build_first_stage
from .config import LDMConfig
from .deep_cache import DeepCache
from .fast_conv import rest
from .hub import local_path
from .images import to_uint8
from .kl import KLModel
from .mapped import let_go
from .noise import StepNoise, draw_noise
from .precision import resolve, set_precision
from .samplers import Callback, adds_noise, sample
from .schedule import Schedule
from .unet import UNet
from .vq import VQModel


@dataclass(frozen=True)
class LatentDiffusion:
    """A loaded model: `unet(x, t)` returns eps, `vq.decode(z)` NCHW in [-1, 1]; both are on `device`."""

    unet: UNet
    vq: VQModel | KLModel
    schedule: Schedule
    config: LDMConfig
    device: torch.device


def load(
    path: str | Path,
    device: str | torch.device | None = None,
    *,
    weights: str = "auto",
    config: LDMConfig | str | Path | None = None,
    scale_factor: float | None = None,
    precision: str = "fp32",
    compiled: bool = False,
) -> LatentDiffusion:
    """Load a checkpoint.

    Args:
        path: Hugging Face folder, CompVis checkpoint or single file; see `read_checkpoint`. A name like
            "CompVis/ldm-celebahq-256" that is no path is taken from the Hugging Face hub, its local cache first.
        device: where the networks go; None takes CUDA where there is one, else the CPU.
        weights: "ema" or "raw" where the file holds both; "auto" takes EMA where present.
        config: for files that come without: a configuration, the name of a preset, or the path of a CompVis YAML.
        scale_factor: replaces that of the configuration, for a model trained with another.
        precision: of the UNet, one of `precision.PRECISIONS`; fp32 is exact.
        compiled: compile the UNet with `torch.compile` at its first evaluation.
    Raises: CheckpointError: missing, damaged, refused or unfitting files; ConfigError: not this family, a
        configuration is needed, or unknown precision.
    """
    target = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    unet_format = resolve(precision, target)
    checkpoint = read_checkpoint(local_path(path), weights, config, scale_factor)
    unet = UNet(checkpoint.config.unet, uninitialised, device="meta")
    first_stage = build_first_stage(checkpoint.config.vq, uninitialised, device="meta")
    load_into(unet, checkpoint.unet, checkpoint.unet_file)
    load_into(first_stage, checkpoint.first_stage, checkpoint.first_stage_file)
    set_precision(unet, unet_format)
    let_go([*unet.parameters(), *first_stage.parameters()])  # checking has read all of them, the encoder's too
    if compiled:
        unet.compile_evaluation()
    schedule = Schedule(checkpoint.config.schedule)
    return LatentDiffusion(unet.to(target), first_stage.to(target), schedule, checkpoint.config, target)


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
        model: from `load`.
        seeds: one for each image; all are sampled as one batch, and none depends on its neighbours.
        steps: model evaluations, 1..1000.
        eta: 0..1, fresh noise in each step of "ddim"; 0 is deterministic.
        sampler: one of `samplers.SAMPLERS`.
        grid: one of `schedule.GRIDS`, see `Schedule.timesteps`.
        callback: called with a `StepInfo` after each step; whatever it raises ends the run.
        cache_interval: 1 evaluates the whole network at each step; above, see `DeepCache`: faster, another picture.
        cache_depth: levels that run at each step nevertheless, 1..levels; counts only with an interval above 1.
    Returns: uint8 (N, H, W, 3) at the training size.
    Raises: ScheduleError: steps, eta, sampler or grid out of range; InputError: no seeds, or a seed or cache
        setting out of range; SamplingError: the model gave NaN or infinity.
    """
    eps_model = model.unet if cache_interval == 1 else DeepCache(model.unet, cache_interval, cache_depth)
    noisy = adds_noise(sampler, eta)
    pairs = model.schedule.timesteps(steps, grid)
    size = model.config.unet.sample_size
    shape = (model.config.unet.in_channels, size, size)
    x_T = draw_noise(seeds, shape).to(model.device)  # noqa: N806 - the papers' name
    step_noise = StepNoise(seeds, shape) if noisy else None
    z = sample(sampler, eps_model, x_T, model.schedule, pairs, eta=eta, step_noise=step_noise, callback=callback)
    rest(model.unet)
    images = decode_to_uint8(model, z)
    rest(model.vq)
    return images


@torch.no_grad()
def decode_to_uint8(model: LatentDiffusion, z: Tensor) -> np.ndarray:
    """Quantise and decode (N, C, h, w) latents to uint8 (N, H, W, 3), one by one: the decoder needs the most memory."""
    return np.concatenate([to_uint8(model.vq.decode(latent)) for latent in z.split(1)])
