"""Guides on a card: gradients through the networks are those of the CPU, and a guided run ends."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

import ldm_backend
from ldm_backend.guidance.gradients import gradient, tracked, with_gradients
from ldm_backend.guidance.guided import Guides
from ldm_backend.guidance.guides import LossGradient, Projection, ScoreGradient
from ldm_backend.guidance.measurements import LowResolution
from ldm_backend.guidance.space import Space
from ldm_backend.pipeline import sample_latents
from ldm_backend.sampling.noise import draw_noise

pytestmark = pytest.mark.gpu
KNOWN = LowResolution(np.random.default_rng(1).random((2, 32, 32, 3)).astype(np.float32), 4)


def gradient_of(model: ldm_backend.LatentDiffusion) -> Tensor:
    loss = KNOWN.loss(Space(model.first_stage, 2, 128, 128))
    with with_gradients():
        x = tracked(draw_noise([1, 2], (3, 32, 32)).to(model.device))
        return gradient(model.first_stage, loss, model.unet(x, 500), slice(None), x).cpu()


def test_gradients_are_those_of_the_cpu(exact, tested):
    """Of one float32 graph in another order of sums."""
    expected = gradient_of(exact)
    torch.testing.assert_close(gradient_of(tested), expected, rtol=0, atol=1e-3 * float(expected.abs().max()))


@pytest.mark.parametrize("kind", [Projection, LossGradient, ScoreGradient])
def test_a_guided_run_ends_and_differs(tested, kind):
    found = sample_latents(tested, [1, 2], 3, guides=Guides(kind(KNOWN)))
    assert bool(torch.isfinite(found).all())
    assert (found - sample_latents(tested, [1, 2], 3)).abs().max() > 0.01
