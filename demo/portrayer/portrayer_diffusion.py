"""Trains the portrayer's diffusion model: that of the portraits goes on, and learns to draw what a caption says.

It learns to predict the velocity from the first step on, for the reason that upscaler_diffusion.py gives. What a
caption decides (colours, the form of the hair) is decided while the latent is nearly all noise, where an error in the
predicted noise counts little in the loss and much in the picture.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from portrayer_data import Captioned
from portrayer_model import Portrayer, first_weights
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from train_common import read_state, train
from train_diffusion import MIN_SNR, noised
from train_diffusion import SCHEDULE as PORTRAITS_SCHEDULE

from ldm_backend.sampling.schedule import Schedule

SCHEDULE = replace(PORTRAITS_SCHEDULE, prediction_type="v_prediction")
BATCH = 16
RATE = 8e-4
READING = 0.1  # weight of what the encoder goes on to learn of the words alone
COLOURS = 0.3  # weight of the noisiest steps, beside that of min-SNR-gamma


def train_captions(work: Path, minutes: float) -> None:
    """Trains until the budget is used; writes diffusion.pt (resumable; its entry "ema" holds the averaged weights)."""
    model, captioned, alphas = Portrayer(), Captioned(work), Schedule(SCHEDULE).alphas_cumprod.float()

    def of_step(step: int) -> Tensor:
        return velocity_loss(model, *captioned.batch(step, BATCH), alphas, step)

    def begin() -> tuple[dict[str, Tensor], int]:
        return first_weights(read_state(work / "words.pt")["ema"], captioned.batch(0, 64)[1]), 0

    train(work / "diffusion.pt", model, of_step, minutes, RATE, 0.5, begin=begin)


def velocity_loss(model: Portrayer, x_0: Tensor, tokens: Tensor, told: Tensor, alphas: Tensor, step: int) -> Tensor:
    """Returns the weighted squared error of the predicted velocity, and a little of the reader's own loss.

    Args:
        model: Both parts.
        x_0: (N, 3, h, w) latents.
        tokens: (N, T) of their captions.
        told: (N, traits) numbers of the values that these tell.
        alphas: Table of alphas_cumprod.
        step: Number of the step.
    """
    x_t, t, noise = noised(x_0, alphas, step)
    with torch.autocast("cpu", dtype=torch.bfloat16), sdpa_kernel(SDPBackend.MATH):  # of so few tokens the faster way
        context, reading = model(tokens, told)
        predicted = model.unet(x_t, t, context).float()
    alpha = alphas[t]
    snr = alpha / (1 - alpha)
    velocity = alpha.sqrt()[:, None, None, None] * noise - (1 - alpha).sqrt()[:, None, None, None] * x_0
    weight = snr.clamp_max(MIN_SNR) / (snr + 1) + COLOURS
    return ((predicted - velocity).square().mean((1, 2, 3)) * weight).mean() + READING * reading
