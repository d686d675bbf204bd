"""Trains the diffusion model on the latents of the drawn portraits."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from train_common import batch_indices, train
from train_data import COUNT, load_portraits
from train_first_stage import CONFIG as VQ_CONFIG
from train_first_stage import encode_all

from ldm_backend.config.model import ScheduleConfig, UNetConfig
from ldm_backend.networks.unet import UNet
from ldm_backend.networks.vq import VQModel
from ldm_backend.sampling.schedule import Schedule

# The four levels of the real model, with attention in all but the finest: there the symmetry of a face (two eyes, two
# ears) is settled. The widths grow slowly because the fine levels cost the time and the coarse ones the bytes.
CONFIG = UNetConfig(
    sample_size=32,
    block_out_channels=(48, 64, 96, 128),
    layers_per_block=1,
    attention_head_dim=32,
    norm_num_groups=16,
)
SCHEDULE = ScheduleConfig()  # the family's own: 1000 steps, 0.0015 .. 0.0195
BATCH = 32  # more steps are worth more than larger batches in a run of a few thousand
RATE = 8e-4  # high for this family, but the network is small and the run short
MIN_SNR = 5.0  # clamps the weight of almost noiseless steps, which teach little (min-SNR-gamma, arXiv 2303.09556)

log = logging.getLogger("comfyui_ldm.demo")


def load_latents(work: Path) -> Tensor:
    """Returns the latents of all portraits (COUNT, 3, 32, 32), encoded once.

    Mirroring them would add nothing: each trait of a portrait is as likely on the left as on the right.
    """
    path = work / "latents.npy"
    if not path.is_file():
        log.info("encoding %d portraits", COUNT)
        vq = VQModel(VQ_CONFIG)
        vq.load_state_dict(torch.load(work / "vqvae.pt", weights_only=True))
        with torch.autocast("cpu", dtype=torch.bfloat16):  # its rounding is far below the quantiser's
            latents = encode_all(vq, load_portraits(work, 0, COUNT)).float()
        log.info("latents: mean %s, std %s", latents.mean((0, 2, 3)).tolist(), latents.std((0, 2, 3)).tolist())
        partial = path.with_suffix(".part.npy")
        np.save(partial, latents.numpy())
        partial.replace(path)
    return torch.from_numpy(np.load(path))


def train_diffusion(work: Path, minutes: float) -> None:
    """Trains until the budget is used; writes diffusion.pt (resumable; its entry "ema" holds the weights to keep)."""
    latents = load_latents(work)
    alphas = Schedule(SCHEDULE).alphas_cumprod.float()
    torch.manual_seed(0)  # of the first weights
    model = UNet(CONFIG)  # plain layout: group norm's gradient is slow channels-last

    def loss_of(step: int) -> Tensor:
        return diffusion_loss(model, latents[batch_indices(2, step, COUNT, BATCH)], alphas, step)

    train(work / "diffusion.pt", model, loss_of, minutes, RATE, hold=0.7)


def diffusion_loss(model: UNet, x_0: Tensor, alphas: Tensor, step: int) -> Tensor:
    """Returns the weighted squared error of the predicted noise for a batch of latents (N, 3, h, w)."""
    x_t, t, noise = noised(x_0, alphas, step)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        eps = model(x_t, t)
    snr = alphas[t] / (1 - alphas[t])
    error = eps.float() - noise
    loss = error.square().mean((1, 2, 3)) * snr.clamp_max(MIN_SNR) / snr
    return (loss + mean_error(error, snr)).mean()


def noised(x_0: Tensor, alphas: Tensor, step: int) -> tuple[Tensor, Tensor, Tensor]:
    """Returns noisy latents (N, 3, h, w), their timesteps (N,) and their noise; the same for each step.

    The timesteps of a batch are stratified, one in each of N equal ranges: the loss of a range differs from another's
    by far more than between portraits.
    """
    generator = torch.Generator().manual_seed(1_000_000 + step)
    count = len(x_0)
    t = ((torch.arange(count) + torch.rand(count, generator=generator)) / count * len(alphas)).long()
    noise = torch.randn(x_0.shape, generator=generator)
    alpha = alphas[t][:, None, None, None]
    return alpha.sqrt() * x_0 + (1 - alpha).sqrt() * noise, t, noise


def mean_error(error: Tensor, snr: Tensor) -> Tensor:
    """Returns the extra loss (N,) for the mean over a whole picture of an error (N, 3, h, w).

    The mean over 1024 cells is a thousandth of the plain loss and group norm hides it from the network, but at high
    noise its error counts up to 80 times on the way to x_0: a model that ignores it paints faces under coloured light.
    The extra weight lets it be learnt in this short run; the best prediction, E[noise | x_t], stays the same. It fades
    where the mean of the noise can no longer be told from that of the picture.
    """
    return 256 * error.mean((2, 3)).square().mean(1) / (1 + 300 * snr)
