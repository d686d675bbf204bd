"""What a UNet sees beside the noise or attends to, as a CONDITIONING carries it, and which tasks a MODEL is for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ...ldm_backend.config.conditioning import (
    CLASS_CONDITIONAL,
    INPAINTING,
    SEMANTIC_SYNTHESIS,
    SUPER_RESOLUTION,
    TEXT_CONDITIONAL,
    UNCONDITIONAL,
    VECTOR_CONDITIONAL,
    purpose_of,
)
from ...ldm_backend.config.model import LDMConfig
from ...ldm_backend.errors import InputError
from ...ldm_backend.finite import FLOATS, all_finite, is_plain

# Keys of this pack in the table of a conditioning. Those of the host (concat_latent_image) mean latents and masks that
# models of other families take otherwise: grey holes, masks of 0 and 1, the mask first.
TASK_KEY, CHANNELS_KEY = "ldm_task", "ldm_channels"
_TOKENS_KEY = "cross_attn"  # of the host, which puts the tensor of a conditioning there

# What draws from a model of each task, and what makes the conditioning that it needs.
_NODES = {
    UNCONDITIONAL: ("LDM Sampler", "LDM Empty Conditioning"),
    SUPER_RESOLUTION: ("LDM Super-Resolution", "LDM Super-Resolution Conditioning"),
    INPAINTING: ("LDM Inpaint Model", "LDM Inpaint Conditioning"),
    SEMANTIC_SYNTHESIS: ("LDM Semantic Labels with KSampler", "LDM Semantic Labels"),
    CLASS_CONDITIONAL: ("LDM Class with LDM Sampler", "LDM Class"),
    TEXT_CONDITIONAL: ("CLIP Text Encode with LDM Sampler", "CLIP Text Encode"),
    VECTOR_CONDITIONAL: ("LDM CLIP Vectors with LDM Sampler", "LDM CLIP Vectors"),
}


def conditioning_of(task: str, channels: Tensor) -> list[Any]:
    """A CONDITIONING of the host.

    Args:
        task: Of the models that it is for.
        channels: (N, C, h, w) what they see beside the noise, on any device.
    """
    # One zero token: nodes that edit conditioning expect a tensor.
    return [[torch.zeros(1, 1, 1), {TASK_KEY: task, CHANNELS_KEY: channels}]]


def attended_conditioning(task: str, context: Tensor) -> list[Any]:
    """A CONDITIONING of the host, whose nodes may average, combine and time it as that of any other model.

    Args:
        task: Of the models that it is for.
        context: (N, tokens, D) what they attend to, on any device; one for all images, or one for each.
    """
    return [[context, {TASK_KEY: task}]]


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
    if given.get(TASK_KEY) is None and config.conditioning is None:
        return None
    task, c = _checked_task(config, given), given.get(CHANNELS_KEY)
    if not is_plain(c) or c.ndim != 4 or c.shape[1] != config.unet.in_channels - config.first_stage.z_channels:
        raise InputError(
            f"The conditioning holds a {type(c).__name__} that no node of this pack makes for this MODEL. Connect "
            f"{_NODES[task][1]} with the same MODEL."
        )
    _check_fits_latents(c, shape, config, task)
    return c


def context_of(config: LDMConfig, given: Mapping[str, Any], images: int) -> Tensor:
    """What a model attends to.

    Args:
        config: Of the model.
        given: The table of a conditioning, where the host has put its tensor.
        images: Of the latents.

    Returns:
        (N, tokens, D) or (1, tokens, D).

    Raises:
        InputError: A conditioning of another task or kind, none, or one for another number of images.
    """
    task, context, width = _checked_task(config, given), given.get(_TOKENS_KEY), config.unet.cross_attention_dim
    if not (
        is_plain(context)
        and context.dtype in FLOATS
        and context.ndim == 3
        and context.numel() > 0
        and context.shape[2] == width
    ):
        found = f"a tensor of shape {tuple(context.shape)}" if is_plain(context) else f"a {type(context).__name__}"
        raise InputError(
            f"The conditioning holds {found}, and the MODEL attends to (images, tokens, {width}). It was made for "
            f"another model: connect {_NODES[task][1]} with the same MODEL."
        )
    if len(context) not in (1, images):
        raise InputError(
            f"The conditioning is for {len(context)} images, one after the other, and the latent holds {images}. Give "
            f"one for all, or as many as images: change {_NODES[task][1]} or the batch of the latent."
        )
    if not all_finite(context):
        raise InputError(
            f"The conditioning holds NaN or infinite numbers. A node after {_NODES[task][1]} made them: look at its "
            "strength, or leave it out."
        )
    return context


def none_given(config: LDMConfig, what: str = "is empty") -> InputError:
    """What to raise where a model gets no conditioning, or one of another family, and needs one."""
    return InputError(
        f"The conditioning {what}, and the MODEL is for {_shown(config.task)}: it {purpose_of(config.task)}, and sees "
        f"nothing without them. Connect {_NODES[config.task][1]} to positive and negative."
    )


def _checked_task(config: LDMConfig, given: Mapping[str, Any]) -> str:
    """The task of a conditioning, which is that of the model.

    Raises:
        InputError: There is none, or it is another.
    """
    task, needed = given.get(TASK_KEY), _NODES[config.task][1]
    if task is None:
        tokens = given.get(_TOKENS_KEY)
        foreign = is_plain(tokens) and tokens.numel() > 1
        raise none_given(config, "is one of other nodes, a text for example" if foreign else "is empty")
    if task != config.task:
        other = task if isinstance(task, str) and task in _NODES else f"a {type(task).__name__} of no node of this pack"
        raise InputError(
            f"The conditioning is one for {other}, and the MODEL is for {_shown(config.task)}: it "
            f"{purpose_of(config.task)}. Connect {needed}, or a MODEL for {other}."
        )
    return config.task


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
    words = {
        UNCONDITIONAL: "pictures without a conditioning",
        CLASS_CONDITIONAL: "classes",
        TEXT_CONDITIONAL: "texts",
        VECTOR_CONDITIONAL: "vectors of CLIP",
    }
    return words.get(task, task.replace("-synthesis", " synthesis"))
