"""Latent diffusion models of the CompVis/ldm-celebahq-256 family in plain PyTorch, without any host.

    model = ldm_backend.load("path/to/ldm-celebahq-256")
    images = ldm_backend.generate(model, seeds=[3], steps=200, eta=0.0)  # uint8 (1, 256, 256, 3)

Models that see a picture beside the noise: `upscale`, `inpaint`, `synthesise`; of classes, texts or vectors of CLIP:
`generate` with `classes=`, `prompts=` or `vectors=`.
Restoring pictures without such a model: `restore`; other guides of a run are in `guidance`. Timesteps and solvers
that are fitted to a model: `fit_steps`.

Read on in this order: checkpoints.checkpoint, sampling (noise, schedule, samplers), networks (unet, vq),
views.images; pipeline wires them. Below these are kernels, memory and config.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import errors
from .errors import LDMError

if TYPE_CHECKING:
    from .checkpoints.first_stage import load_first_stage
    from .fitting.files import read_fitted_steps, write_fitted_steps
    from .fitting.steps import fit_steps
    from .guidance.restoration import restore
    from .pipeline import LatentDiffusion, generate, load
    from .tasks.inpaint import inpaint
    from .tasks.synthesis import synthesise
    from .tasks.upscale import upscale

__all__ = [
    "LDMError", "LatentDiffusion", "errors", "fit_steps", "generate", "inpaint", "load", "load_first_stage",
    "read_fitted_steps", "restore", "synthesise", "upscale", "write_fitted_steps",
]  # fmt: skip

# Imported at first use: `errors` alone must not cost the seconds that torch takes to import.
_HOMES = {
    "LatentDiffusion": "pipeline",
    "fit_steps": "fitting.steps",
    "generate": "pipeline",
    "inpaint": "tasks.inpaint",
    "load": "pipeline",
    "load_first_stage": "checkpoints.first_stage",
    "read_fitted_steps": "fitting.files",
    "restore": "guidance.restoration",
    "synthesise": "tasks.synthesis",
    "upscale": "tasks.upscale",
    "write_fitted_steps": "fitting.files",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
