"""Trains the inpainter's diffusion model: that of the portraits goes on, and learns to see a picture with a hole.

First to predict the noise, as it did, and then the velocity, for the reason that upscaler_diffusion.py gives: with the
first alone what fills a hole has colours a little beside those around it, and its edge shows.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from inpainter_data import PORTRAITS, Pairs
from torch import Tensor
from train_common import read_state, train
from train_diffusion import CONFIG as PORTRAITS_CONFIG
from train_diffusion import MIN_SNR, mean_error, noised
from train_diffusion import SCHEDULE as PORTRAITS_SCHEDULE

import ldm_backend
from ldm_backend.networks.unet import UNet
from ldm_backend.sampling.schedule import Schedule

CONFIG = replace(PORTRAITS_CONFIG, in_channels=7)  # noise, the latent of the picture with its hole, and the hole
SCHEDULE = replace(PORTRAITS_SCHEDULE, prediction_type="v_prediction")
BATCH = 16
RATE = 5e-4
KNOWN = 0.2  # weight of the cells outside of the hole, whose pixels the task does not take from the model
COLOURS = 0.2  # weight of the noisiest steps in the second training, beside that of min-SNR-gamma


Loss = Callable[[UNet, Tensor, Tensor, Tensor, int], Tensor]


def train_noise(work: Path, minutes: float) -> None:
    """Trains until the budget is used; writes noise.pt (resumable; its entry "ema" holds the averaged weights)."""
    _train(work / "noise.pt", noise_loss, minutes, _widened)


def train_velocity(work: Path, minutes: float) -> None:
    """Goes on with the averaged weights of noise.pt until the budget is used; writes diffusion.pt, of the same form."""
    _train(work / "diffusion.pt", velocity_loss, minutes, lambda: read_state(work / "noise.pt")["ema"])


def _train(path: Path, loss_of: Loss, minutes: float, weights: Callable[[], dict[str, Tensor]]) -> None:
    model, pairs, alphas = UNet(CONFIG), Pairs(path.parent), Schedule(SCHEDULE).alphas_cumprod.float()

    def of_step(step: int) -> Tensor:
        return loss_of(model, *pairs.batch(step, BATCH), alphas, step)

    train(path, model, of_step, minutes, RATE, 0.5, time.process_time, lambda: (weights(), 0))


def _widened() -> dict[str, Tensor]:
    """Returns the weights of the portraits' model, whose first layer gives what it newly sees no weight yet."""
    weights = ldm_backend.load(PORTRAITS, "cpu").unet.state_dict()
    narrow = weights["conv_in.weight"]
    weights["conv_in.weight"] = narrow.new_zeros(len(narrow), CONFIG.in_channels, *narrow.shape[2:])
    weights["conv_in.weight"][:, : narrow.shape[1]] = narrow
    return weights


def noise_loss(model: UNet, x_0: Tensor, seen: Tensor, alphas: Tensor, step: int) -> Tensor:
    """Returns the weighted squared error of the predicted noise, for latents (N, 3, h, w) and what is seen of them."""
    t, noise, predicted = _predicted(model, x_0, seen, alphas, step)
    snr = alphas[t] / (1 - alphas[t])
    error = predicted - noise
    return (_of_holes(error, seen) * snr.clamp_max(MIN_SNR) / snr + mean_error(error, snr)).mean()


def velocity_loss(model: UNet, x_0: Tensor, seen: Tensor, alphas: Tensor, step: int) -> Tensor:
    """Returns the weighted squared error of the predicted velocity; arguments as above."""
    t, noise, predicted = _predicted(model, x_0, seen, alphas, step)
    alpha = alphas[t][:, None, None, None]
    snr = alphas[t] / (1 - alphas[t])
    velocity = alpha.sqrt() * noise - (1 - alpha).sqrt() * x_0
    return (_of_holes(predicted - velocity, seen) * (snr.clamp_max(MIN_SNR) / (snr + 1) + COLOURS)).mean()


def _predicted(model: UNet, x_0: Tensor, seen: Tensor, alphas: Tensor, step: int) -> tuple[Tensor, Tensor, Tensor]:
    """Returns timesteps of all noise levels, the noise, and the output for the noisy latents."""
    x_t, t, noise = noised(x_0, alphas, step)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        predicted = model(torch.cat([x_t, seen], 1), t)
    return t, noise, predicted.float()


def _of_holes(error: Tensor, seen: Tensor) -> Tensor:
    """Returns the mean square (N,) of an error, the cells of the hole counted most."""
    weight = torch.where(seen[:, -1:] > 0, 1.0, KNOWN)
    weight = weight / weight.mean((1, 2, 3), keepdim=True)
    return (error.square() * weight).mean((1, 2, 3))
