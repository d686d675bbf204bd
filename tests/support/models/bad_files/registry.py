"""The list of all cases, and how they come into it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

Spoil = Callable[[Path], Path | None]
CASES: dict[str, tuple[Spoil, str]] = {}

UNET = Path("unet") / "diffusion_pytorch_model.safetensors"
VQ = Path("vqvae") / "diffusion_pytorch_model.safetensors"
KEY = "conv_in.weight"  # (8, 3, 3, 3) float32


def bad(message: str, **variants: Any) -> Callable[[Callable[..., Path | None]], Callable[..., Path | None]]:
    """Register a case, or one for each of `variants`, whose value the function gets as its second argument."""

    def register(spoil: Callable[..., Path | None]) -> Callable[..., Path | None]:
        name = spoil.__name__.replace("_", " ").strip()
        if not variants:
            CASES[name] = (spoil, message)
        for variant, value in variants.items():
            CASES[f"{name}: {variant.replace('_', ' ')}"] = (lambda f, value=value: spoil(f, value), message)
        return spoil

    return register
