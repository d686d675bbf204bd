"""Gradients of guides beside autograd through diffusers' networks, and the published mechanism as a whole.

Tolerances: both sides compute the same float32 graph in another order of sums; the largest difference found is 1e-6 of
the largest number, and 1e-4 is allowed.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from ldm_backend.guidance.gradients import gradient, tracked, with_gradients
from ldm_backend.guidance.guided import Guided
from ldm_backend.guidance.guides import Projection, ScoreGradient
from ldm_backend.guidance.measurements import LowResolution
from ldm_backend.guidance.space import Space
from ldm_backend.pipeline import evaluation
from ldm_backend.sampling.ddim import sample_ddim
from ldm_backend.sampling.noise import draw_noise

pytestmark = pytest.mark.parity
SMALL = np.random.default_rng(1).random((2, 32, 32, 3)).astype(np.float32)


def loss_by_torch(picture: Tensor) -> Tensor:
    """LDM eq. 17 for the mean of 4x4 pixels, summed over the batch."""
    y = torch.from_numpy(SMALL).movedim(-1, 1) * 2.0 - 1.0
    return 0.5 * (y - torch.nn.functional.avg_pool2d(picture, 4)).square().sum()


def assert_near(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-4 * float(expected.abs().max()))


def test_gradient_through_the_decoder_is_that_of_diffusers(demo):
    ours, reference = demo
    z = draw_noise([1, 2], (3, 32, 32))
    loss = LowResolution(SMALL, 4).loss(Space(ours.first_stage, 2, 128, 128))
    with with_gradients():
        found = gradient(ours.first_stage, loss, tracked(z), slice(None))
    x = z.clone().requires_grad_(True)
    (expected,) = torch.autograd.grad(loss_by_torch(reference.vq.decode(x, force_not_quantize=True)["sample"]), x)
    assert_near(found, expected)


@pytest.mark.parametrize("t", [900, 300])
def test_the_guided_noise_is_appendix_c_through_diffusers(demo, t):
    """eps + sqrt(1 - a_t) * gradient, which is divided by its root mean square for each image."""
    ours, reference = demo
    x_t, strength = draw_noise([3, 4], (3, 32, 32)), 0.7
    guides = [ScoreGradient(LowResolution(SMALL, 4), strength)]
    guided = Guided(evaluation(ours), ours.schedule, ours.first_stage, guides, x_t.shape, ours.unet)
    found = guided(x_t, t)
    a_t = float(reference.scheduler.alphas_cumprod[t])
    x = x_t.clone().requires_grad_(True)
    eps = reference.unet(x, t)["sample"]
    pred_x0 = (x - (1.0 - a_t) ** 0.5 * eps) / a_t**0.5
    picture = reference.vq.decode(pred_x0, force_not_quantize=True)["sample"]
    (g,) = torch.autograd.grad(loss_by_torch(picture), x)
    g = g / g.square().mean((1, 2, 3), keepdim=True).sqrt()
    assert_near(found, (eps + (1.0 - a_t) ** 0.5 * strength * g).detach())


@pytest.mark.slow
def test_a_small_sample_guides_a_large_one(demo):
    """Figure 14 of the paper at half its size: 64 pixels guide 128, whose bicubic half comes near to them."""
    model, _ = demo
    pairs = model.schedule.timesteps(12, "leading")
    small = model.first_stage.decode(
        sample_ddim(evaluation(model), draw_noise([1], (3, 16, 16)), model.schedule, pairs)
    )
    unit = (small.detach().clamp(-1.0, 1.0).movedim(1, -1) + 1.0) / 2.0
    known = LowResolution(unit, 2, "bicubic")
    difference = known.bound(Space(model.first_stage, 1, 128, 128)).difference
    errors = []
    for guides in ([], [ScoreGradient(known, 1.0)], [Projection(known)]):
        shape = (1, 3, 32, 32)
        plain = evaluation(model)
        denoiser = Guided(plain, model.schedule, model.first_stage, guides, shape, model.unet) if guides else plain
        z = sample_ddim(denoiser, draw_noise([2], (3, 32, 32)), model.schedule, pairs)
        with torch.no_grad():
            errors.append(float(difference(model.first_stage.decode(z), slice(None)).square().mean()))
    assert errors[1] < 0.5 * errors[0]
    assert errors[2] < 0.05 * errors[0]
