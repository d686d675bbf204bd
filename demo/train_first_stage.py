"""Trains the first stage, VQ-f4: first as a plain autoencoder, then with its codebook."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from train_common import Budget, batch_indices, descend, restore, save_state, set_rate
from train_data import COUNT, HELD_OUT, SIZE, load_portraits, to_tensor

from ldm_backend.config.model import VQConfig
from ldm_backend.networks.vq import VQModel

# Two thirds of the arithmetic of a first stage lies at full resolution, so that is where it is thinnest. 2048 codes for
# three channels leave about 13 levels a channel: the quantiser costs about 1 dB.
CONFIG = VQConfig(sample_size=SIZE, block_out_channels=(16, 32, 64), layers_per_block=1, num_vq_embeddings=2048,
                  norm_num_groups=8)  # fmt: skip
BATCH = 8  # whole portraits: every pixel is a sample of the loss, so few pictures make a good gradient
RATE = 1.5e-3
FREE_UNTIL = 0.8  # progress at which the codebook joins; earlier its codes would chase a moving encoder
LATENT_NOISE = 0.05  # stands in for the quantiser until then and keeps neighbouring latents alike
DECAY = 0.98  # of the moving averages that the codes follow
SAVE_EVERY = 250

log = logging.getLogger("comfyui_ldm.demo")


class CodebookTrainer:
    """Moves each code to the moving average of the latents it stands for, and revives the unused ones.

    Args:
        weight: The codebook (codes, channels), changed in place.
        counts: Moving average of how often each code is used, 1 on average; from an earlier run.
        sums: Moving average of the sums of its latents; from an earlier run.
    """

    def __init__(self, weight: Tensor, counts: Tensor | None = None, sums: Tensor | None = None) -> None:
        self.weight = weight
        self.counts = torch.ones(len(weight)) if counts is None else counts
        self.sums = weight.detach().clone() if sums is None else sums

    @torch.no_grad()
    def k_means(self, latents: Tensor, rounds: int = 12) -> None:
        """Starts the codes at the cluster centres of `latents` (N, channels)."""
        self.weight.copy_(latents[: len(self.weight)])
        for _ in range(rounds):
            nearest = torch.cat([torch.cdist(part, self.weight).argmin(1) for part in latents.split(4096)])
            self.counts = torch.bincount(nearest, minlength=len(self.weight)).float()
            self.sums = torch.zeros_like(self.weight).index_add_(0, nearest, latents)
            self._move(latents, least=1.0)
        self.counts *= 1 / self.counts.mean()
        self.sums = self.weight * self.counts[:, None]

    @torch.no_grad()
    def update(self, latents: Tensor, nearest: Tensor, revive: bool) -> None:
        """Follows one batch: `latents` (N, channels) with the indices of their codes (N,)."""
        counts = torch.bincount(nearest, minlength=len(self.weight)).float()
        share = len(self.weight) / len(latents)  # so that an average code has count 1
        self.counts.lerp_(counts * share, 1 - DECAY)
        sums = torch.zeros_like(self.weight).index_add_(0, nearest, latents) * share
        self.sums.lerp_(sums, 1 - DECAY)
        self._move(latents, least=0.01 if revive else 0.0)

    def _move(self, latents: Tensor, least: float) -> None:
        dead = (self.counts < least).nonzero().flatten()
        if len(dead):
            fresh = latents[torch.from_numpy(np.random.default_rng(len(dead)).integers(len(latents), size=len(dead)))]
            self.sums[dead], self.counts[dead] = fresh, 1.0
        self.weight.copy_(self.sums / self.counts.clamp_min(1e-3)[:, None])


def reconstruction_loss(output: Tensor, target: Tensor) -> Tensor:
    """L1 and L2, plus L1 of the differences between neighbouring pixels, which keeps edges sharp.

    The L2 of averages over 8 x 8 pixels keeps the colours of large areas right.
    """
    error = output - target
    edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
    return error.abs().mean() + error.square().mean() + edges + 4 * F.avg_pool2d(error, 8).square().mean()


def green_to_magenta(x: Tensor) -> Tensor:
    """Returns that colour axis of pictures (N, 3, H, W) at the latents' resolution, (N, h, w), about unit scale.

    Left alone, two latent channels learn light and blue to orange, and the third repeats the first for very long. The
    last channel is pulled here while the autoencoder is free, and the hint is dropped when the codebook joins.
    """
    red, green, blue = F.avg_pool2d(x, CONFIG.downscale).unbind(1)
    return 8 * (green - 0.5 * (red + blue))


@torch.no_grad()
def encode_all(model: VQModel, images: np.ndarray, batch: int = 8) -> Tensor:
    """Returns the un-quantised latents (N, 3, h, w) of uint8 portraits; small batches stay in the cache."""
    return torch.cat([model.encode(to_tensor(images[i : i + batch])) for i in range(0, len(images), batch)])


@torch.no_grad()
def standardise(model: VQModel, latents: Tensor) -> None:
    """Folds an affine map into the weights, so that `latents` would have had mean 0 and variance 1 per channel.

    The family has no latent scale factor (it is 1.0), therefore the weights must carry it.
    """
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))
    into, codes, out = model.quant_conv, model.quantize.embedding, model.post_quant_conv
    into_weight, into_bias = into.get_parameter("weight"), into.get_parameter("bias")
    out_weight, out_bias = out.get_parameter("weight"), out.get_parameter("bias")
    into_weight.div_(std[:, None, None, None])
    into_bias.sub_(mean).div_(std)
    codes.get_parameter("weight").sub_(mean).div_(std)
    out_bias.add_(out_weight[:, :, 0, 0] @ mean)
    out_weight.mul_(std[None, :, None, None])


@torch.no_grad()
def psnr(model: VQModel, images: np.ndarray) -> float:
    """Returns the PSNR (dB) of reconstructions through the quantiser, of uint8 portraits."""
    errors = []
    for i in range(0, len(images), 32):
        x = to_tensor(images[i : i + 32])
        errors.append((model.decode(model.encode(x)).clamp(-1, 1) - x).square().mean((1, 2, 3)))
    return float(10 * torch.log10(4 / torch.cat(errors)).mean())


def train_first_stage(work: Path, minutes: float) -> None:
    """Trains until the budget is used; writes first-stage.pt (resumable) and vqvae.pt (the finished weights)."""
    images, held_out = load_portraits(work, 0, COUNT), load_portraits(work, COUNT, HELD_OUT)
    torch.manual_seed(0)  # of the first weights
    model = VQModel(CONFIG)  # plain layout: group norm's gradient is slow channels-last
    model.quantize.embedding.weight.requires_grad_(False)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=RATE, betas=(0.9, 0.99))
    state = restore(work / "first-stage.pt", model, optimizer)
    codes = CodebookTrainer(model.quantize.embedding.weight, state.get("counts"), state.get("sums"))
    step, quantised = state.get("step", 0), state.get("quantised", False)
    budget = Budget(minutes, state.get("used", 0.0))
    done = budget.progress >= 1
    while not done:
        if not quantised and budget.progress >= FREE_UNTIL:
            start_codebook(model, codes, images[:256])
            quantised = True
            log.info("codebook joins at step %d, PSNR %.2f dB", step, psnr(model, held_out[:64]))
        set_rate(optimizer, RATE, step, budget.progress, hold=0.7)
        x = to_tensor(images[batch_indices(1, step, COUNT, BATCH).numpy()])
        loss = first_stage_step(model, codes if quantised else None, x, step)
        descend(model, optimizer, loss)
        step += 1
        if step % 25 == 0:
            log.info("first stage step %d progress %.3f loss %.4f", step, budget.progress, loss.item())
        done = budget.progress >= 1
        if step % SAVE_EVERY == 0 or done:
            save_state(work / "first-stage.pt", model, optimizer, counts=codes.counts, sums=codes.sums, step=step,
                       used=budget.used, quantised=quantised)  # fmt: skip
    standardise(model, encode_all(model, images[:2048]))
    torch.save(model.state_dict(), work / "vqvae.pt")
    log.info("first stage done: %d steps, PSNR %.2f dB on %d held-out portraits", step, psnr(model, held_out), HELD_OUT)


@torch.no_grad()
def start_codebook(model: VQModel, codes: CodebookTrainer, images: np.ndarray) -> None:
    """Standardises the latents and starts the codes among those of uint8 portraits."""
    standardise(model, encode_all(model, images))
    cells = encode_all(model, images).movedim(1, -1).reshape(-1, CONFIG.vq_embed_dim)
    codes.k_means(cells[torch.randperm(len(cells), generator=torch.Generator().manual_seed(0))[:65536]])


def first_stage_step(model: VQModel, codes: CodebookTrainer | None, x: Tensor, step: int) -> Tensor:
    """Returns the loss of a batch; `codes` is None while the autoencoder is still free."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z = model.encode(x).float()
    if codes is None:
        noise = torch.randn(z.shape, generator=torch.Generator().manual_seed(step))
        latent, extra = z + LATENT_NOISE * noise, 1e-3 * z.square().mean()  # the penalty keeps the noise relevant
        extra = extra + 0.3 * F.mse_loss(z[:, 2], green_to_magenta(x))
    else:
        nearest_codes, indices = model.quantize(z.detach())
        extra = 0.25 * F.mse_loss(z, nearest_codes)  # commitment: the encoder stays near its codes
        latent = z + (nearest_codes - z).detach()  # straight through
        cells = z.detach().movedim(1, -1).reshape(-1, z.shape[1])
        codes.update(cells, indices.flatten(), revive=step % 100 == 0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        output = model.decode(latent, quantize=False)
    return reconstruction_loss(output.float(), x) + extra
