"""Guides on the pretended card: what they hold lies where the networks are, and pictures are the CPU's."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pretend_cuda import pretend_card
from torch import Tensor

import ldm_backend
from ldm_backend.guidance.guided import Guides
from ldm_backend.guidance.guides import Guide, Projection
from ldm_backend.guidance.losses import MeanColour, Palette, Reference, Style
from ldm_backend.guidance.measurements import Blurred, GreyPicture, KnownPixels, LowResolution
from ldm_backend.guidance.space import Space
from ldm_backend.pipeline import sample_latents

PICTURES = np.random.default_rng(5).random((2, 32, 32, 3)).astype(np.float32)
MASKS = PICTURES[..., 0] > 0.6
LOW = LowResolution(PICTURES[:, ::4, ::4], 4)
GUIDES: dict[str, list[Guide]] = {
    "several": [Projection(LOW), Projection(KnownPixels(PICTURES, MASKS)), Projection(LOW, codec="linear")],
    "grey": [Projection(GreyPicture(PICTURES, noise=0.1))],
    "blurred": [Projection(Blurred(PICTURES, 1.0))],
}


@pytest.mark.parametrize("name", GUIDES)
def test_guided_latents_are_those_of_the_cpu(tiny, tiny_folder, name):
    """The CPU's own fast layers round otherwise; a code that flips would be a hundred times as much."""

    def run(model: ldm_backend.LatentDiffusion) -> Tensor:
        return sample_latents(model, [3, 4], 2, 1.0, guides=Guides(*GUIDES[name]))

    expected = run(tiny)
    with pretend_card() as log:
        found = run(ldm_backend.load(tiny_folder, device="cuda"))
        assert found.device == torch.device("cuda", 0)
        found = found.cpu()
        assert not log.of("mismatch")
        assert not log.of("race")
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize(("task", "given"), [("upscale", {"factor": 2}), ("colourise", {}), ("deblur", {"blur": 1.0})])
def test_restored_pictures_are_those_of_the_cpu(tiny, tiny_folder, task, given):
    """To a level, but where a code flips: the end of a restoration is computed on the card too."""
    images = (PICTURES[:, :16, :16] * 255).astype(np.uint8)
    expected = ldm_backend.restore(tiny, images, [3, 4], task, steps=2, **given)
    with pretend_card() as log:
        found = ldm_backend.restore(
            ldm_backend.load(tiny_folder, device="cuda"), images, [3, 4], task, steps=2, **given
        )
        assert not log.of("mismatch")
        assert not log.of("race")
    assert (np.abs(found.astype(int) - expected) <= 1).mean() > 0.99


@pytest.mark.parametrize(
    "wanted",
    [
        Style(PICTURES),
        Palette([(0.5, 0.2, 0.1), (0.1, 0.2, 0.3)]),
        MeanColour((0.5, 0.2, 0.1)),
        Reference(PICTURES, MASKS),
        LOW,
    ],
    ids=lambda wanted: type(wanted).__name__,
)
def test_losses_are_where_the_pictures_are(tiny, tiny_folder, wanted):
    """Their values alone: torch's engine for gradients wants a real card, see tests/gpu."""
    pictures = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = wanted.loss(Space(tiny.first_stage, 2, 32, 32))(pictures, slice(None))
        with pretend_card() as log:
            model = ldm_backend.load(tiny_folder, device="cuda")
            found = wanted.loss(Space(model.first_stage, 2, 32, 32))(pictures.to("cuda"), slice(None)).cpu()
            assert not log.of("mismatch")
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
