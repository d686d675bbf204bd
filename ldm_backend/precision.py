"""Floating point formats of the denoiser.

Only its inner layers take part: latents, schedule coefficients, time embedding and first stage stay in float32. What a
shorter format changes in the pictures is in the README, "Precision".
"""

from __future__ import annotations

import torch

from .errors import ConfigError, check_choice
from .unet import UNet

FORMATS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
PRECISIONS = ("fp32", "auto", "bf16", "fp16")


def resolve(precision: str, device: torch.device | str) -> str:
    """The format that `precision` means on a device.

    Args:
        precision: one of PRECISIONS; "auto" is fp16 on CUDA, for its matrix units, and fp32 elsewhere.
        device: where the network will run.
    Returns: a key of FORMATS.
    Raises: ConfigError: not one of PRECISIONS.
    """
    check_choice("precision", precision, PRECISIONS, ConfigError)
    if precision == "auto":
        return "fp16" if torch.device(device).type == "cuda" else "fp32"
    return precision


def set_precision(unet: UNet, name: str) -> None:
    """Give the weights of a network that format, all but the time embedding's.

    Args:
        unet: any; it then takes and gives latents of whatever format its caller has.
        name: a key of FORMATS.
    """
    for part, module in unet.named_children():
        if part != "time_embedding":
            module.to(FORMATS[name])
