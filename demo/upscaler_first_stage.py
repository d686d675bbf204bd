"""Trains the upscaler's first stage: the demo's own, taught large portraits, and without attention."""

from __future__ import annotations

import dataclasses
import logging
import time
from pathlib import Path

import numpy as np
import torch
from train_common import Budget, descend, restore, save_state, set_rate
from train_data import to_tensor
from train_first_stage import CONFIG as PORTRAITS_CONFIG
from train_first_stage import CodebookTrainer, encode_all, first_stage_step, psnr, standardise
from upscaler_data import halve, held_out_portraits, training_portraits

import ldm_backend
from ldm_backend.networks.vq import VQModel

PORTRAITS = Path(__file__).with_name("portraits-128")
# Without attention, as the first stage of the original inpainting model: no cell depends on the size of the picture,
# and tiles of a large one are exact.
CONFIG = dataclasses.replace(PORTRAITS_CONFIG, sample_size=256, mid_block_add_attention=False)
CROP, BATCH = 128, 8
RATE = 8e-4
SAVE_EVERY = 250

log = logging.getLogger("comfyui_ldm.demo")


def crops(images: np.ndarray, step: int, batch: int, side: int) -> np.ndarray:
    """Returns `batch` square parts of uint8 portraits, of every second one at half its size; the same for each step."""
    rng = np.random.default_rng((7, step))
    parts = []
    for number in range(batch):
        image = images[rng.integers(len(images))]
        image = halve(image) if number % 2 else image
        y, x = rng.integers(image.shape[0] - side + 1, size=2) // 4 * 4
        parts.append(image[y : y + side, x : x + side])
    return np.stack(parts)


def train_first_stage(work: Path, minutes: float) -> None:
    """Trains until the budget is used; writes first-stage.pt (resumable) and vqvae.pt (the finished weights)."""
    images, held_out = training_portraits(work), held_out_portraits(work)
    known = ldm_backend.load(PORTRAITS, "cpu").first_stage.state_dict()
    model = VQModel(CONFIG)
    model.load_state_dict({key: known[key] for key in model.state_dict()})
    model.quantize.embedding.weight.requires_grad_(False)
    optimizer = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=RATE, betas=(0.9, 0.99))
    state = restore(work / "first-stage.pt", model, optimizer)
    codes = CodebookTrainer(model.quantize.embedding.weight, state.get("counts"), state.get("sums"))
    step, budget = state.get("step", 0), Budget(minutes, state.get("used", 0.0), time.process_time)
    done = budget.progress >= 1
    while not done:
        set_rate(optimizer, RATE, step, budget.progress, hold=0.6)
        loss = first_stage_step(model, codes, to_tensor(crops(images, step, BATCH, CROP)), step)
        descend(model, optimizer, loss)
        step += 1
        if step % 50 == 0:
            log.info("first stage step %d progress %.3f loss %.4f", step, budget.progress, loss.item())
        done = budget.progress >= 1
        if step % SAVE_EVERY == 0 or done:
            save_state(work / "first-stage.pt", model, optimizer, counts=codes.counts, sums=codes.sums, step=step,
                       used=budget.used)  # fmt: skip
    standardise(model, encode_all(model, crops(images, 0, 512, CROP)))
    torch.save(model.state_dict(), work / "vqvae.pt")
    log.info("first stage done: %d steps, PSNR %.2f dB", step, psnr(model, crops(held_out, 0, 128, CROP)))
