"""Writes the trained weights as a Hugging Face folder that this project and diffusers load."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from pathlib import Path

import torch
from portraits import contact_sheet
from safetensors.torch import save
from train_common import read_state
from train_data import COUNT, HELD_OUT, load_portraits
from train_diffusion import CONFIG as UNET_CONFIG
from train_diffusion import SCHEDULE
from train_first_stage import CONFIG as VQ_CONFIG
from train_first_stage import psnr

import ldm_backend
from ldm_backend.config.conditioning import conditioning_to_json
from ldm_backend.config.model import LDMConfig
from ldm_backend.networks.vq import VQModel

CARD = Path(__file__).with_name("model_card.md")
WEIGHTS = "diffusion_pytorch_model.safetensors"
CLASSES = {
    "scheduler": ["diffusers", "DDIMScheduler"],
    "unet": ["diffusers", "UNet2DModel"],
    "vqvae": ["diffusers", "VQModel"],
}

log = logging.getLogger("comfyui_ldm.demo")


def export(work: Path, out: Path) -> None:
    """Writes the averaged weights of the newest state, finished or not, with configuration, card and checksums.

    It also samples 16 portraits into samples.png in the work folder.
    """
    state, vq_weights = trained_weights(work)
    config = LDMConfig(unet=UNET_CONFIG, first_stage=VQ_CONFIG, schedule=SCHEDULE)
    write_model(out, "LDMPipeline", config, state["ema"], vq_weights)
    write_card(out, CARD, _numbers(work, state, vq_weights))
    log.info("wrote %s at diffusion step %d", out, state["step"])
    sample_sheet(out, work / "samples.png")
    log.info("look at %s", work / "samples.png")


def trained_weights(work: Path) -> tuple[dict, dict[str, torch.Tensor]]:
    """Returns the newest state of the diffusion model, and the finished first stage."""
    state = read_state(work / "diffusion.pt")
    if not state:
        raise SystemExit(f"{work}: no diffusion.pt; train the diffusion stage first.")
    return state, torch.load(work / "vqvae.pt", weights_only=True)


def write_model(
    out: Path, pipeline: str | None, config: LDMConfig, unet: dict[str, torch.Tensor], vqvae: dict[str, torch.Tensor]
) -> None:
    """Writes configuration and weights, for a pipeline class of diffusers; None where it has none for the task."""
    if pipeline is not None:
        write_json(out / "model_index.json", {"_class_name": pipeline, **CLASSES})
    elif config.conditioning is not None:
        write_json(out / "conditioner" / "config.json", conditioning_to_json(config.conditioning))
    write_json(out / "unet" / "config.json", config.unet.to_dict())
    write_json(out / "vqvae" / "config.json", config.first_stage.to_dict())
    write_json(out / "scheduler" / "scheduler_config.json", config.schedule.to_dict())
    write_weights(out / "unet" / WEIGHTS, unet)
    write_weights(out / "vqvae" / WEIGHTS, vqvae)


def write_card(out: Path, template: Path, numbers: dict[str, str]) -> None:
    """Writes the card with the figures of a run, and the checksums of all files."""
    write_text(out / "README.md", template.read_text(encoding="utf-8").format(**numbers))
    _write_checksums(out)


def sample_sheet(folder: Path, path: Path, count: int = 16, steps: int = 50) -> None:
    """Samples seeds 0 .. `count - 1` with the public API into one picture, to be looked at."""
    images = ldm_backend.generate(ldm_backend.load(folder), seeds=range(count), steps=steps)
    contact_sheet(images).save(path)


def _numbers(work: Path, state: dict, vq_weights: dict[str, torch.Tensor]) -> dict[str, str]:
    """Returns the figures of this run for the model card."""
    vq = VQModel(VQ_CONFIG)
    vq.load_state_dict(vq_weights)
    quality = psnr(vq, load_portraits(work, COUNT, HELD_OUT))
    return {
        **training_numbers(work, state, vq_weights),
        "portraits": f"{COUNT:,}",
        "psnr": f"{quality:.1f}",
        "held_out": str(HELD_OUT),
    }


def training_numbers(work: Path, state: dict, vq_weights: dict[str, torch.Tensor]) -> dict[str, str]:
    """Returns what the states of any run tell of it."""
    first = read_state(work / "first-stage.pt")
    return {
        "vq_parameters": f"{sum(v.numel() for v in vq_weights.values()):,}",
        "vq_steps": f"{first['step']:,}",
        "vq_minutes": f"{first['used'] / 60:.0f}",
        "unet_parameters": f"{sum(v.numel() for v in state['ema'].values()):,}",
        "unet_steps": f"{state['step']:,}",
        "unet_minutes": f"{state['used'] / 60:.0f}",
        "loss": f"{state['loss']:.3f}",
    }


def write_json(path: Path, data: dict) -> None:
    """Writes a configuration."""
    write_text(path, json.dumps(data, indent=2, sort_keys=True) + "\n")


def write_text(path: Path, text: str) -> None:
    """Writes a text, and the folders that it lies in."""
    _replace(path, text.encode())


def write_weights(path: Path, weights: dict[str, torch.Tensor]) -> None:
    """Writes tensors as a safetensors file."""
    _replace(path, save({name: value.contiguous() for name, value in weights.items()}, {"format": "pt"}))


def _write_checksums(out: Path) -> None:
    files = sorted(p for p in out.rglob("*") if p.is_file() and p.name != "SHA256SUMS")
    lines = [f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.relative_to(out).as_posix()}\n" for p in files]
    write_text(out / "SHA256SUMS", "".join(lines))


def _replace(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".part")
    partial.write_bytes(content)
    os.replace(partial, path)
