"""Vectors of CLIP out of what the host's CLIP Vision Encode gives.

Only pictures: of texts the host hands on a pooled output without saying whether CLIP's projection was applied, and it
fills the projection with anything where a file of CLIP-L lacks it.
"""

from __future__ import annotations

from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ....ldm_backend.config.conditioning import VECTOR_CONDITIONAL, VectorsConfig
from ....ldm_backend.errors import InputError
from ....ldm_backend.finite import FLOATS, is_plain
from ....ldm_backend.networks.conditioners.clip_vectors import CLIP, normalised
from ..conditioning import TASK_KEY
from ..model import intermediate_device, ldm_model_of

_TOKENS_OF_336 = 577  # of ViT-L/14 at 336 pixels, whose vectors are as wide and not the same


def joined(model: ModelPatcher, seen: Any, before: list[Any] | None) -> Tensor:
    """What a MODEL attends to for pictures.

    Args:
        model: MODEL of this pack, of vectors.
        seen: CLIP_VISION_OUTPUT of one picture or several.
        before: CONDITIONING of this pack with further vectors, which go before.

    Returns:
        (1, n, D) float32, each vector of the length 1.

    Raises:
        InputError: Vectors of another CLIP, too many, or a conditioning of another kind.
    """
    whole = ldm_model_of(model).ldm_config
    config = whole.conditioning
    if not isinstance(config, VectorsConfig):
        raise InputError(f"model: the MODEL is for {whole.task}; expected one for vectors of CLIP. Connect such a one.")
    hidden = getattr(seen, "last_hidden_state", None)
    if is_plain(hidden) and hidden.ndim == 3 and hidden.shape[1] == _TOKENS_OF_336:
        raise InputError(
            f"clip_vision_output is of CLIP ViT-L/14 at 336 pixels; expected that of 224. Take {CLIP}, in Load CLIP "
            "Vision."
        )
    parts = [] if before is None else [_vectors_of(before, config)]
    parts.append(seen.image_embeds.detach().float().cpu())
    if parts[-1].shape[1] != config.embed_dim:
        raise InputError(
            f"clip_vision_output: its vectors are {parts[-1].shape[1]} wide; expected {config.embed_dim}. Take {CLIP}, "
            "in Load CLIP Vision."
        )
    return normalised(torch.cat(parts), config)[None].to(intermediate_device())


def _vectors_of(conditioning: list[Any], config: VectorsConfig) -> Tensor:
    """(n, D) of a conditioning of this pack.

    Raises:
        InputError: It is of another kind.
    """
    vectors, table = conditioning[0]
    if table.get(TASK_KEY) != VECTOR_CONDITIONAL:
        pooled = " (a text, whose pooled output may lack CLIP's projection)" if "pooled_output" in table else ""
        raise InputError(
            f"vectors is the conditioning of another node{pooled}; expected that of LDM CLIP Vectors. A text becomes a "
            "vector in Python: see generate(vectors=) of ldm_backend."
        )
    fits = is_plain(vectors) and vectors.dtype in FLOATS and vectors.ndim == 3
    if len(conditioning) > 1 or not fits or len(vectors) != 1 or vectors.shape[2] != config.embed_dim:
        shape = tuple(vectors.shape) if is_plain(vectors) else type(vectors).__name__
        raise InputError(
            f"vectors holds {len(conditioning)} parts, the first of them {shape}; expected one, (1, n, "
            f"{config.embed_dim}). Connect LDM CLIP Vectors itself."
        )
    return vectors[0].detach().float().cpu()
