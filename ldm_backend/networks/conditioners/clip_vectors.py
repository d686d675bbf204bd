"""Vectors of CLIP as what the UNet attends to; nothing here has weights.

Source: CompVis scripts/knn2img.py (context of a prompt or a picture, then of its neighbours; zeros for none) and
    FrozenCLIPTextEmbedder.encode (ldm/modules/encoders/modules.py), which divides each vector by its length.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ...config.conditioning import VectorsConfig
from ...errors import InputError, short_repr

CLIP = "CLIP ViT-L/14 (openai/clip-vit-large-patch14), behind its projection"


def vectors_context(vectors: Tensor | Sequence[Tensor], config: VectorsConfig, images: int) -> Tensor:
    """The context of images.

    Args:
        vectors: (n, D) for all images, (1 or N, n, D), or one (n, D) for each; n from 1 to 21, of any length.
        config: Of the model.
        images: N.

    Returns:
        (N, n, D) float32, each vector of the length 1.

    Raises:
        InputError: Not such tensors, or a vector of zeros, which has no direction.
    """
    parts = vectors.unbind() if isinstance(vectors, Tensor) and vectors.ndim == 3 else vectors
    parts = [parts] if isinstance(parts, Tensor) else parts
    wanted = f"one tensor (1 to {config.tokens}, {config.embed_dim}) for all {images} seeds, or one for each"
    if not isinstance(parts, Sequence) or isinstance(parts, str) or len(parts) not in (1, images):
        raise InputError(f"vectors: {_found(vectors)}; expected {wanted}, as {CLIP} gives them.")
    each = [normalised(part, config) for part in parts]
    if len({len(one) for one in each}) > 1:
        counts = short_repr([len(one) for one in each])
        raise InputError(
            f"vectors: {counts} of them for the images; expected as many for each. Draw images of other numbers in a "
            "run of their own."
        )
    return torch.stack(each).expand(images, -1, -1)


def normalised(vectors: Tensor, config: VectorsConfig) -> Tensor:
    """(n, D) vectors of one image, each divided by its length, in float32.

    Raises:
        InputError: Of another shape, too many, or numbers that have no direction.
    """
    shape = f"(1 to {config.tokens}, {config.embed_dim})"
    if not isinstance(vectors, Tensor) or not vectors.is_floating_point() or vectors.ndim != 2:
        raise InputError(f"vectors: {_found(vectors)} for an image; expected floats {shape}, as {CLIP} gives them.")
    if vectors.shape[1] != config.embed_dim:
        raise InputError(
            f"vectors are {vectors.shape[1]} wide; expected {config.embed_dim}. The model takes those of {CLIP}: other "
            "models of CLIP have other widths, and so has CLIP before its projection."
        )
    if not 1 <= len(vectors) <= config.tokens:
        raise InputError(
            f"vectors: {len(vectors)} for an image; expected 1 to {config.tokens}. The model was made for a text or a "
            f"picture and at most {config.tokens - 1} of its neighbours: give fewer."
        )
    vectors = vectors.detach().float()
    lengths = vectors.norm(dim=1, keepdim=True)
    if not bool(torch.isfinite(lengths).all()) or not bool((lengths > 0).all()):
        raise InputError(
            f"vectors: number {int((~(lengths[:, 0] > 0) | ~lengths[:, 0].isfinite()).nonzero()[0])} is a vector of "
            "zeros, or holds NaN or infinite numbers; expected finite numbers with a direction. Make it anew."
        )
    return vectors / lengths


def _found(given: object) -> str:
    return f"a {given.dtype} of shape {tuple(given.shape)}" if isinstance(given, Tensor) else short_repr(given)
