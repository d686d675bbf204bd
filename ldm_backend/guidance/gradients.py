"""Gradients of losses of the predicted picture, for each image by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..errors import InputError, SamplingError
from ..kernels.fp32 import fp32
from ..networks.first_stage import FirstStage
from .codecs import smooth_picture
from .measurements import BoundLoss


@contextmanager
def with_gradients() -> Iterator[None]:
    """A block in which torch notes what gradients need, also within `no_grad` or inference mode; float32 is exact."""
    with torch.inference_mode(False), torch.enable_grad(), fp32():
        yield


def check_weights(network: nn.Module, name: str) -> None:
    """Raise InputError where the weights of a network were made in inference mode, through which no gradient goes."""
    if any(weight.is_inference() for weight in network.parameters()):
        raise InputError(
            f"The weights of the {name} were loaded in torch.inference_mode, and no gradient goes through such "
            "tensors. Load the model outside of it, or take a projection, which needs no gradient."
        )


def tracked(x: Tensor) -> Tensor:
    """A copy of latents that gradients are taken for; to be called in `with_gradients`."""
    return x.detach().clone().requires_grad_(True)


def gradient(first_stage: FirstStage, loss: BoundLoss, z: Tensor, part: slice, x: Tensor | None = None) -> Tensor:
    """The gradient of a loss of pictures; to be called in `with_gradients`.

    Args:
        first_stage: That decodes them.
        loss: Of them.
        z: (n, C, h, w) their latents, computed from `x`.
        part: Which of the batch they are.
        x: (n, C, h, w) for what the gradient is taken, of `tracked`; None takes `z`. What `z` was computed by is kept
            for another gradient.

    Returns:
        (n, C, h, w). Each image has the gradient of its own loss.

    Raises:
        InputError: The loss has another shape, or no gradient.
        SamplingError: It is NaN or infinite.
    """
    picture = smooth_picture(first_stage, z)
    value = loss(picture, part)
    if not isinstance(value, Tensor) or tuple(value.shape) != (len(z),):
        found = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"type {type(value).__name__}"
        raise InputError(f"The loss of {len(z)} pictures has {found}; expected ({len(z)},), a number for each picture.")
    if not value.requires_grad:
        raise InputError(
            "The loss has no gradient: it does not depend on the picture, or was computed with detach, no_grad or in "
            f"inference mode (it is {value.detach().mean().item():g}). Change it to "
            "one that torch computes from the pictures."
        )
    _check_finite(value, "loss")
    (of_z,) = torch.autograd.grad(value.sum(), z)
    _check_finite(of_z, "gradient of the loss")
    if x is None:
        return of_z
    # On the way through the UNet it has the size of latents, or a network in fp16 would round it to zero.
    (found,) = torch.autograd.grad(z, x, normalised(of_z), retain_graph=True)
    _check_finite(found, "gradient through the UNet")
    return found * _sizes(of_z)


def _check_finite(values: Tensor, what: str) -> None:
    """Or `normalised` would make a gradient of nothing out of NaN, and the guide would be without effect."""
    bad = ~torch.isfinite(values).flatten(1).all(1) if values.ndim > 1 else ~torch.isfinite(values)
    if bool(bad.any()):
        raise SamplingError(
            f"The {what} of a guide is NaN or infinite for {int(bad.sum())} of {len(values)} pictures. Check what it "
            "computes of pictures in [-1, 1]; a root, for one, has no gradient at 0."
        )


def normalised(g: Tensor) -> Tensor:
    """A gradient divided by its root mean square, for each image by itself; zero stays zero."""
    size = _sizes(g)
    return torch.where(size > 0.0, g / size.clamp_min(torch.finfo(g.dtype).tiny), torch.zeros_like(g))


def _sizes(g: Tensor) -> Tensor:
    """(N, 1, 1, 1) root mean square of each image."""
    return g.square().mean((1, 2, 3), keepdim=True).sqrt()


def descended(z: Tensor, gradient_of: Callable[[Tensor], Tensor], length: float, inner: int) -> Tensor:
    """Latents after some moves against a gradient.

    Args:
        z: (n, C, h, w).
        gradient_of: The gradient for latents that are `tracked`.
        length: Root mean square of the first move; the later ones are shorter, so that they settle.
        inner: Moves.
    """
    for index in range(inner):
        with with_gradients():
            g = gradient_of(tracked(z))
        z = z - length / (index + 1) * normalised(g)
    return z
