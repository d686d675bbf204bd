"""Writes the trained upscaler as a folder of diffusers' LDMSuperResolutionPipeline, and measures it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from portraits import contact_sheet
from train_common import read_state
from train_export import trained_weights, training_numbers, write_card, write_model
from upscaler_data import COUNT, HELD_OUT, SCALE, SIZE, degrade, held_out_portraits
from upscaler_diffusion import CONFIG as UNET_CONFIG
from upscaler_diffusion import SCHEDULE
from upscaler_first_stage import CONFIG as VQ_CONFIG

import ldm_backend
from ldm_backend.config.conditioning import LowResolutionConfig
from ldm_backend.config.model import LDMConfig
from ldm_backend.pipeline import LatentDiffusion
from ldm_backend.views.images import from_uint8, to_uint8

CARD = Path(__file__).with_name("upscaler_card.md")
SHOWN = 6  # portraits in the picture to be looked at

Enlarge = Callable[[np.ndarray], np.ndarray]

log = logging.getLogger("comfyui_ldm.demo")


def export(work: Path, out: Path) -> None:
    """Writes the averaged weights of the newest state, finished or not, with configuration, card and checksums.

    The card says how near enlarged held-out portraits come to what they were made from. Some of them go into
    samples.png in the work folder, each small, by Lanczos, by the model, and as it was.
    """
    state, vq_weights = trained_weights(work)
    config = LDMConfig(unet=UNET_CONFIG, first_stage=VQ_CONFIG, schedule=SCHEDULE, conditioning=LowResolutionConfig())
    write_model(out, "LDMSuperResolutionPipeline", config, state["ema"], vq_weights)
    numbers = _measured(ldm_backend.load(out, "cpu"), held_out_portraits(work), work / "samples.png")
    log.info("measured %s", numbers)
    numbers |= training_numbers(work, state, vq_weights)
    numbers |= {"portraits": f"{COUNT:,}", "noise_minutes": f"{read_state(work / 'noise.pt')['used'] / 60:.0f}"}
    write_card(out, CARD, numbers)
    log.info("wrote %s at diffusion step %d; look at %s", out, state["step"], work / "samples.png")


def _measured(model: LatentDiffusion, large: np.ndarray, picture: Path) -> dict[str, str]:
    """Compares ways to enlarge on held-out portraits (N, SIZE, SIZE, 3); writes the first few side by side."""
    small = np.stack([degrade(image, np.random.default_rng((13, index))) for index, image in enumerate(large)])
    ways: dict[str, Enlarge] = {
        "bicubic": lambda image: _resized(image, Image.Resampling.BICUBIC),
        "lanczos": lambda image: _resized(image, Image.Resampling.LANCZOS),
        "model": lambda image: ldm_backend.upscale(model, image[None], [0])[0],
    }
    made = {name: np.stack([enlarge(image) for image in small]) for name, enlarge in ways.items()}
    made["first_stage"] = np.stack([_reconstructed(model, image) for image in large])
    columns = [np.stack([_resized(image, Image.Resampling.NEAREST) for image in small[:SHOWN]])]
    columns += [images[:SHOWN] for images in (made["lanczos"], made["model"], large)]
    contact_sheet(np.stack(columns, 1).reshape(-1, SIZE, SIZE, 3), len(columns)).save(picture)
    numbers = {"held_out": str(HELD_OUT), "scale": str(SCALE)}
    for name, images in made.items():
        numbers[f"{name}_psnr"] = f"{_psnr(images, large):.1f}"
        numbers[f"{name}_colours"] = f"{_colour_error(images, large):.1f}"
        numbers[f"{name}_edges"] = f"{_edge_error(images, large):.2f}"
    return numbers


def _resized(image: np.ndarray, resampling: Image.Resampling) -> np.ndarray:
    height, width = (side * SCALE for side in image.shape[:2])
    return np.asarray(Image.fromarray(image).resize((width, height), resampling))


@torch.no_grad()
def _reconstructed(model: LatentDiffusion, image: np.ndarray) -> np.ndarray:
    """What the first stage alone makes of a large picture: more than this no latent can say."""
    return to_uint8(model.first_stage.decode(model.first_stage.encode(from_uint8(image[None].copy()))))[0]


def _psnr(images: np.ndarray, truth: np.ndarray) -> float:
    """Mean over pictures, in dB."""
    errors = np.square(images.astype(np.float64) - truth).mean((1, 2, 3))
    return float(np.mean(10 * np.log10(255**2 / errors)))


def _colour_error(images: np.ndarray, truth: np.ndarray) -> float:
    """Mean error, in levels, of averages over areas of 64 x 64 pixels."""
    error = images.astype(np.float64) - truth
    count, side, _, channels = error.shape
    return float(np.abs(error.reshape(count, side // 64, 64, side // 64, 64, channels).mean((2, 4))).mean())


def _edge_error(images: np.ndarray, truth: np.ndarray) -> float:
    """Mean error, in levels, of the step from each pixel to the next: edges that are soft, elsewhere, or invented."""
    error = images.astype(np.float64) - truth
    return float(np.abs(np.diff(error, axis=1)).mean() + np.abs(np.diff(error, axis=2)).mean()) / 2
