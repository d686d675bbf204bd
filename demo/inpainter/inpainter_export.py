"""Writes the trained inpainter as a folder, and measures it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
from inpainter_data import COUNT, HELD_OUT, HOLES, PORTRAITS, held_out
from inpainter_diffusion import CONFIG, SCHEDULE
from portraits import contact_sheet
from train_common import read_state
from train_export import write_card, write_model
from train_first_stage import CONFIG as VQ_CONFIG

import ldm_backend
from ldm_backend.config.conditioning import MaskedImageConfig
from ldm_backend.config.model import LDMConfig

CARD = Path(__file__).with_name("inpainter_card.md")
SHOWN = 8  # portraits in the picture to be looked at

Fill = Callable[[np.ndarray, np.ndarray], np.ndarray]

log = logging.getLogger("comfyui_ldm.demo")


def export(work: Path, out: Path) -> None:
    """Writes the averaged weights of the newest state, finished or not, with configuration, card and checksums.

    Those of the UNet in float16, which halves the folder. The card says how near filled holes in held-out portraits
    come to what was there. Some of them go into samples.png in the work folder.
    """
    state, noise = (read_state(work / f"{name}.pt") for name in ("diffusion", "noise"))
    if not state:
        raise SystemExit(f"{work}: no diffusion.pt; train it first.")
    config = LDMConfig(unet=CONFIG, first_stage=VQ_CONFIG, schedule=SCHEDULE, conditioning=MaskedImageConfig())
    first_stage = ldm_backend.load(PORTRAITS, "cpu").first_stage.state_dict()
    write_model(out, None, config, {name: value.half() for name, value in state["ema"].items()}, first_stage)
    numbers = _measured(ldm_backend.load(out, "cpu"), *held_out(work), work / "samples.png")
    log.info("measured %s", numbers)
    numbers |= {
        "portraits": f"{COUNT:,}",
        "holes": str(HOLES),
        "held_out": str(HELD_OUT),
        "unet_parameters": f"{sum(value.numel() for value in state['ema'].values()):,}",
        "unet_steps": f"{state['step']:,}",
        "unet_minutes": f"{state['used'] / 60:.0f}",
        "noise_steps": f"{noise['step']:,}",
        "noise_minutes": f"{noise['used'] / 60:.0f}",
        "loss": f"{state['loss']:.3f}",
    }
    write_card(out, CARD, numbers)
    log.info("wrote %s at diffusion step %d; look at %s", out, state["step"], work / "samples.png")


def _measured(
    model: ldm_backend.LatentDiffusion, portraits: np.ndarray, holes: np.ndarray, picture: Path
) -> dict[str, str]:
    """Compares ways to fill the holes (N, H, W) of portraits (N, H, W, 3); writes the first few side by side."""
    free = ldm_backend.load(PORTRAITS, "cpu")
    seeds = range(len(portraits))
    ways: dict[str, Fill] = {
        "mean": _with_means,
        "guided": lambda images, masks: ldm_backend.restore(free, images, seeds, "inpaint", masks=masks),
        "model": lambda images, masks: ldm_backend.inpaint(model, images, masks, seeds),
    }
    made = {name: fill(portraits, holes) for name, fill in ways.items()}
    grey = np.where(holes[..., None], 128, portraits).astype(np.uint8)
    columns = [images[:SHOWN] for images in (grey, made["guided"], made["model"], portraits)]
    contact_sheet(np.stack(columns, 1).reshape(-1, *portraits.shape[1:]), len(columns)).save(picture)
    numbers = {}
    for name, images in made.items():
        numbers[f"{name}_psnr"] = f"{_psnr(images, portraits, holes):.1f}"
        numbers[f"{name}_seam"] = f"{_seam(images, portraits, holes):.1f}"
    return numbers


def _with_means(portraits: np.ndarray, holes: np.ndarray) -> np.ndarray:
    """Each hole in the mean colour of the rest."""
    filled = portraits.copy()
    for image, hole in zip(filled, holes, strict=True):
        image[hole] = image[~hole].mean(0)
    return filled


def _psnr(images: np.ndarray, truth: np.ndarray, holes: np.ndarray) -> float:
    """Mean over pictures, in dB, of the pixels in the holes."""
    squares = np.square(images.astype(float) - truth).mean(3)
    errors = [square[hole].mean() for square, hole in zip(squares, holes, strict=True)]
    return float(np.mean(10 * np.log10(255**2 / np.array(errors))))


def _seam(images: np.ndarray, truth: np.ndarray, holes: np.ndarray) -> float:
    """Mean error, in levels, of the step from a pixel on one side of a hole's edge to that on the other."""
    error = images.astype(float) - truth
    steps = []
    for axis in (1, 2):
        steps.append(np.abs(np.diff(error, axis=axis)).mean(3)[np.diff(holes, axis=axis)])
    return float(np.concatenate(steps).mean())
