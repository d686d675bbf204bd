"""`generate` with classes: guidance without a classifier, each image by itself, and every other use refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from class_models import GUIDED, UNGUIDED, load_classes, write_ckpt
from torch import Tensor

import ldm_backend
from ldm_backend.errors import InputError
from ldm_backend.guidance.guided import Guides
from ldm_backend.networks.unet import UNet
from ldm_backend.pipeline import sample_latents

Model = ldm_backend.LatentDiffusion
RUN: dict[str, Any] = {"steps": 3}


@pytest.fixture(scope="module")
def guided(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_classes(tmp_path_factory.mktemp("guided"))


@pytest.fixture(scope="module")
def unguided(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_classes(tmp_path_factory.mktemp("unguided"), UNGUIDED)


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images each evaluation of a UNet had."""
    seen: list[int] = []
    forward = UNet.forward

    def noted(self: UNet, x: Tensor, *others: Any) -> Tensor:
        seen.append(len(x))
        return forward(self, x, *others)

    monkeypatch.setattr(UNet, "forward", noted)
    return seen


def test_pictures_are_those_of_their_classes(guided):
    images = ldm_backend.generate(guided, [1, 1, 1], classes=[0, 4, None], **RUN)
    assert images.shape == (3, 32, 32, 3)
    assert images.dtype == np.uint8
    numbers: Any = (np.int64(0), np.uint8(4))
    same = ldm_backend.generate(guided, [1, 1], classes=numbers, **RUN)
    assert np.array_equal(same, ldm_backend.generate(guided, [1, 1], classes=[0, 4], **RUN))
    z = sample_latents(guided, [1, 1, 1], classes=[0, 4, None], **RUN)
    assert not torch.allclose(z[0], z[1])
    assert not torch.allclose(z[0], z[2])


@pytest.mark.parametrize("cfg", [1.0, 3, 0.0, -1.5])
@pytest.mark.parametrize(("sampler", "eta"), [("ddim", 1.0), ("dpmpp_2m", 0.0)])
def test_an_image_is_that_of_its_own_seed_and_class(guided, cfg, sampler, eta):
    """Whatever stands beside it, and in which order. Sums in another order: 1e-4, as in test_solvers.py."""
    run = {"steps": 3, "sampler": sampler, "eta": eta, "cfg": cfg}
    seeds, classes = [3, 2**63, 3], [2, None, 0]
    together = sample_latents(guided, seeds, classes=classes, **run)
    for image, (seed, one) in enumerate(zip(seeds, classes, strict=True)):
        alone = sample_latents(guided, [seed], classes=[one], **run)[0]
        torch.testing.assert_close(together[image], alone, rtol=1e-4, atol=1e-4)


def test_no_guidance_is_one_evaluation_a_step(guided, unguided, batches):
    for model, classes, cfg in ((guided, [0, 1], 1), (guided, [None, None], 4.0), (unguided, [0, 4], 1.0)):
        batches.clear()
        sample_latents(model, [1, 2], classes=classes, cfg=cfg, **RUN)
        assert batches == [2, 2, 2]


def test_guidance_is_two_evaluations_in_one_batch(guided, batches):
    sample_latents(guided, [1, 2], classes=[0, 1], cfg=1.5, **RUN)
    assert batches == [4, 4, 4]


def test_no_class_is_the_same_with_any_guidance(guided):
    plain = sample_latents(guided, [1], classes=[None], **RUN)
    assert torch.equal(plain, sample_latents(guided, [1], classes=[None], cfg=7.5, **RUN))
    zero = sample_latents(guided, [1], classes=[3], cfg=0.0, **RUN)
    torch.testing.assert_close(zero, plain, rtol=1e-4, atol=1e-4)


def test_equal_classes_are_embedded_once(guided, monkeypatch: pytest.MonkeyPatch):
    looked_up: list[list[int]] = []
    embedding: Any = guided.conditioner.embedding
    forward = type(embedding).forward
    monkeypatch.setattr(
        type(embedding), "forward", lambda self, rows: looked_up.append(rows.tolist()) or forward(self, rows)
    )
    context = guided.conditioner([3, None, 3, 0, 3])
    assert looked_up == [[0, 3, 5]]
    assert torch.equal(context[:, 0], embedding.weight[[3, 5, 3, 0, 3]])


@pytest.mark.parametrize("one", [5, 6, -1, 1.0, True, "cat", np.True_])
def test_a_class_that_there_is_none_of_is_told(guided, one):
    with pytest.raises(InputError, match=r"There is no class .*; expected a whole number from 0 to 4, or None"):
        ldm_backend.generate(guided, [1], classes=[one], **RUN)


def test_none_is_no_class_of_a_model_without(unguided):
    with pytest.raises(InputError, match="There is no class None; expected a whole number from 0 to 4. The numbers"):
        ldm_backend.generate(unguided, [1], classes=[None], **RUN)
    with pytest.raises(InputError, match="cfg is 2.0, and this model has no class that is none"):
        ldm_backend.generate(unguided, [1], classes=[0], cfg=2.0, **RUN)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {},
            r"classes are None, and there are 2 seeds; expected one class for each seed \(0 to 4, or None for no",
        ),
        ({"classes": [1]}, r"classes are \[1\], and there are 2 seeds"),
        ({"classes": [1, 2, 3]}, "and there are 2 seeds"),
        ({"classes": 1}, "classes are 1, and there are 2 seeds"),
        ({"classes": "ab"}, "classes are 'ab'"),
        ({"classes": [1, 2], "cfg": float("nan")}, "cfg is nan; expected a number, 1 for no guidance"),
        ({"classes": [1, 2], "cfg": "3"}, "cfg is '3'"),
        ({"classes": [1, 2], "cfg": True}, "cfg is True"),
        ({"classes": [1, 2], "tile": 8}, "tile is 8, and no conditioning is given"),
        ({"classes": [1, 2], "conditioning": torch.zeros(2, 3, 8, 8)}, "Give classes in its place"),
        ({"classes": [1, 2], "cache_interval": 2}, "cache_interval or guides are given beside classes"),
        ({"classes": [1, 2], "guides": Guides()}, "cache_interval or guides are given beside classes"),
    ],
)
def test_what_does_not_go_together_is_told(guided, given, message):
    with pytest.raises(InputError, match=message):
        ldm_backend.generate(guided, [1, 2], **RUN, **given)


@pytest.mark.parametrize("given", [{"classes": [1]}, {"cfg": 3.0}, {"classes": [None]}])
def test_a_model_of_another_task_takes_no_classes(tiny, given):
    with pytest.raises(InputError, match="expected None and 1, as this model draws pictures from noise alone"):
        ldm_backend.generate(tiny, [1], **RUN, **given)


def test_sizes_other_than_that_of_training(guided):
    assert ldm_backend.generate(guided, [1], classes=[1], height=48, width=64, **RUN).shape == (1, 48, 64, 3)


def test_a_large_batch_goes_in_parts(guided, monkeypatch: pytest.MonkeyPatch):
    """Images without and with their class are parted anywhere."""
    expected = sample_latents(guided, [1, 2, 3], classes=[0, 1, 2], cfg=2.0, **RUN)
    forward = UNet.forward

    def small(self: UNet, x: Tensor, *others: Any) -> Tensor:
        if len(x) > 4:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(self, x, *others)

    monkeypatch.setattr(UNet, "forward", small)
    found = sample_latents(guided, [1, 2, 3], classes=[0, 1, 2], cfg=2.0, **RUN)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_shorter_formats_draw_too(tmp_path: Path, guided):
    model = ldm_backend.load(write_ckpt(tmp_path, GUIDED), "cpu", config=GUIDED, precision="bf16")
    found = sample_latents(model, [1], classes=[1], cfg=2.0, **RUN)
    exact = sample_latents(guided, [1], classes=[1], cfg=2.0, **RUN)
    assert (found - exact).std() < 0.1 * exact.std()
