"""Requests that cannot fit into memory are refused, with what would fit, before a node allocates anything."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ...ldm_backend.config.model import LDMConfig
from ...ldm_backend.config.presets import CELEBAHQ_256, PRESETS
from ...ldm_backend.errors import TooLargeError, short_repr
from ...ldm_backend.kernels.fast_conv import kernel_bytes
from ...ldm_backend.memory.estimates import (
    Cost,
    Size,
    check_fits,
    image_bytes,
    noise_bytes,
    path_bytes,
    sampling_bytes,
)
from ...ldm_backend.networks.autoencoder import check_latent
from ..host.memory import free_memory, reachable_memory, whole_memory
from ..host.model import ModelPatcher, ldm_model_of
from ..host.vae import LDMVAE
from .inputs import SIZE_STEP

# What noise takes at least, whichever model it is for.
_SMALLEST_LATENTS = min(
    PRESETS.values(), key=lambda config: config.first_stage.z_channels / config.first_stage.downscale**2
)

_CPU = torch.device("cpu")
_STEP_OF_CELLS = 8
_COPIES_OF_A_COMPOSITE = 5  # both pictures weighted, their sum, the weights, and the distances that they come from
_BYTES_OF_A_LABEL = 160  # of a pixel of a map: its levels, colours as whole numbers, labels, and channels
_COPIES_OF_A_VIEW = 6  # both pictures, the latents snapped and compared


def check_noise(task: str, size: Size, model: ModelPatcher | None, mixed: int = 0) -> None:
    """Raise TooLargeError unless noise for `size` fits, `mixed` of its images computed at once from other noise."""
    config = CELEBAHQ_256 if model is None else ldm_model_of(model).ldm_config
    check_fits(task, size, _noise_cost(config, mixed), free_memory(_CPU), SIZE_STEP)


def noise_refusal(node: type[io.ComfyNode], task: str, size: Size, **values: Any) -> str | bool:
    """What `validate_inputs` of a node that makes noise answers, before the prompt runs.

    The host leaves the ranges of inputs to whoever names them there, so they are checked too. What the machine could
    never hold is refused; whether a request fits at the moment is told when it runs.

    Args:
        node: Whose inputs these are.
        task: For the message.
        size: Built from `values`; its numbers may be anything that a prompt can hold.
        values: Inputs by name; those that come by a link are None.

    Returns:
        True, or the reason against it.
    """
    ranges = {item.id: item for item in node.define_schema().inputs}
    for name, value in values.items():
        if not isinstance(value, int):  # linked, or no number, which the host has told already
            return True
        least, most = ranges[name].min, ranges[name].max  # pyright: ignore[reportAttributeAccessIssue] - all are Int
        if not least <= value <= most:
            return f"{name} is {short_repr(value)}; expected {least} to {most}."
    try:
        check_fits(task, size, _noise_cost(_SMALLEST_LATENTS, mixed=0), whole_memory(), SIZE_STEP)
    except TooLargeError as error:
        return str(error)
    return True


def check_path(task: str, shape: Sequence[int], frames: int) -> None:
    """Raise TooLargeError unless a walk of `frames` between each two latents of (N, C, h, w) fits."""
    size = Size(shape[0] * frames, shape[2], shape[3], "frames", "latent cells")

    def cost(n: int, height: int, width: int) -> int:
        one = shape[1] * height * width
        return path_bytes(n * one, one)

    check_fits(task, size, cost, free_memory(_CPU), _STEP_OF_CELLS)


def check_drawn(task: str, shape: Sequence[int]) -> None:
    """Raise TooLargeError unless noise for latents (N, C, h, w) fits."""
    size = Size(shape[0], shape[2], shape[3], measure="latent cells")

    def cost(n: int, height: int, width: int) -> int:
        return noise_bytes(n * shape[1] * height * width)

    check_fits(task, size, cost, free_memory(_CPU), _STEP_OF_CELLS)


def check_sampling(task: str, model: ModelPatcher, shape: Sequence[int], whole: bool = False) -> None:
    """Raise InputError unless a run over latents (N, C, h, w) fits; `whole`: the network cannot take it in parts."""
    inner = ldm_model_of(model)
    unet, config = inner.diffusion_model, inner.ldm_config
    unet.check_input(torch.Size(shape))
    itemsize = unet.dtype.itemsize

    def cost(n: int, height: int, width: int) -> int:
        return sampling_bytes(config, (n, height, width), n if whole else 1, itemsize)

    free = reachable_memory(model.load_device) - kernel_bytes(unet)
    check_fits(task, _pixels(config, shape), cost, free, unet.size_multiple * config.first_stage.downscale)


def size_of(pictures: Tensor) -> Size:
    """Of an IMAGE (N, H, W, C) or a MASK (N, H, W)."""
    return Size(pictures.shape[0], pictures.shape[1], pictures.shape[2])


def check_conditioning(task: str, config: LDMConfig, size: Size, device: torch.device) -> None:
    """Raise TooLargeError unless what a model sees beside latents of `size`, in cells, and empty latents fit."""
    numbers = 3 * config.unet.in_channels  # what is made, and twice as much on the way

    def cost(n: int, height: int, width: int) -> int:
        return numbers * image_bytes(n, height, width, 1)

    check_fits(task, size, cost, reachable_memory(device), config.unet.size_multiple)


def check_labels(task: str, size: Size, device: torch.device) -> None:
    """Raise TooLargeError unless maps of labels of that many pixels fit."""
    check_pictures(task, size, lambda n, height, width: _BYTES_OF_A_LABEL * n * height * width, device)


def check_view(task: str, vae: LDMVAE, samples: Tensor) -> None:
    """Raise InputError unless the pictures of LDM Code View fit, for latents (N, C, h, w)."""
    config = vae.first_stage_model.config
    check_latent(samples, config)
    size = Size(len(samples), samples.shape[2] * config.downscale, samples.shape[3] * config.downscale)
    check_pictures(task, size, lambda *of: _COPIES_OF_A_VIEW * image_bytes(*of))


def check_composite(task: str, size: Size, device: torch.device) -> None:
    """Raise TooLargeError unless a composite of that many pictures fits on the device where it is made."""
    check_pictures(task, size, lambda *of: _COPIES_OF_A_COMPOSITE * image_bytes(*of), device)


def check_pictures(task: str, size: Size, cost: Cost, device: torch.device = _CPU) -> None:
    """Raise TooLargeError unless pictures fit on the device where they are computed."""
    check_fits(task, size, cost, reachable_memory(device), SIZE_STEP)


def _noise_cost(config: LDMConfig, mixed: int) -> Cost:
    def cost(n: int, height: int, width: int) -> int:
        one = (
            config.first_stage.z_channels
            * (height // config.first_stage.downscale)
            * (width // config.first_stage.downscale)
        )
        return path_bytes(n * one, min(n, mixed) * one) if mixed else noise_bytes(n * one)

    return cost


def _pixels(config: LDMConfig, shape: Sequence[int]) -> Size:
    """Of latents (N, C, h, w)."""
    return Size(shape[0], shape[2] * config.first_stage.downscale, shape[3] * config.first_stage.downscale)
