"""Classes: their names, and what a MODEL attends to for each."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor
from torchvision.models import ResNet50_Weights

from ....ldm_backend.config.conditioning import CLASS_CONDITIONAL, VECTOR_CONDITIONAL
from ....ldm_backend.errors import InputError
from ....ldm_backend.finite import is_plain
from ....ldm_backend.networks.conditioners.class_embedder import ClassEmbedder
from ..conditioning import attended_conditioning
from ..model import intermediate_device, ldm_model_of


@cache
def imagenet_names() -> tuple[str, ...]:
    """The 1000 classes of ImageNet-1k in the order of their numbers; torchvision, which the host needs, has them."""
    return tuple(ResNet50_Weights.IMAGENET1K_V2.meta["categories"])


def embedder_of(model: ModelPatcher) -> ClassEmbedder:
    """The table of a class-conditional MODEL.

    Raises:
        InputError: It has none.
    """
    inner = ldm_model_of(model)
    if not isinstance(inner.conditioner, ClassEmbedder):
        raise InputError(
            f"model: the MODEL is for {inner.ldm_config.task} and has no table of classes. Connect one for classes "
            "from LDM Checkpoint Loader."
        )
    return inner.conditioner


def none_of(model: ModelPatcher, cfg: float, positive: list[Any]) -> list[Any]:
    """The CONDITIONING of nothing in particular, which guidance starts from where nothing else is connected.

    Args:
        model: MODEL of this pack.
        cfg: Scale of guidance, for the message.
        positive: The CONDITIONING of what is wanted.

    Raises:
        InputError: The MODEL has none.
    """
    if ldm_model_of(model).ldm_config.task == VECTOR_CONDITIONAL:
        wanted = positive[0][0]  # whether it holds vectors, the MODEL looks at
        return attended_conditioning(VECTOR_CONDITIONAL, torch.zeros_like(wanted)) if is_plain(wanted) else positive
    table = ldm_model_of(model).conditioner
    if not isinstance(table, ClassEmbedder):
        raise InputError(
            f"cfg is {cfg:g}, and negative is open, which guidance starts from. Set cfg to 1, or connect CLIP Text "
            "Encode to negative, with an empty text or what to go away from."
        )
    if not table.config.last_is_none:
        raise InputError(
            f"cfg is {cfg:g}, and negative is open: the MODEL has no class that is none, which guidance would start "
            "from. Set cfg to 1, or connect LDM Class with a class to go away from to negative."
        )
    return attended_conditioning(CLASS_CONDITIONAL, embedded(model, [None]))


def embedded(model: ModelPatcher, classes: Sequence[int | None]) -> Tensor:
    """What a MODEL attends to for classes.

    Args:
        model: MODEL of this pack, wherever its weights are.
        classes: Their numbers, or None for no class.

    Returns:
        (N, 1, D) float32.

    Raises:
        InputError: The MODEL has no classes, or not these.
    """
    with torch.no_grad():
        return embedder_of(model)(classes).float().to(intermediate_device())
