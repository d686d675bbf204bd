"""Latent diffusion models of the CompVis/ldm-celebahq-256 family in plain PyTorch, without any host.

    model = ldm_backend.load("path/to/ldm-celebahq-256")
    images = ldm_backend.generate(model, seeds=[3], steps=200, eta=0.0)  # uint8 (1, 256, 256, 3)

Read on in this order: checkpoint, noise, samplers (with schedule and unet), vq, images; pipeline wires them.
"""

from . import errors
from .errors import LDMError
from .pipeline import LatentDiffusion, generate, load

__all__ = ["LDMError", "LatentDiffusion", "errors", "generate", "load"]
