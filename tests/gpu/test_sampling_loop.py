"""The loop of the samplers never waits for a card, and still says where a model went wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from ldm_backend.errors import SamplingError
from ldm_backend.pipeline import evaluation
from ldm_backend.sampling.noise import StepNoise, draw_noise
from ldm_backend.sampling.samplers import SAMPLERS, adds_noise, sample

pytestmark = pytest.mark.gpu

SEEDS, SHAPE = [4, 6], (3, 32, 32)


def run(model: Any, sampler: str, eps_model: Callable[[Tensor, float], Tensor], steps: int = 5) -> Tensor:
    noise = StepNoise(SEEDS, SHAPE) if adds_noise(sampler) else None
    x_T = draw_noise(SEEDS, SHAPE).to(model.device)
    pairs = model.schedule.timesteps(steps, "trailing")
    refuse_to_wait(model.device, True)
    try:
        return sample(sampler, eps_model, x_T, model.schedule, pairs, step_noise=noise)
    finally:
        refuse_to_wait(model.device, False)


def refuse_to_wait(device: torch.device, refuse: bool) -> None:
    """Let torch raise where the CPU would wait for the card; waiting for an event is not meant by that."""
    if device.type == "cuda":
        torch.cuda.set_sync_debug_mode("error" if refuse else "default")


@torch.inference_mode()
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_no_step_waits_for_the_card(device, tested, sampler):
    assert torch.isfinite(run(tested, sampler, evaluation(tested), steps=5 if device.type == "cuda" else 1)).all()


@pytest.mark.parametrize("step", [1, 3, 5])
def test_a_model_that_goes_wrong_is_told_its_step(tested, step):
    calls = []

    def eps_model(x_t: Tensor, t: float) -> Tensor:
        calls.append(t)
        eps = 0.9 * x_t
        if len(calls) == step:
            eps[1] += torch.inf
        return eps

    with pytest.raises(SamplingError, match=rf"step {step} of 5 .* for 1 of 2 images, the first at index 1"):
        run(tested, "ddim", eps_model)
    assert len(calls) <= step + 1
