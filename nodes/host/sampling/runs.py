"""A run of a sampler of the backend, guided as the host guides."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from comfy.samplers import CFGGuider
from torch import Tensor

from ....ldm_backend.sampling.schedule import Pairs
from ....ldm_backend.sampling.sigmas import sigmas_of
from ..model import ldm_model_of
from .backend_sampler import BackendSampler, BatchSeed, HostCallback

Conditioning = list[Any]


def sample_guided(
    model: ModelPatcher,
    conditionings: tuple[Conditioning, Conditioning],
    cfg: float,
    sampler: BackendSampler,
    x_T: Tensor,  # noqa: N803 - the papers' name
    pairs: Pairs,
    seeds: Sequence[int] | None,
    callback: HostCallback,
) -> Tensor:
    """Sample x_0 through the host's CFGGuider, with all that its nodes do to a conditioning.

    Args:
        model: MODEL of this pack.
        conditionings: Positive, and negative, which counts only where `cfg` is not 1.
        cfg: The scale of guidance.
        sampler: With these steps.
        x_T: (N, C, h, w) starting noise.
        pairs: The steps.
        seeds: Of the noise of the steps; None where there is none.
        callback: As the host's samplers report.

    Returns:
        (N, C, h, w) float32.

    Raises:
        LDMError: A conditioning of another model, or one that does not fit the latents.
    """
    guider = CFGGuider(model)
    guider.set_conds(*conditionings)
    guider.set_cfg(cfg)
    sigmas = torch.tensor(sigmas_of(ldm_model_of(model).schedule, pairs))
    seed = None if seeds is None else BatchSeed(seeds[0], list(seeds))
    return guider.sample(x_T, torch.zeros_like(x_T), sampler, sigmas, callback=callback, seed=seed)
