"""The network of a guider as a sampler calls it, where nothing of other nodes lies between the two."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from comfy.samplers import CFGGuider
from torch import Tensor

from ....ldm_backend.networks.conditioned import Attending, Conditioned
from ....ldm_backend.sampling.step import Denoiser
from ..conditioning import CHANNELS_KEY, TASK_KEY, channels_beside, context_of
from ..model import ldm_model_of
from ..patches import PATCH_KINDS

# What a MODEL and a conditioning may carry for an evaluation to be that of the bare network, which looks at none of it.
_IDLE_OPTIONS = {"transformer_options", "to_load_options"}
_IDLE_KEYS = {TASK_KEY, CHANNELS_KEY, "uuid", "model_conds", "pooled_output", "cross_attn"}
# What a guider of the host does beyond choosing its conditioning.
_OWN_WAYS = ("predict_noise", "outer_predict_noise", "__call__")


def guides_plainly(guider: CFGGuider) -> bool:
    """Whether a guider of the host predicts as CFGGuider does; BasicGuider and KSampler's are such too."""
    return all(getattr(type(guider), name, None) is getattr(CFGGuider, name, None) for name in _OWN_WAYS)


def direct_denoiser(guider: CFGGuider, shape: Sequence[int], options: Mapping[str, Any]) -> Denoiser | None:
    """The network itself, without the detour through the host's noise levels, which costs digits.

    Args:
        guider: With its conditioning; of its ways to predict only cfg counts.
        shape: (N, C, h, w) of the latents.
        options: model_options of the run.

    Returns:
        None where another node has put something between it and the sampler, which counts.
    """
    inner, device = ldm_model_of(guider.model_patcher), guider.model_patcher.load_device
    conds, guided = guider.original_conds, not math.isclose(guider.cfg, 1.0)
    needed = [conds["positive"], conds.get("negative", [])] if guided else [conds["positive"]]
    if _is_changed(guider, options) or any(len(one) != 1 or one[0].keys() - _IDLE_KEYS for one in needed):
        return None
    if inner.ldm_config.unet.cross_attention_dim is None:
        c = None if guided else channels_beside(inner.ldm_config, needed[0][0], shape)
        if c is None:
            return None if guided else inner.predict
        return Conditioned(inner.predict, inner.ldm_config, _whole(c, shape).to(device).clone())
    contexts = [_whole(context_of(inner.ldm_config, one[0], shape[0]), shape).to(device).float() for one in needed]
    if len({one.shape for one in contexts}) > 1:  # joined with more or fewer tokens than the other
        return None
    context, none = contexts[0].clone(), contexts[1].clone() if guided else None
    return Attending(inner.predict, context, none, guider.cfg)


def _is_changed(guider: CFGGuider, options: Mapping[str, Any]) -> bool:
    """Whether another node wraps evaluations, or changes what comes in or out."""
    asked = options.get("transformer_options", {})
    tables = [*getattr(guider.model_patcher, "wrappers", {}).values(), *asked.get("wrappers", {}).values()]
    return any(tables) or any(asked.get(name) for name in PATCH_KINDS) or bool(options.keys() - _IDLE_OPTIONS)


def _whole(one: Tensor, shape: Sequence[int]) -> Tensor:
    """For each image of a batch what is for all of them, or already for each."""
    return one.expand(shape[0], *one.shape[1:])
