"""Pictures of the demo of texts beside diffusers' LDMTextToImagePipeline, which loads its folder whole.

A picture agrees as in test_demo_images.py: at most 0.1 % of its pixels differ, by one level. The pipeline takes sides
of eight times the latent's, whatever the first stage does.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.pipelines.latent_diffusion.pipeline_latent_diffusion import LDMTextToImagePipeline
from torch import Tensor

import ldm_backend
from ldm_backend.sampling.noise import draw_noise

pytestmark = pytest.mark.parity

FOLDER = Path(__file__).parents[2] / "demo" / "text-portraits-128"
STEPS = 6
TEXTS = ["Curly red hair, glasses", "a bald pirate with a full beard"]  # it does not know pirates


@pytest.fixture(scope="module")
def pipeline() -> Any:
    loaded: Any = LDMTextToImagePipeline.from_pretrained(FOLDER)
    loaded.set_progress_bar_config(disable=True)
    return loaded


@torch.no_grad()
def test_the_encoder_is_that_of_diffusers(pipeline):
    model: Any = ldm_backend.load(FOLDER, device="cpu")
    for text in [*TEXTS, ""]:
        theirs = pipeline.tokenizer(text, padding="max_length", max_length=77, truncation=True).input_ids
        tokens = list(model.tokeniser(text).ids)
        assert tokens == theirs
        found, expected = (encode(torch.tensor([tokens])) for encode in (model.conditioner, pipeline.bert))
        expected = expected[0]
        assert isinstance(expected, Tensor)
        assert float((found - expected).abs().max()) < 1e-5 * float(expected.abs().max())  # float32 in another order


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_pictures_of_texts_are_those_of_diffusers(pipeline, scale):
    seeds, latent = [3, 8], (3, 32, 32)
    images = pipeline(
        TEXTS,
        height=8 * latent[1],
        width=8 * latent[2],
        num_inference_steps=STEPS,
        guidance_scale=scale,
        latents=draw_noise(seeds, latent),
        output_type="np",
    ).images
    expected = (images * 255.0).astype(np.uint8)  # this project truncates too
    settings: dict[str, Any] = {"sampler": "ddim", "grid": "leading", "eta": 0.0}
    model = ldm_backend.load(FOLDER, device="cpu")
    found = ldm_backend.generate(model, seeds, STEPS, prompts=TEXTS, cfg=scale, **settings)
    assert found.shape == (2, 128, 128, 3)
    difference = np.abs(found.astype(int) - expected.astype(int))
    assert difference.max() <= 1
    assert (difference > 0).any(axis=-1).mean() <= 0.001
