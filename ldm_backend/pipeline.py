"""checkpoint -> noise -> latents -> image, wired for use without a host."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from .checkpoints.checkpoint import load_into, read_checkpoint
from .checkpoints.file_marks import FileMark
from .checkpoints.identity import identity_of_unet
from .config.model import LDMConfig
from .contexts import Conditioner, Wanted, attended, build_conditioner, build_tokeniser, check_wanted
from .errors import InputError, short_repr
from .hub.models import local_path
from .kernels.fast_conv import empty_caches, kernel_bytes
from .memory.chunks import Chunks
from .memory.estimates import Size, check_fits, image_bytes, sampling_bytes
from .memory.free_memory import free_bytes
from .memory.mapped import release_pages
from .memory.sizes import latent_size
from .networks import skip_init
from .networks.conditioned import Attending, Conditioned, check_conditioned, check_conditioning, in_parts
from .networks.decoding import check_decoding, decoded
from .networks.deep_cache import DeepCache
from .networks.first_stage import FirstStage, build_first_stage
from .networks.precision import resolve, set_first_stage_precision, set_precision
from .networks.tiles import check_goes_together
from .networks.unet import UNet
from .sampling.fitted import FittedSteps
from .sampling.samplers import AUTO, Callback, Denoiser, sample_seeds
from .sampling.schedule import Schedule
from .texts.tokeniser import Tokeniser
from .views.images import to_uint8


@dataclass(frozen=True)
class LatentDiffusion:
    """A loaded model: `unet(x, t)` returns eps, `first_stage.decode(z)` NCHW in [-1, 1]; both are on `device`.

    Where the schedule's `prediction_type` says so, `unet` returns v or the clean latent instead of eps.

    Attributes:
        files, weights: What the weights were read from, and may still be mapped from; which of a file they are.
        conditioner: Makes what the UNet sees beside the noise, where that takes weights.
        tokeniser: Of texts, where it makes that of texts.
    """

    unet: UNet
    first_stage: FirstStage
    schedule: Schedule
    config: LDMConfig
    device: torch.device
    files: tuple[FileMark, ...] = ()
    conditioner: Conditioner | None = None
    tokeniser: Tokeniser | None = None
    weights: str = "only"

    @cached_property
    def identity(self) -> str:
        """What steps are fitted to; it reads the file of the UNet once, and raises as `identity_of_unet`."""
        return identity_of_unet(self.files[0], self.weights, self.config)

    @property
    def task(self) -> str:
        """What the model is for, see `LDMConfig.task`."""
        return self.config.task

    @property
    def vq(self) -> FirstStage:
        """The first stage, whichever kind it is, under the name that it had before there were two kinds."""
        return self.first_stage


# Makes the denoiser of a run, for latents (N, C, h, w), into one that knows more, as `guidance.guided.Guides` does.
Guidance = Callable[[LatentDiffusion, Denoiser, tuple[int, int, int, int]], Denoiser]


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
        compiled: Make the UNet faster at the cost of its first evaluation, see `UNet.compile_evaluation`.

    Raises:
        CheckpointError: Missing, damaged, refused or unfitting files.
        ConfigError: Not this family, a configuration is needed, or unknown precision.
    """
    target = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
    unet_format = resolve(precision, target)
    checkpoint = read_checkpoint(local_path(path), weights, config, scale_factor)
    files = tuple(FileMark.of(file) for file in checkpoint.sources)
    unet = UNet(checkpoint.config.unet, skip_init, device="meta")
    first_stage = build_first_stage(checkpoint.config.first_stage, skip_init, device="meta")
    load_into(unet, checkpoint.unet, checkpoint.unet_file)
    load_into(first_stage, checkpoint.first_stage, checkpoint.first_stage_file)
    set_precision(unet, unet_format)
    set_first_stage_precision(first_stage, first_stage_precision)
    conditioner, networks = build_conditioner(checkpoint.config), [unet, first_stage]
    if conditioner is not None:
        load_into(conditioner, checkpoint.conditioner, checkpoint.conditioner_file or checkpoint.unet_file)
        networks.append(conditioner)
    tokeniser = build_tokeniser(checkpoint.config, checkpoint.vocabulary, str(checkpoint.path))
    # Checking has read all of them, the first stage's encoder too.
    release_pages([parameter for network in networks for parameter in network.parameters()])
    if compiled:
        unet.compile_evaluation()
    for network in networks:
        network.to(target)
    schedule, rest = Schedule(checkpoint.config.schedule), (files, conditioner, tokeniser, checkpoint.weights)
    return LatentDiffusion(unet, first_stage, schedule, checkpoint.config, target, *rest)


def generate(
    model: LatentDiffusion,
    seeds: Sequence[int] = (3,),
    steps: int = 200,
    eta: float = 0.0,
    sampler: str = "ddim",
    grid: str | FittedSteps = AUTO,
    callback: Callback | None = None,
    cache_interval: int = 1,
    cache_depth: int = 1,
    height: int | None = None,
    width: int | None = None,
    conditioning: Tensor | None = None,
    tile: int | None = None,
    guides: Guidance | None = None,
    classes: Sequence[int | None] | None = None,
    cfg: float = 1.0,
    prompts: str | Sequence[str] | None = None,
    negative: str | Sequence[str] = "",
    vectors: Tensor | Sequence[Tensor] | None = None,
) -> np.ndarray:
    """Draw one image for each seed; the defaults are the model card's recipe.

    Args:
        model: From `load`.
        seeds: One for each image; all are sampled as one batch, in parts where memory is short, and none depends on
            its neighbours.
        steps: Model evaluations, 1 to as many as the training has timesteps.
        eta: 0..1, fresh noise in each step of "ddim"; 0 is deterministic.
        sampler: One of `samplers.SAMPLERS`.
        grid: One of `schedule.GRIDS`, see `Schedule.timesteps`; "auto" takes the sampler's own, see `grid_of`;
            or what `fit_steps` or `read_fitted_steps` gave.
        callback: Called with a `StepInfo` after each step; whatever it raises ends the run.
        cache_interval: 1 evaluates the whole network at each step; above, see `DeepCache`: faster, another picture.
        cache_depth: Levels that run at each step nevertheless, 1..levels; counts only with an interval above 1.
        height: Of the images in pixels, a multiple of what the networks halve; None takes the training size.
        width: likewise.
        conditioning: (N, C, h, w) what a model of another task sees beside the noise, for each image, as the functions
            of `ldm_backend.conditioning` make it; its size is that of the latents. None is for unconditional models.
        tile: Only with a conditioning: side of a tile in latent cells, averaged at each step. None takes images whole,
            and tiles only where that does not fit into memory, which is said in the log.
        guides: What is known or wanted of the images, see `guidance.guided.Guides`; not with anything below.
        classes: Of a class-conditional model the class of each image by its number, None for no class.
        cfg: With any of these the scale of guidance without a classifier: 1 is none, all others take more time.
        prompts: Of a text-conditional model the text of each image, or one for all; equal ones are encoded once.
        negative: With prompts, what guidance leads away from: a text for all images, or one for each.
        vectors: Of a model of vectors of CLIP those of the images, see `vectors_context`; guidance starts from zeros.

    Returns:
        uint8 (N, H, W, 3); (N, H, W, 1) of a model of grey pictures.

    Raises:
        ScheduleError: Steps, eta, sampler or grid out of range.
        InputError: No seeds, or what is out of range, missing, too much or of another shape, number or model.
        TooLargeError: More than fits into memory.
        SamplingError: The model gave NaN or infinity.
        CheckpointError: A file of the model was changed since it was loaded.
    """
    z = sample_latents(
        model, seeds, steps, eta, sampler, grid, callback, cache_interval, cache_depth, height, width,
        conditioning, tile, guides, classes, cfg, prompts, negative, vectors,
    )  # fmt: skip
    images = decode_to_uint8(model, z)
    empty_caches(model.first_stage)
    return images


def sample_latents(
    model: LatentDiffusion,
    seeds: Sequence[int],
    steps: int,
    eta: float = 0.0,
    sampler: str = "ddim",
    grid: str | FittedSteps = AUTO,
    callback: Callback | None = None,
    cache_interval: int = 1,
    cache_depth: int = 1,
    height: int | None = None,
    width: int | None = None,
    conditioning: Tensor | None = None,
    tile: int | None = None,
    guides: Guidance | None = None,
    classes: Sequence[int | None] | None = None,
    cfg: float = 1.0,
    prompts: str | Sequence[str] | None = None,
    negative: str | Sequence[str] = "",
    vectors: Tensor | Sequence[Tensor] | None = None,
) -> Tensor:
    """What `generate` decodes; its arguments and errors.

    Returns:
        (N, C, h, w) float32 latents on the model's device.
    """
    wanted = Wanted(classes, prompts, negative, cfg, vectors)
    check_wanted(wanted, model.config, len(seeds))
    if not wanted.given or conditioning is not None:
        check_conditioning(conditioning, model.config, len(seeds))
    check_goes_together(conditioning is not None, tile, (cache_interval, height, width))
    if wanted.given and (cache_interval != 1 or guides is not None):
        raise InputError(f"cache_interval or guides are given beside {wanted.kind}; expected neither. Leave them out.")
    for file in model.files:
        file.check()
    if isinstance(grid, FittedSteps):
        grid.check_model(model.identity)
    if conditioning is None:
        size = latent_size(model.config, height, width)
        check_memory(model, len(seeds), whole=cache_interval > 1, size=size)
        plain = _attending(model, wanted, len(seeds)) if wanted.given else evaluation(model)
        denoiser = plain if cache_interval == 1 else DeepCache(model.unet, cache_interval, cache_depth)
    else:
        size = (conditioning.shape[2], conditioning.shape[3])
        denoiser = _conditioned(model, conditioning, tile)
    check_decoding(model.first_stage, len(seeds), size, model.device)
    shape = (model.config.first_stage.z_channels, *size)
    if guides is not None:
        if not callable(guides):
            raise InputError(f"guides is {short_repr(guides)}; expected guidance.guided.Guides of these.")
        denoiser = guides(model, denoiser, (len(seeds), *shape))
    try:
        return sample_seeds(
            sampler, denoiser, seeds, shape, model.schedule, steps,
            device=model.device, grid=grid, eta=eta, callback=callback,
        )  # fmt: skip
    finally:
        empty_caches(model.unet)
        if guides is not None:  # they decode and encode
            empty_caches(model.first_stage)


def _attending(model: LatentDiffusion, wanted: Wanted, images: int) -> Denoiser:
    """The UNet that attends to what is wanted, guided where that changes anything."""
    made = attended(model.conditioner, model.tokeniser, wanted, images, model.config, model.device)
    return Attending(evaluation(model), *made, wanted.cfg)


def _conditioned(model: LatentDiffusion, c: Tensor, tile: int | None) -> Denoiser:
    """The UNet that sees `c`, if a run with it fits into memory."""
    free = free_bytes(model.device) - kernel_bytes(model.unet)
    check_conditioned("Sampling", model.config, model.unet.dtype.itemsize, c.shape, free, tile)
    return Conditioned(evaluation(model), model.config, c.to(model.device), tile)


def check_memory(model: LatentDiffusion, images: int, whole: bool = False, size: tuple[int, int] | None = None) -> None:
    """Refuse a batch that cannot be sampled, before anything is allocated.

    Args:
        model: From `load`.
        images: In the batch.
        whole: The network cannot take it in parts.
        size: Latent cells, high and wide; None takes those of the training.

    Raises:
        TooLargeError: With the largest batch that fits.
    """
    config, itemsize = model.config, model.unet.dtype.itemsize
    height, width = (config.first_stage.downscale * cells for cells in size or latent_size(config, None, None))
    unit = model.unet.size_multiple * config.first_stage.downscale
    kernels = kernel_bytes(model.unet)

    def cost(n: int, height: int, width: int) -> int:
        return sampling_bytes(config, (n, height, width), n if whole else 1, itemsize) + image_bytes(n, height, width)

    check_fits("Sampling", Size(images, height, width), cost, free_bytes(model.device) - kernels, unit)


def evaluation(model: LatentDiffusion) -> Callable[..., Tensor]:
    """The UNet as a sampler calls it, its conditioning joined to the latents where it has one; see `in_parts`."""
    return in_parts(model.unet, Chunks("UNet"))


@torch.no_grad()
def decode_to_uint8(model: LatentDiffusion, z: Tensor) -> np.ndarray:
    """Quantise and decode (N, C, h, w) latents to uint8 (N, H, W, 3), or (N, H, W, 1) of grey pictures.

    On the CPU one by one: the decoder needs the most memory, and together they would be no faster there.

    Raises:
        TooLargeError: Not even tiles of an image fit into memory.
        CheckpointError: As `generate`.
    """
    for file in model.files:
        file.check()
    parts = decoded(model.first_stage, z, model.device, Chunks("Decoder"), at_most=1)
    return np.concatenate([to_uint8(images) for _, images in parts])
