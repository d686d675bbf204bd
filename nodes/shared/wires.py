"""What comes in by a wire. A prompt may hold any value where the editor draws a wire, and the host lets it pass."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ...ldm_backend.errors import InputError, short_repr


def samples_of(latent: Any, name: str = "latent") -> Tensor:
    """The samples of a LATENT, as they are; whether their shape fits, the networks say.

    Args:
        latent: What the host handed over.
        name: Of the input, for the message.

    Raises:
        InputError: It is no LATENT.
    """
    samples = latent.get("samples") if isinstance(latent, dict) else None
    if not isinstance(samples, Tensor):
        raise InputError(
            f"{name} is {_found(latent)}; expected a LATENT. Connect LDM Latent Noise, a sampler, or another node that "
            "gives latents."
        )
    return samples


def image_of(image: Any, name: str = "image") -> Tensor:
    """An IMAGE, (N, H, W, C).

    Raises:
        InputError: It is none.
    """
    return _tensor(
        image,
        name,
        (4,),
        "an IMAGE, (N, H, W, C). Connect LDM VQ Decode, Load Image, or another node that gives images.",
    )


def mask_of(mask: Any, name: str = "mask") -> Tensor:
    """A MASK, (N, H, W) or (H, W).

    Raises:
        InputError: It is none.
    """
    return _tensor(
        mask, name, (2, 3), "a MASK, (N, H, W). Connect the mask of Load Image, or another node that gives masks."
    )


def _tensor(value: Any, name: str, dimensions: tuple[int, ...], expected: str) -> Tensor:
    if not isinstance(value, Tensor) or value.ndim not in dimensions:
        raise InputError(f"{name} is {_found(value)}; expected {expected}")
    return value


def _found(value: Any) -> str:
    """A tensor by its shape, a value out of JSON as Python writes it, anything else by its type."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    if value is None or isinstance(value, bool | int | float | str):
        return short_repr(value)
    return f"a {type(value).__name__}"
