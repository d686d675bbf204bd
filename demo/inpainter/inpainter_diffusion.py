"""Trains the inpainter's diffusion model: that of the portraits goes on, and learns to see a picture with a hole.

First to predict the noise, as it did, and then the velocity, for the reason that upscaler_diffusion.py gives: with the
first alone what fills a hole has colours a little beside those around it, and its edge shows.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from inpainter_data import PORTRAITS, Pairs
from torch import Tensor
from train_common import Budget, descend, read_state, restore, save_state, set_rate
from train_diffusion import CONFIG as PORTRAITS_CONFIG
from train_diffusion import EMA, MIN_SNR, follow, mean_error, noised
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
SAVE_EVERY = 250

log = logging.getLogger("comfyui_ldm.demo")


Loss = Callable[[UNet, Tensor, Tensor, Tensor, int], Tensor]


def train_noise(work: Path, minutes: float) -> None:
    """Trains until the budget is used; writes noise.pt (resumable; its entry "ema" holds the averaged weights)."""
    _train(work, "noise", _widened, noise_loss, minutes)


def train_velocity(work: Path, minutes: float) -> None:
    """Goes on with the averaged weights of noise.pt until the budget is used; writes diffusion.pt, of the same form."""
    _train(work, "diffusion", lambda model: read_state(work / "noise.pt")["ema"], velocity_loss, minutes)


def _train(work: Path, name: str, begin: Callable[[UNet], dict[str, Tensor]], loss_of: Loss, minutes: float) -> None:
    model, path = UNet(CONFIG), work / f"{name}.pt"
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE, betas=(0.9, 0.99))
    state = restore(path, model, optimizer)
    if not state:
        model.load_state_dict(begin(model))
    pairs, alphas = Pairs(work), Schedule(SCHEDULE).alphas_cumprod.float()
    ema = state.get("ema") or {key: value.detach().clone() for key, value in model.state_dict().items()}
    step, mean_loss = state.get("step", 0), state.get("loss", 1.0)
    budget = Budget(minutes, state.get("used", 0.0), time.process_time)
    done = budget.progress >= 1
    while not done:
        set_rate(optimizer, RATE, step, budget.progress, hold=0.5)
        loss = loss_of(model, *pairs.batch(step, BATCH), alphas, step)
        descend(model, optimizer, loss)
        follow(ema, model, min(EMA, (1 + step) / (10 + step)))
        step += 1
        mean_loss += (loss.item() - mean_loss) * max(0.01, 1 / step)
        if step % 50 == 0:
            log.info("%s step %d progress %.3f loss %.4f", name, step, budget.progress, mean_loss)
        done = budget.progress >= 1
        if step % SAVE_EVERY == 0 or done:
            save_state(path, model, optimizer, ema=ema, step=step, used=budget.used, loss=mean_loss)
    log.info("%s done: %d steps, loss %.4f", name, step, mean_loss)


def _widened(model: UNet) -> dict[str, Tensor]:
    """Returns the weights of the portraits' model, whose first layer gives what it newly sees no weight yet."""
    weights = ldm_backend.load(PORTRAITS, "cpu").unet.state_dict()
    narrow = weights["conv_in.weight"]
    weights["conv_in.weight"] = torch.zeros_like(model.conv_in.weight)
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
