"""`generate` with prompts: guidance without a classifier, each image by itself, and every other use refused."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from class_models import GUIDED as CLASSES
from class_models import load_classes
from text_models import BERT, load_texts, write_ckpt, write_text_folder
from torch import Tensor

import ldm_backend
from ldm_backend.contexts import encode_texts
from ldm_backend.errors import InputError, LDMError
from ldm_backend.guidance.guided import Guides
from ldm_backend.networks.conditioners.text_encoder import TextEncoder
from ldm_backend.networks.unet import UNet
from ldm_backend.pipeline import sample_latents

Model = ldm_backend.LatentDiffusion
RUN: dict[str, Any] = {"steps": 3}
WOMAN, MAN = "a smiling woman with glasses", "a man, red hair"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_texts(tmp_path_factory.mktemp("texts") / "model")


@pytest.fixture
def batches(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[int]]:
    """How many images or texts each evaluation of a UNet and of an encoder had."""
    seen: dict[str, list[int]] = {"unet": [], "encoder": []}

    def note(kind: type[torch.nn.Module], name: str) -> None:
        forward = kind.forward

        def noted(self: Any, x: Tensor, *others: Any) -> Tensor:
            seen[name].append(len(x))
            return forward(self, x, *others)

        monkeypatch.setattr(kind, "forward", noted)

    note(UNet, "unet")
    note(TextEncoder, "encoder")
    return seen


def test_pictures_are_those_of_their_texts(model):
    images = ldm_backend.generate(model, [1, 1, 1], prompts=[WOMAN, MAN, ""], **RUN)
    assert (images.shape, images.dtype) == ((3, 32, 32, 3), np.uint8)
    z = sample_latents(model, [1, 1, 1], prompts=[WOMAN, MAN, ""], **RUN)
    assert float((z[0] - z[1]).abs().max()) > 1e-3 < float((z[0] - z[2]).abs().max())


def test_one_text_is_for_all_images(model):
    one = sample_latents(model, [1, 2], prompts=WOMAN, negative=MAN, cfg=2.0, **RUN)
    assert torch.equal(one, sample_latents(model, [1, 2], prompts=[WOMAN] * 2, negative=[MAN] * 2, cfg=2.0, **RUN))


@pytest.mark.parametrize("cfg", [1.0, 3, 0.0, -1.5])
@pytest.mark.parametrize(("sampler", "eta"), [("ddim", 1.0), ("dpmpp_2m", 0.0)])
def test_an_image_is_that_of_its_own_seed_and_text(model, cfg, sampler, eta):
    """Whatever stands beside it, and in which order. Sums in another order: 1e-4, as in test_solvers.py."""
    run = {"steps": 3, "sampler": sampler, "eta": eta, "cfg": cfg}
    seeds, prompts, negatives = [3, 2**63, 3], [WOMAN, "", MAN], ["", MAN, WOMAN]
    together = sample_latents(model, seeds, prompts=prompts, negative=negatives, **run)
    for image, (seed, prompt, negative) in enumerate(zip(seeds, prompts, negatives, strict=True)):
        alone = sample_latents(model, [seed], prompts=prompt, negative=negative, **run)[0]
        torch.testing.assert_close(together[image], alone, rtol=1e-4, atol=1e-4)


def test_guidance_leads_from_the_negative_text_to_the_prompt(model):
    """None of it at 1, where the negative does not count; all of the negative at 0."""
    plain = sample_latents(model, [1], prompts=WOMAN, **RUN)
    assert torch.equal(plain, sample_latents(model, [1], prompts=WOMAN, negative=MAN, cfg=1, **RUN))
    zero = sample_latents(model, [1], prompts=WOMAN, negative=MAN, cfg=0.0, **RUN)
    torch.testing.assert_close(zero, sample_latents(model, [1], prompts=MAN, **RUN), rtol=1e-4, atol=1e-4)
    away = [sample_latents(model, [1], prompts=WOMAN, negative=one, cfg=3.0, **RUN) for one in ("", MAN)]
    assert float((away[0] - away[1]).abs().max()) > 1e-3


def test_equal_texts_are_encoded_once_and_few_together(model, batches):
    sample_latents(model, [1, 2, 3], prompts=[WOMAN, MAN, WOMAN], negative=["", MAN, ""], cfg=2.0, **RUN)
    assert batches == {"unet": [6, 6, 6], "encoder": [3]}
    batches["encoder"].clear()
    many = encode_texts(model.conditioner, model.tokeniser, [f"{'a ' * at}" for at in range(19)] * 2)
    assert batches["encoder"] == [8, 8, 3]
    assert many.shape == (38, 77, 12)
    assert torch.equal(many[:19], many[19:])


def test_no_guidance_is_one_evaluation_a_step(model, batches):
    for prompts, negative, cfg in (([WOMAN, MAN], "", 1), ([WOMAN, MAN], [WOMAN, MAN], 4.0), ("", "", 7.5)):
        batches["unet"].clear()
        sample_latents(model, [1, 2], prompts=prompts, negative=negative, cfg=cfg, **RUN)
        assert batches["unet"] == [2, 2, 2]


def test_what_the_model_does_not_see_is_said(model, caplog: pytest.LogCaptureFixture):
    with caplog.at_level(logging.WARNING, "comfyui_ldm"):
        sample_latents(model, [1, 2], prompts=["zebra woman", "a " * 99], negative="zebra", **RUN)
    assert [record.getMessage() for record in caplog.records] == [
        'The prompt "zebra woman" has words that the model does not know: "zebra".',
        f'The prompt "{("a " * 99)[:40]}..." has 101 tokens, and the model takes 77: it is cut before or in the word '
        '"a".',
    ]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({}, "prompts: None, and there are 2 seeds; expected a text for all images, or one for each seed"),
        ({"prompts": [WOMAN]}, r"prompts: \['a smiling woman with glasses'\], and there are 2 seeds"),
        ({"prompts": [WOMAN] * 3}, "and there are 2 seeds"),
        ({"prompts": 7}, "prompts: 7, and there are 2 seeds"),
        ({"prompts": [WOMAN, None]}, "A prompt is None; expected a text"),
        ({"prompts": WOMAN, "negative": ["", "", ""]}, r"negative: \['', '', ''\], and there are 2 seeds"),
        ({"prompts": WOMAN, "negative": None}, "negative: None"),
        ({"prompts": WOMAN, "cfg": float("nan")}, "cfg is nan; expected a number, 1 for no guidance"),
        ({"prompts": WOMAN, "cfg": "3"}, "cfg is '3'"),
        (
            {"prompts": WOMAN, "classes": [1, 2]},
            r"classes are \[1, 2\]; expected None, as this model draws pictures of",
        ),
        ({"classes": [1, 2]}, r"classes are \[1, 2\]; expected None"),
        ({"prompts": WOMAN, "tile": 8}, "tile is 8, and no conditioning is given"),
        ({"prompts": WOMAN, "conditioning": torch.zeros(2, 3, 8, 8)}, "Give prompts in its place"),
        ({"prompts": WOMAN, "cache_interval": 2}, "cache_interval or guides are given beside prompts"),
        ({"prompts": WOMAN, "guides": Guides()}, "cache_interval or guides are given beside prompts"),
    ],
)
def test_what_does_not_go_together_is_told(model, given, message):
    with pytest.raises(InputError, match=message):
        ldm_backend.generate(model, [1, 2], **RUN, **given)


@pytest.mark.parametrize("given", [{"prompts": "a"}, {"prompts": ["a"]}, {"negative": "a"}])
def test_a_model_of_another_task_takes_no_prompts(tmp_path, tiny, given):
    with pytest.raises(InputError, match='expected None and "", as this model draws pictures from noise alone'):
        ldm_backend.generate(tiny, [1], **RUN, **given)
    with pytest.raises(InputError, match='expected None and "", as this model draws pictures of classes'):
        ldm_backend.generate(load_classes(tmp_path, CLASSES), [1], classes=[1], **RUN, **given)


def test_sizes_other_than_that_of_training(model):
    assert ldm_backend.generate(model, [1], prompts=WOMAN, height=48, width=64, **RUN).shape == (1, 48, 64, 3)


def test_an_original_checkpoint_draws(tmp_path):
    """With the vocabulary of BERT, and without averaged weights."""
    model = ldm_backend.load(write_ckpt(tmp_path), "cpu", config=BERT)
    images = ldm_backend.generate(model, [1], prompts="A painting of a squirrel eating a burger", cfg=5.0, **RUN)
    assert images.shape == (1, 32, 32, 3)


def test_shorter_formats_draw_too(tmp_path: Path, model):
    """Of the UNet; the encoder keeps float32."""
    short = ldm_backend.load(write_text_folder(tmp_path / "a"), "cpu", precision="bf16")
    found = sample_latents(short, [1], prompts=WOMAN, cfg=2.0, **RUN)
    exact = sample_latents(model, [1], prompts=WOMAN, cfg=2.0, **RUN)
    assert (found - exact).std() < 0.1 * exact.std()


def test_a_file_that_was_changed_in_place_is_refused(tmp_path: Path):
    folder = write_text_folder(tmp_path / "a")
    model = ldm_backend.load(folder, "cpu")
    file = folder / "bert" / "model.safetensors"
    with file.open("r+b") as opened:
        opened.seek(0, 2)
        opened.write(b"\0")
    with pytest.raises(LDMError, match=r"model\.safetensors: the file was changed"):
        sample_latents(model, [1], prompts=WOMAN, **RUN)
