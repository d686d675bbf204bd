"""`generate` with vectors of CLIP: normalised, guided from zeros, each image by itself, and other uses refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from class_models import load_classes
from pictured import command
from vector_models import load_vectors, some_vectors, write_vector_file

import ldm_backend
from ldm_backend.errors import InputError
from ldm_backend.guidance.guided import Guides
from ldm_backend.networks.unet import UNet
from ldm_backend.pipeline import sample_latents

Model = ldm_backend.LatentDiffusion
RUN: dict[str, Any] = {"steps": 3}
ONE, MANY = some_vectors(1), some_vectors(21, 6)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_vectors(tmp_path_factory.mktemp("vectors"))


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[torch.Tensor]:
    """The context of each evaluation of a UNet."""
    contexts: list[torch.Tensor] = []
    forward = UNet.forward

    def noted(self: UNet, x: torch.Tensor, t: Any, context: torch.Tensor) -> torch.Tensor:
        contexts.append(context)
        return forward(self, x, t, context)

    monkeypatch.setattr(UNet, "forward", noted)
    return contexts


@pytest.mark.parametrize("vectors", [ONE, MANY], ids=["one", "twenty-one"])
def test_pictures_are_those_of_their_vectors(model, vectors):
    images = ldm_backend.generate(model, [1, 1], vectors=[vectors, -vectors], cfg=2.0, **RUN)
    assert images.shape == (2, 32, 32, 3)
    assert images.dtype == np.uint8
    z = sample_latents(model, [1, 1], vectors=[vectors, -vectors], **RUN)
    assert not torch.allclose(z[0], z[1])


def test_the_unet_sees_vectors_of_length_one_and_zeros_for_none(model, seen):
    sample_latents(model, [1, 2], vectors=[ONE, MANY[:1]], cfg=3.0, **RUN)
    none, wanted = seen[0].chunk(2)
    assert torch.equal(none, torch.zeros(2, 1, 12))
    expected = torch.stack([ONE / ONE.norm(), MANY[:1] / MANY[0].norm()])
    torch.testing.assert_close(wanted, expected, rtol=0, atol=1e-6)
    seen.clear()
    sample_latents(model, [1, 2], vectors=MANY, **RUN)
    assert [tuple(context.shape) for context in seen] == [(2, 21, 12)] * 3
    torch.testing.assert_close(seen[0].norm(dim=2), torch.ones(2, 21))


def test_lengths_and_ways_to_say_it_do_not_count(model):
    expected = sample_latents(model, [1, 2], vectors=MANY, **RUN)
    for same in (8 * MANY, [MANY, MANY], MANY[None], torch.stack([MANY, MANY / 4]), [MANY]):
        torch.testing.assert_close(sample_latents(model, [1, 2], vectors=same, **RUN), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        sample_latents(model, [1], vectors=MANY.half(), **RUN), expected[:1], rtol=0.05, atol=0.05
    )


@pytest.mark.parametrize("cfg", [1.0, 3, 0.0, -1.5])
def test_an_image_is_that_of_its_own_seed_and_vectors(model, cfg):
    """Whatever stands beside it. Sums in another order: 1e-4, as in test_solvers.py."""
    seeds, vectors = [3, 2**63, 3], [MANY[:2], MANY[2:4], MANY[4:6]]
    together = sample_latents(model, seeds, vectors=vectors, cfg=cfg, **RUN)
    for image, (seed, one) in enumerate(zip(seeds, vectors, strict=True)):
        alone = sample_latents(model, [seed], vectors=one, cfg=cfg, **RUN)[0]
        torch.testing.assert_close(together[image], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("vectors", "message"),
    [
        (None, "vectors are None; expected those of each image, as this model draws pictures of what vectors of CLIP"),
        ("a cat", "vectors: 'a cat'; expected one tensor"),
        ([ONE, "cat"], "vectors: 'cat' for an image"),
        ([ONE, ONE, ONE], "expected one tensor.*for all 2 seeds, or one for each"),
        (torch.ones(3, 1, 12), r"a torch.float32 of shape \(3, 1, 12\)"),
        (torch.ones(12), r"shape \(12,\)"),
        (torch.ones(1, 12).long(), "a torch.int64"),
        (torch.ones(1, 16), "vectors are 16 wide; expected 12.*CLIP ViT-L/14.*before its projection"),
        (torch.ones(22, 12), "vectors: 22 for an image; expected 1 to 21"),
        (torch.ones(0, 12), "vectors: 0 for an image"),
        ([MANY, ONE], r"vectors: \[21, 1\] of them for the images"),
        (torch.eye(3, 12).flip(0) * torch.tensor([[1], [0], [1]]), "vectors: number 1 is a vector of zeros"),
        (ONE * torch.nan, "NaN"),
        (ONE * torch.inf, "NaN or infinite"),
    ],
)
def test_what_are_no_vectors_is_told(model, vectors, message):
    with pytest.raises(InputError, match=message):
        ldm_backend.generate(model, [1, 2], vectors=vectors, **RUN)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"classes": [1, 2]}, r"classes: \[1, 2\]; expected none.*Give vectors"),
        ({"prompts": "a cat"}, "prompts: 'a cat'; expected none"),
        ({"negative": "a dog"}, "negative: 'a dog'; expected none"),
        ({"cfg": float("nan")}, "cfg is nan"),
        ({"conditioning": torch.zeros(2, 4, 8, 8)}, "Give vectors in its place"),
        ({"cache_interval": 2}, "cache_interval or guides are given beside vectors"),
        ({"guides": Guides()}, "cache_interval or guides are given beside vectors"),
    ],
)
def test_what_does_not_go_together_is_told(model, given, message):
    with pytest.raises(InputError, match=message):
        ldm_backend.generate(model, [1, 2], vectors=ONE, **RUN, **given)


def test_models_of_other_tasks_take_none(tiny, tmp_path: Path):
    cases: list[tuple[Any, dict[str, Any]]] = [(tiny, {}), (load_classes(tmp_path), {"classes": [1]})]
    for other, given in cases:
        with pytest.raises(InputError, match="vectors are given; expected None, as this model draws"):
            ldm_backend.generate(other, [1], vectors=ONE, **RUN, **given)


def test_the_command_line_tells_the_way(tmp_path: Path):
    """A text on it is no vector."""
    file = write_vector_file(tmp_path / "vectors.safetensors")
    status, text = command("generate", file, "--seeds", "1", "--out", tmp_path / "out")
    assert status != 0
    assert "this one is a vector-conditional model" in text
    assert "In Python there is ldm_backend.generate" in text
