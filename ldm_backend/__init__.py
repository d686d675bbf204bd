"""Latent diffusion models of the CompVis/ldm-celebahq-256 family in plain PyTorch, without any host.

    model = ldm_backend.load("path/to/ldm-celebahq-256")
    images = ldm_backend.generate(model, seeds=[3], steps=200, eta=0.0)  # uint8 (1, 256, 256, 3)

Read on in this order: checkpoints.checkpoint, sampling (noise, schedule, samplers), networks (unet, vq),
views.images; pipeline wires them. Below these are kernels, memory and config.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import errors
from .errors import LDMError

if TYPE_CHECKING:
    from .checkpoints.first_stage import load_first_stage
    from .pipeline import LatentDiffusion, generate, load

__all__ = ["LDMError", "LatentDiffusion", "errors", "generate", "load", "load_first_stage"]

# Imported at first use: `errors` alone must not cost the seconds that torch takes to import.
_HOMES = {
    "LatentDiffusion": "pipeline",
    "generate": "pipeline",
    "load": "pipeline",
    "load_first_stage": "checkpoints.first_stage",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
