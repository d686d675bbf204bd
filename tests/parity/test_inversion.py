"""The noise that inversion finds, taken back to the picture by diffusers' DDIM and by ours.

PSNR of a latent: 20 log10(max - min of the expected latent) - 10 log10(mean squared error). Sixteen portraits that the
demo model was not trained on. The 200 steps of all sixteen take minutes: benchmarks/inversion.py.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from ldm_backend.editing.inversion import invert_ddim
from ldm_backend.sampling.samplers import sample_ddim
from ldm_backend.views.images import from_uint8

pytestmark = pytest.mark.parity


def psnr(found: Tensor, expected: Tensor) -> Tensor:
    peak = expected.amax((1, 2, 3)) - expected.amin((1, 2, 3))
    return 20.0 * peak.log10() - 10.0 * (found - expected).pow(2).mean((1, 2, 3)).log10()


@pytest.fixture
def encoded(demo, root: Path, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    """(16, 3, 32, 32) clean latents, not quantised."""
    monkeypatch.syspath_prepend(root / "demo")
    from portraits import draw_portrait  # pyright: ignore[reportMissingImports]

    with torch.no_grad():
        return demo[0].first_stage.encode(
            from_uint8(np.stack([draw_portrait(10_000_000 + index) for index in range(16)]))
        )


@pytest.mark.slow
@torch.no_grad()
def test_diffusers_makes_the_picture_again_after_200_steps(demo, encoded):
    """40 dB is what is promised. Found: 70 dB and more, so anything near 40 means that something broke."""
    model, reference = demo
    x_0 = encoded[11:12]  # the hardest of the sixteen
    image = invert_ddim(model.unet, x_0, model.schedule, model.schedule.timesteps(200, "leading"))
    assert image.std().item() == pytest.approx(1.0, abs=0.1)  # noise, as a sampler expects
    reference.scheduler.set_timesteps(num_inference_steps=200)
    for t in reference.scheduler.timesteps:
        residual = reference.unet(image, t)["sample"]
        image = reference.scheduler.step(residual, t, image, eta=0.0)["prev_sample"]
    assert psnr(image, x_0).item() > 40.0


@pytest.mark.slow
@pytest.mark.parametrize(("grid", "images"), [("leading", 16), ("trailing", 4)])
def test_twenty_steps_of_many_pictures(demo, encoded, grid, images):
    """Fewer steps are harder, and still every picture is above 40 dB."""
    model, _ = demo
    x_0, pairs = encoded[:images], model.schedule.timesteps(20, grid)
    x_T = invert_ddim(model.unet, x_0, model.schedule, pairs)
    assert psnr(sample_ddim(model.unet, x_T, model.schedule, pairs), x_0).min().item() > 40.0
