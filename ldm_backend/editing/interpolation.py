"""Paths between latents: along a great circle from one to the other, or round a closed loop through both.

Noise of d dimensions has a norm of about sqrt(d), and a denoiser knows no other. The straight line between two noises
leaves that shell (halfway the norm is sqrt(d / 2)) and gives flat, dull images; the great circle stays on it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.linalg import vector_norm

from ..errors import InputError

# Below this sine of the angle the weights of a great circle are a quotient of rounding errors. There the vectors agree
# to six digits, and a straight line is the same path.
_PARALLEL = 1e-6

_QUARTERS = ((1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0))  # cos, sin; math.cos(pi / 2) is not quite 0


def slerp(a: Tensor, b: Tensor, t: float) -> Tensor:
    """Spherical interpolation, for each image by itself over all its numbers.

    The norm goes evenly from that of a to that of b where both are alike, as with noise. The angle is computed in
    float64. A straight line replaces the circle only where a and b are parallel (the same seed twice), since their
    circle is not defined and the line is its limit, and where one of them is zero and has no direction.

    Args:
        a: (N, C, H, W), any norm, on the device to work on.
        b: Likewise, but anywhere.
        t: 0..1; 0 gives a and 1 gives b bit for bit.

    Returns:
        (N, C, H, W) in the dtype and on the device of a.

    Raises:
        InputError: Other shapes, t out of range, or an image of b that is opposite to that of a.

    Source: Shoemake, Animating Rotation with Quaternion Curves, 1985, equation for Slerp.
    """
    _check_shapes(a, b)
    if not 0.0 <= t <= 1.0:
        raise InputError(f"t is {t}; expected 0 (the first latent) to 1 (the second).")
    b = b.to(a.device)
    angle = _angles(a, b).view(-1, 1, 1, 1)
    sine = torch.sin(angle)
    straight = sine < _PARALLEL
    if bool((straight & (angle > 1.0)).any()):
        raise InputError(
            "The two latents are exact opposites, and every way round from one to the other is as short. Take another "
            "second latent, or the path circle."
        )
    sine = torch.where(straight, 1.0, sine)
    weight_a = torch.where(straight, 1.0 - t, torch.sin((1.0 - t) * angle) / sine)
    weight_b = torch.where(straight, t, torch.sin(t * angle) / sine)
    return (weight_a * a.double() + weight_b * b.double()).to(a.dtype)


def line(a: Tensor, b: Tensor, frames: int) -> Tensor:
    """The great circle's arc from a to b in even steps, both ends included.

    Args:
        a: (1, C, H, W).
        b: likewise.
        frames: At least 2.

    Returns:
        (frames, C, H, W); the first is a and the last is b bit for bit.

    Raises:
        InputError: As `slerp`, or too few frames.
    """
    _check_path(a, b, frames)
    return torch.cat([slerp(a, b, index / (frames - 1)) for index in range(frames)])


def circle(a: Tensor, b: Tensor, frames: int) -> Tensor:
    """The closed loop cos(theta) a + sin(theta) b, theta from 0 to 2 pi without the end, which is the start.

    The norm stays that of noise because independent noises are nearly orthogonal: for d numbers the cosine between
    them is about 1 / sqrt(d), 0.009 for 3x64x64, and the norm varies by half of that. b is not made exactly
    orthogonal, so that it is on the loop itself: a quarter of the way is b bit for bit where `frames` is a multiple
    of 4. Halfway is -a, noise like any other; of a finished latent it is a negative.

    Args:
        a: (1, C, H, W).
        b: likewise.
        frames: At least 2.

    Returns:
        (frames, C, H, W); the first is a.

    Raises:
        InputError: Other shapes, too few frames, or a and b on one line, where the loop passes through zero.
    """
    _check_path(a, b, frames)
    b = b.to(a.device)
    if bool((torch.sin(_angles(a, b)) < _PARALLEL).any()):
        raise InputError(
            "The two latents are the same or multiples of each other, which span no circle. Take another second latent."
        )
    points = []
    for index in range(frames):
        quarter, rest = divmod(4 * index, frames)
        theta = math.tau * index / frames
        cosine, sine = (math.cos(theta), math.sin(theta)) if rest else _QUARTERS[quarter]
        points.append((cosine * a.double() + sine * b.double()).to(a.dtype))
    return torch.cat(points)


PATHS = {"line": line, "circle": circle}


def _angles(a: Tensor, b: Tensor) -> Tensor:
    """(N,) float64 angles between the images of a and b in 0..pi; 0 where one of them is zero."""
    flat_a, flat_b = a.double().flatten(1), b.double().flatten(1)
    norm_a = vector_norm(flat_a, dim=1, keepdim=True)
    norm_b = vector_norm(flat_b, dim=1, keepdim=True)
    unit_a, unit_b = flat_a / norm_a.clamp_min(1e-300), flat_b / norm_b.clamp_min(1e-300)
    # Half the angle, from both diagonals of the rhombus: exact for tiny angles too, where arccos loses half the digits.
    half = torch.atan2(vector_norm(unit_a - unit_b, dim=1), vector_norm(unit_a + unit_b, dim=1))
    defined = (norm_a > 0).logical_and(norm_b > 0).squeeze(1)
    return torch.where(defined, 2.0 * half, 0.0)


def _check_shapes(a: Tensor, b: Tensor) -> None:
    if a.shape != b.shape or a.ndim != 4:
        raise InputError(
            f"The latents have the shapes {tuple(a.shape)} and {tuple(b.shape)}; expected the same (N, C, H, W). Make "
            "both with the same size and model."
        )


def _check_path(a: Tensor, b: Tensor, frames: int) -> None:
    _check_shapes(a, b)
    if a.shape[0] != 1:
        raise InputError(f"A path leads from one latent to one other; got {a.shape[0]} of each. Give them one by one.")
    if frames < 2:
        raise InputError(f"frames is {frames}; expected at least 2, the two ends.")
