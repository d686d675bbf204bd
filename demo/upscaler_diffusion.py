"""Trains the upscaler's diffusion model: latents of large portraits, seen through their small pictures.

First as the original, to predict the noise, and then to predict the velocity (v, arXiv 2202.00512). At the noisiest
steps the latent holds a 1,500th of the noise's variance. There an error of a hundredth in the predicted noise, which so
small a network makes, is one of tens of levels in the colours of the predicted picture, and solvers of few steps keep
it. The velocity is nearly the latent itself there.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from train_common import read_state, train
from train_data import to_tensor
from train_diffusion import noised
from upscaler_data import COUNT, SCALE, degrade, halve, training_portraits
from upscaler_first_stage import CONFIG as VQ_CONFIG
from upscaler_first_stage import PORTRAITS

import ldm_backend
from ldm_backend.config.model import ScheduleConfig, UNetConfig
from ldm_backend.networks.first_stage import FirstStage
from ldm_backend.networks.unet import UNet
from ldm_backend.networks.vq import VQModel
from ldm_backend.sampling.schedule import Schedule

# The form of the original: latent and small picture as six channels, attention at an eighth of the side alone.
CONFIG = UNetConfig(
    sample_size=64,
    in_channels=6,
    block_out_channels=(48, 64, 80, 112),
    down_block_types=("DownBlock2D", "DownBlock2D", "DownBlock2D", "AttnDownBlock2D"),
    up_block_types=("AttnUpBlock2D", "UpBlock2D", "UpBlock2D", "UpBlock2D"),
    layers_per_block=1,
    attention_head_dim=16,
    norm_num_groups=16,
)
SCHEDULE = ScheduleConfig(beta_end=0.0155, prediction_type="v_prediction")  # but for the prediction the original's
SIDES = ((32, 24), (64, 6))  # cells of a part and parts in a batch, in turn: the same work
RATE = 8e-4
MIN_SNR = 5.0  # see train_diffusion
COLOURS = 0.2  # weight of the noisiest steps in the second training, beside that of min-SNR-gamma
OWN = 0.3  # share of small pictures that went through the demo's first stage, as the portraits that it draws

log = logging.getLogger("comfyui_ldm.demo")


def load_latents(work: Path, half: bool) -> Tensor:
    """Returns the latents of all portraits, or of all at half their size, float16 (COUNT, 3, h, w), encoded once."""
    path = work / f"latents-{'256' if half else '512'}.npy"
    if not path.is_file():
        images = training_portraits(work)
        log.info("encoding %d portraits into %s", COUNT, path)
        vq = VQModel(VQ_CONFIG)
        vq.load_state_dict(torch.load(work / "vqvae.pt", weights_only=True))
        latents = []
        with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
            for image in images:
                x = to_tensor((halve(image) if half else image)[None])
                latents.append(vq.encode(x).half())
        partial = path.with_suffix(".part.npy")
        np.save(partial, torch.cat(latents).numpy())
        partial.replace(path)
    return torch.from_numpy(np.load(path))


class Pairs:
    """Draws parts of latents with the small pictures of the same places."""

    def __init__(self, work: Path) -> None:
        self.images = training_portraits(work)
        self.latents = (load_latents(work, half=False), load_latents(work, half=True))
        self.known: FirstStage = ldm_backend.load(PORTRAITS, "cpu").first_stage

    def batch(self, step: int) -> tuple[Tensor, Tensor]:
        """Returns latents (N, 3, h, w) and pictures (N, 3, h, w) in [-1, 1]; the same for each step."""
        rng = np.random.default_rng((11, step))
        side, count = SIDES[step % len(SIDES)]
        latents, small = [], []
        for _ in range(count):
            half, index = int(rng.integers(2)), int(rng.integers(COUNT))
            y, x = rng.integers(self.latents[half].shape[-1] - side + 1, size=2)
            latents.append(self.latents[half][index, :, y : y + side, x : x + side].float())
            image = halve(self.images[index]) if half else self.images[index]
            part = image[SCALE * y : SCALE * (y + side), SCALE * x : SCALE * (x + side)]
            small.append(degrade(np.ascontiguousarray(part), rng))
        pictures = to_tensor(np.stack(small))
        own = torch.from_numpy(rng.random(count) < OWN)
        if own.any():
            with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
                pictures[own] = self.known.decode(self.known.encode(pictures[own]).float()).float().clamp(-1, 1)
        return torch.stack(latents), pictures


Loss = Callable[[UNet, Tensor, Tensor, Tensor, int], Tensor]


def train_noise(work: Path, minutes: float) -> None:
    """Trains until the budget is used; writes noise.pt (resumable; its entry "ema" holds the averaged weights)."""
    torch.manual_seed(0)  # of the first weights
    _train(work / "noise.pt", noise_loss, minutes, hold=0.6)


def train_velocity(work: Path, minutes: float) -> None:
    """Goes on with the averaged weights of noise.pt until the budget is used; writes diffusion.pt, of the same form."""

    def begin() -> tuple[dict[str, Tensor], int]:
        begun = read_state(work / "noise.pt")
        return begun["ema"], begun["step"]

    _train(work / "diffusion.pt", velocity_loss, minutes, 0.5, begin)


def _train(
    path: Path,
    loss_of: Loss,
    minutes: float,
    hold: float,
    begin: Callable[[], tuple[dict[str, Tensor], int]] | None = None,
) -> None:
    model, pairs = UNet(CONFIG), Pairs(path.parent)
    alphas = Schedule(SCHEDULE).alphas_cumprod.float()

    def of_step(step: int) -> Tensor:
        return loss_of(model, *pairs.batch(step), alphas, step)

    train(path, model, of_step, minutes, RATE, hold, time.process_time, begin)


def noise_loss(model: UNet, x_0: Tensor, pictures: Tensor, alphas: Tensor, step: int) -> Tensor:
    """Returns the weighted squared error of the predicted noise, for latents and small pictures (N, 3, h, w)."""
    alpha, noise, predicted = _predicted(model, x_0, pictures, alphas, step)
    snr = alpha / (1 - alpha)
    return ((predicted - noise).square().mean((1, 2, 3)) * snr.clamp_max(MIN_SNR) / snr).mean()


def velocity_loss(model: UNet, x_0: Tensor, pictures: Tensor, alphas: Tensor, step: int) -> Tensor:
    """Returns the weighted squared error of the predicted velocity; arguments as above."""
    alpha, noise, predicted = _predicted(model, x_0, pictures, alphas, step)
    snr = alpha / (1 - alpha)
    velocity = alpha.sqrt()[:, None, None, None] * noise - (1 - alpha).sqrt()[:, None, None, None] * x_0
    weight = snr.clamp_max(MIN_SNR) / (snr + 1) + COLOURS
    return ((predicted - velocity).square().mean((1, 2, 3)) * weight).mean()


def _predicted(model: UNet, x_0: Tensor, pictures: Tensor, alphas: Tensor, step: int) -> tuple[Tensor, Tensor, Tensor]:
    """Returns alphas_cumprod (N,) of timesteps of all noise levels, the noise, and the output for the noisy latents."""
    x_t, t, noise = noised(x_0, alphas, step)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        predicted = model(torch.cat([x_t, pictures], 1), t)
    return alphas[t], noise, predicted.float()
