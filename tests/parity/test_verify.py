"""The reference pixels of `ldm verify` against the test that was deleted from diffusers, with its own LDMPipeline.

The test was: `LDMPipeline(...)(generator=torch.manual_seed(0), num_inference_steps=5, output_type="numpy").images`, of
which `[0, -3:, -3:, -1]` was compared. Today's pipeline is called in the same way, with one setting: the scale factor
by which it has divided the latents since version 0.22, when the published numbers were already there, is made 1.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers.pipelines.deprecated.latent_diffusion_uncond.pipeline_latent_diffusion_uncond import LDMPipeline

from ldm_backend.checkpoints.known_weights import REFERENCES
from ldm_backend.verification import draw_pixels

pytestmark = pytest.mark.parity


def deleted_test(reference, scaling_factor: float = 1.0) -> np.ndarray:
    """The nine numbers that the test compared."""
    reference.vq.register_to_config(scaling_factor=scaling_factor)
    pipeline: Any = LDMPipeline(vqvae=reference.vq, unet=reference.unet, scheduler=reference.scheduler)
    pipeline.set_progress_bar_config(disable=True)
    with torch.random.fork_rng():
        image = pipeline(generator=torch.manual_seed(0), num_inference_steps=5, output_type="numpy").images
    return image[0, -3:, -3:, -1].flatten()


def test_the_demos_pixels_are_those_of_the_deleted_test(demo):
    """Within 1e-5: float32 rounding moves the latents by about 1e-6, twenty times less than the nearest code border
    is away (2e-4), so no code flips. A difference was seen of 1e-7."""
    model, reference = demo
    pixels = draw_pixels(model)
    expected = deleted_test(reference)
    np.testing.assert_allclose(pixels, expected, rtol=0, atol=1e-5)
    recorded = next(item for item in REFERENCES if item.name == "portraits-128")
    np.testing.assert_allclose(recorded.pixels, expected, rtol=0, atol=1e-5)  # they have five decimals


def test_the_demos_pixels_tell_the_scale_factor(demo):
    """What diffusers draws out of the box fails, far outside of the tolerance."""
    recorded = next(item for item in REFERENCES if item.name == "portraits-128")
    scaled = deleted_test(demo[1], scaling_factor=0.18215)
    assert np.abs(scaled - recorded.pixels).max() > 10 * recorded.tolerance
