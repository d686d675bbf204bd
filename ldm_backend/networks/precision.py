"""Floating point formats of the denoiser, and of the first stage.

Of the denoiser only the inner layers take part: latents, schedule coefficients and time embedding stay in float32. The
first stage has a choice of its own. What a shorter format changes in the pictures is in docs/precision.md.

"tf32" is float32 weights whose products NVIDIA's cards since Ampere may round to 10 bits on the way in. Everything
else computes it as fp32, which is nearer to the truth: so a workflow that asks for it runs everywhere.
"""

from __future__ import annotations

import logging

import torch

from ..errors import ConfigError, check_choice
from .kl import KLModel
from .unet import UNet
from .vq import VQModel

logger = logging.getLogger("comfyui_ldm")

TF32 = "tf32"
FORMATS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16, TF32: torch.float32}
PRECISIONS = ("fp32", "auto", "bf16", "fp16", TF32)
# Not fp16: the features of trained first stages pass its largest number, 65504, and the picture would be NaN.
FIRST_STAGE_PRECISIONS = ("fp32", "bf16")


def resolve(precision: str, device: torch.device | str) -> str:
    """The format that `precision` means on a device.

    Args:
        precision: One of PRECISIONS; "auto" is fp16 on CUDA, for its matrix units, and fp32 elsewhere. "tf32" is fp32
            elsewhere too, which is said in the log.
        device: Where the network will run.

    Returns:
        A key of FORMATS.

    Raises:
        ConfigError: Not one of PRECISIONS.
    """
    check_choice("precision", precision, PRECISIONS, ConfigError)
    kind = torch.device(device).type
    if precision == "auto":
        return "fp16" if kind == "cuda" else "fp32"
    if precision == TF32 and kind != "cuda":
        logger.warning("Precision tf32 is for NVIDIA's cards; on %s the network computes in fp32, exactly.", kind)
        return "fp32"
    return precision


def set_precision(unet: UNet, name: str) -> None:
    """Give the weights of a network that format, all but the time embedding's, and say whether it may use TF32.

    Args:
        unet: Any; it then takes and gives latents of whatever format its caller has.
        name: A key of FORMATS.
    """
    unet.tf32 = name == TF32
    for part, module in unet.named_children():
        if part != "time_embedding":
            module.to(FORMATS[name])


def set_first_stage_precision(first_stage: VQModel | KLModel, name: str) -> None:
    """Give the weights of encoder and decoder that format.

    Codebook and 1x1 convolutions stay as they are, so that a latent keeps its codes, whatever the format.

    Args:
        first_stage: Any; it still takes and gives latents and images of float32.
        name: One of FIRST_STAGE_PRECISIONS.

    Raises:
        ConfigError: Another name.
    """
    check_choice("first_stage_precision", name, FIRST_STAGE_PRECISIONS, ConfigError)
    first_stage.encoder.to(FORMATS[name])
    first_stage.decoder.to(FORMATS[name])
