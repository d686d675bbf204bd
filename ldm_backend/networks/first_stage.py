"""The first stage, whichever kind it is: what the two kinds are called together, and how one of them is built."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from ..config.model import FirstStageConfig, VQConfig
from .kl import KLModel
from .vq import VQModel

FirstStage = VQModel | KLModel


def build_first_stage(
    config: FirstStageConfig, operations: Any = nn, device: torch.device | str | None = None
) -> FirstStage:
    """The first stage of that kind; see `VQModel` and `KLModel`."""
    if isinstance(config, VQConfig):
        return VQModel(config, operations, device=device)
    return KLModel(config, operations, device=device)
