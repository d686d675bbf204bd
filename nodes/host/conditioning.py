"""What a UNet sees beside the noise, as the host's CONDITIONING carries it, and which tasks a MODEL is for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...ldm_backend.config.conditioning import (
    INPAINTING,
    SEMANTIC_SYNTHESIS,
    SUPER_RESOLUTION,
    UNCONDITIONAL,
    purpose_of,
)
from ...ldm_backend.config.model import LDMConfig
from ...ldm_backend.errors import InputError
from ...ldm_backend.finite import is_plain

# Keys of this pack in the table of a conditioning. Those of the host (concat_latent_image) mean latents and masks that
# models of other families take otherwise: grey holes, masks of 0 and 1, the mask first.
TASK_KEY, CHANNELS_KEY = "ldm_task", "ldm_channels"

# What draws from a model of each task, and what makes the conditioning that it needs.
_NODES = {
    UNCONDITIONAL: ("LDM Sampler", "LDM Empty Conditioning"),
    SUPER_RESOLUTION: ("LDM Super-Resolution", "LDM Super-Resolution Conditioning"),
    INPAINTING: ("LDM Inpaint Model", "LDM Inpaint Conditioning"),
    SEMANTIC_SYNTHESIS: ("LDM Semantic Labels with KSampler", "LDM Semantic Labels"),
}


def conditioning_of(task: str, channels: Tensor) -> list[Any]:
    """A CONDITIONING of the host.

    Args:
        task: Of the models that it is for.
        channels: (N, C, h, w) what they see beside the noise, on any device.
    """
    # One zero token: nodes that edit conditioning expect a tensor.
    return [[torch.zeros(1, 1, 1), {TASK_KEY: task, CHANNELS_KEY: channels}]]


def check_model_task(found: str, wanted: Sequence[str], name: str) -> None:
    """Refuse a MODEL of another task.

    Args:
        found: Of the model.
        wanted: What the node takes.
        name: Of the input, for the message.

    Raises:
        InputError: It is none of these.
    """
    if found not in wanted:
        raise InputError(
            f"{name}: the MODEL is for {_shown(found)}: it {purpose_of(found)}. This node takes one for "
            f"{' or '.join(map(_shown, wanted))}. Connect {_NODES[found][0]}, or choose another checkpoint in LDM "
            "Checkpoint Loader."
        )


def channels_beside(config: LDMConfig, given: Mapping[str, Any], shape: Sequence[int]) -> Tensor | None:
    """What a model sees beside noisy latents.

    Args:
        config: Of the model.
        given: The table of a conditioning.
        shape: (N, C, h, w) of the latents.

    Returns:
        (N, C, h, w) or (1, C, h, w); None for an unconditional model.

    Raises:
        InputError: A conditioning of another task, none where one is needed, or one that does not fit the latents.
    """
    task, c = given.get(TASK_KEY), given.get(CHANNELS_KEY)
    if task is None or c is None:
        if config.conditioning is None:
            return None
        raise InputError(
            f"The conditioning is empty, and the MODEL is for {_shown(config.task)}: it {purpose_of(config.task)}, and "
            f"sees nothing without them. Connect {_NODES[config.task][1]} to positive and negative."
        )
    if task != config.task:
        raise InputError(
            f"The conditioning is one for {task}, and the MODEL is for {_shown(config.task)}: it "
            f"{purpose_of(config.task)}. Connect {_NODES[config.task][1]}, or a MODEL for {task}."
        )
    if not is_plain(c) or c.ndim != 4 or c.shape[1] != config.unet.in_channels - config.first_stage.z_channels:
        raise InputError(
            f"The conditioning holds a {type(c).__name__} that no node of this pack makes for this MODEL. Connect "
            f"{_NODES[task][1]} with the same MODEL."
        )
    _check_fits_latents(c, shape, config, task)
    return c


def _check_fits_latents(c: Tensor, shape: Sequence[int], config: LDMConfig, task: str) -> None:
    """Raise InputError unless the latents are those that come with the conditioning."""
    z = config.first_stage.z_channels
    fits = len(shape) == 4 and shape[1] == z and tuple(shape[2:]) == c.shape[2:] and len(c) in (1, shape[0])
    if not fits:
        raise InputError(
            f"The latent has shape {tuple(shape)}, and the conditioning is for ({len(c)}, {z}, {c.shape[2]}, "
            f"{c.shape[3]}). Connect the LATENT of {_NODES[task][1]} too, and take pictures out of the batch before "
            "that node."
        )


def _shown(task: str) -> str:
    return "pictures without a conditioning" if task == UNCONDITIONAL else task.replace("-synthesis", " synthesis")
