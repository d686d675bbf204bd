"""Gradients of losses of the predicted picture: against finite differences in float64, their sign, their refusals."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from model_folder import TINY, write_model_folder
from torch import Tensor

import ldm_backend
from ldm_backend.config.first_stage import KLConfig
from ldm_backend.config.model import ScheduleConfig
from ldm_backend.errors import InputError, SamplingError
from ldm_backend.guidance.codecs import smooth_picture
from ldm_backend.guidance.gradients import check_weights, descended, gradient, normalised, tracked, with_gradients
from ldm_backend.guidance.guided import Guided, factor_of_score
from ldm_backend.guidance.guides import ScoreGradient
from ldm_backend.guidance.losses import AnyLoss, MeanColour, Palette, PictureLoss, Reference, Style
from ldm_backend.guidance.measurements import Blurred, GreyPicture, KnownPixels, LowResolution, Measurement
from ldm_backend.guidance.space import Space
from ldm_backend.networks.first_stage import FirstStage, build_first_stage
from ldm_backend.networks.unet import UNet
from ldm_backend.sampling.prediction import prediction_of
from ldm_backend.sampling.schedule import Schedule

WHOLE = slice(None)
KL = KLConfig(
    sample_size=32,
    latent_channels=4,
    block_out_channels=(8, 8, 16),
    layers_per_block=1,
    norm_num_groups=4,
    scale_factor=0.3,
)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def random_stage(config: Any) -> FirstStage:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build_first_stage(config)


@pytest.fixture(params=[TINY.first_stage, KL], ids=["vq", "kl"])
def stage(request: pytest.FixtureRequest) -> FirstStage:
    return random_stage(request.param).double()


@pytest.fixture
def unet() -> UNet:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return UNet(TINY.unet).double()


MASK = np.zeros((32, 32), bool)
MASK[8:20, 4:24] = True
PICTURES = torch.rand((2, 32, 32, 3), generator=torch.Generator().manual_seed(2))
WANTED: dict[str, Measurement | PictureLoss] = {
    "low resolution": LowResolution(PICTURES[:, ::4, ::4], 4, "bicubic"),
    "known pixels": KnownPixels(PICTURES, MASK),
    "grey": GreyPicture(PICTURES),
    "blurred": Blurred(PICTURES, 1.0),
    "mean colour": MeanColour((0.9, 0.2, 0.1)),
    "palette": Palette([(0.9, 0.2, 0.1), (0.0, 0.3, 0.4)]),
    "reference": Reference(PICTURES, MASK),
    "reference everywhere": Reference(PICTURES[:1]),
    "style": Style(PICTURES),
    "any": AnyLoss(lambda x: x.abs().mean((1, 2, 3))),
}


def space_of(stage: FirstStage) -> Space:
    return Space(stage, 2, 32, 32)


@pytest.mark.parametrize("name", WANTED)
def test_gradient_through_the_decoder_is_the_slope(stage, name):
    """Central differences in float64, along a direction for each image."""
    loss = WANTED[name].loss(space_of(stage))
    z, direction = draw(2, stage.config.z_channels, 8, 8), draw(2, stage.config.z_channels, 8, 8, seed=1)
    with with_gradients():
        found = gradient(stage, loss, tracked(z), WHOLE)
    step = 1e-5
    with torch.no_grad():
        ends = [loss(smooth_picture(stage, z + sign * step * direction), WHOLE) for sign in (1, -1)]
    expected = (ends[0] - ends[1]) / (2 * step)
    torch.testing.assert_close((found * direction).sum((1, 2, 3)), expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(
    ("name", "kind"), [*((name, "epsilon") for name in WANTED), ("style", "v_prediction"), ("low resolution", "sample")]
)
def test_gradient_through_decoder_and_unet_is_the_slope(unet, name, kind):
    stage = random_stage(TINY.first_stage).double()
    schedule, t = Schedule(ScheduleConfig(prediction_type=kind)), 400
    loss = WANTED[name].loss(space_of(stage))

    def clean(x: Tensor) -> Tensor:
        return prediction_of(schedule, unet(x, t).double(), x, t).pred_x0

    x_t, direction = draw(2, 3, 8, 8), draw(2, 3, 8, 8, seed=1)
    with with_gradients():
        x = tracked(x_t)
        found = gradient(stage, loss, clean(x), WHOLE, x)
    step = 1e-5
    with torch.no_grad():
        ends = [loss(smooth_picture(stage, clean(x_t + sign * step * direction)), WHOLE) for sign in (1, -1)]
    expected = (ends[0] - ends[1]) / (2 * step)
    torch.testing.assert_close((found * direction).sum((1, 2, 3)), expected, rtol=1e-4, atol=1e-7)


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_a_score_correction_changes_the_noise_as_eq_16_says(kind):
    """Whatever the network gives, its noise changes by sqrt(1 - a_t) times what is asked for."""
    schedule, t = Schedule(ScheduleConfig(prediction_type=kind)), 300
    a_t = schedule.alpha_cumprod(t)
    x_t, output, total = draw(1, 3, 4, 4), draw(1, 3, 4, 4, seed=1), draw(1, 3, 4, 4, seed=2)
    before = prediction_of(schedule, output, x_t, t).eps
    after = prediction_of(schedule, output + factor_of_score(kind, a_t) * total, x_t, t).eps
    torch.testing.assert_close(after, before + (1.0 - a_t) ** 0.5 * total)


@pytest.mark.parametrize("t", [100, 500, 900])
@pytest.mark.parametrize("name", WANTED)
def test_the_loss_falls_with_the_sign_that_is_taken_and_would_rise_with_the_other(unet, name, t):
    """The loss of the clean latent that a small correction of the noise leads to."""
    stage, schedule = random_stage(TINY.first_stage).double(), Schedule(ScheduleConfig())
    wanted = WANTED[name]
    guided = Guided(unet, schedule, stage, [ScoreGradient(wanted, strength=1e-3)], (2, 3, 8, 8), unet)
    loss, x_t = wanted.loss(space_of(stage)), draw(2, 3, 8, 8)
    with torch.no_grad():
        plain = unet(x_t, t)
        change = guided(x_t, t) - plain

    def of(output: Tensor) -> Tensor:
        return loss(smooth_picture(stage, prediction_of(schedule, output, x_t, t).pred_x0), WHOLE)

    with torch.no_grad():
        below, middle, above = of(plain + change), of(plain), of(plain - change)
    assert bool((below < middle).all())
    assert bool((middle < above).all())


@pytest.mark.parametrize("name", WANTED)
def test_moves_against_the_gradient_make_the_loss_smaller_and_along_it_larger(stage, name):
    loss, z = WANTED[name].loss(space_of(stage)), draw(2, stage.config.z_channels, 8, 8)
    moved, other = (
        descended(z, lambda at, sign=sign: sign * gradient(stage, loss, at, WHOLE), 0.02, 3) for sign in (1, -1)
    )
    with torch.no_grad():
        before, after, risen = (loss(smooth_picture(stage, at), WHOLE) for at in (z, moved, other))
    assert bool((after < before).all())
    assert bool((before < risen).all())


def test_the_length_of_a_move_is_that_of_each_image():
    g = draw(3, 2, 4, 4) * torch.tensor([1e-6, 1.0, 0.0], dtype=torch.float64).view(3, 1, 1, 1)
    assert normalised(g).square().mean((1, 2, 3)).tolist() == pytest.approx([1.0, 1.0, 0.0])
    z = descended(torch.zeros_like(g), lambda _at: g, 0.5, 1)
    assert z.square().mean((1, 2, 3)).sqrt().tolist() == pytest.approx([0.5, 0.5, 0.0])


@pytest.mark.parametrize(
    ("function", "error", "words"),
    [
        (lambda x: x.mean(), InputError, r"shape \(\); expected \(2,\)"),
        (lambda x: x.mean(1), InputError, r"shape \(2, 32, 32\)"),
        (lambda x: 0.5, InputError, "type float"),
        (lambda x: x.detach().mean((1, 2, 3)), InputError, "has no gradient"),
        (lambda x: x.mean((1, 2, 3)) * torch.nan, SamplingError, "NaN or infinite for 2 of 2"),
    ],
)
def test_a_loss_that_is_none_is_refused(tiny, function, error, words):
    loss = AnyLoss(function).loss(space_of(tiny.first_stage))
    with with_gradients(), pytest.raises(error, match=words):
        gradient(tiny.first_stage, loss, tracked(torch.zeros(2, 3, 8, 8)), WHOLE)


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (MeanColour((1.0, 0.5)), r"A colour is \[1.0, 0.5\]"),
        (MeanColour((1.0, 0.5, 2.0)), "each from 0 to 1"),
        (MeanColour((1.0, 0.5, float("nan"))), "A colour is"),
        (Palette([]), "colours is empty"),
        (Reference(PICTURES, np.zeros((32, 32), bool)), "mask of the reference is empty"),
        (Reference(PICTURES[:, :16]), "The reference: 2 of 32x16"),
        (Style(PICTURES[:, :, :16]), "The picture of the style: 2 of 16x32"),
        (Style(PICTURES / 0.0), "NaN or infinity"),
    ],
)
def test_what_is_wanted_must_fit(tiny, wanted, words):
    with pytest.raises(InputError, match=words):
        wanted.loss(space_of(tiny.first_stage))


def test_gradients_work_within_inference_mode_where_the_weights_were_made_outside(tiny):
    loss = WANTED["style"].loss(space_of(tiny.first_stage))
    with torch.inference_mode():
        z = torch.ones(2, 3, 8, 8)
        moved = descended(z, lambda at: gradient(tiny.first_stage, loss, at, WHOLE), 0.1, 2)
        guided = Guided(tiny.unet, tiny.schedule, tiny.first_stage, [ScoreGradient(WANTED["style"])], (2, 3, 8, 8))
        assert bool((guided(z, 500) != tiny.unet(z, 500)).any())
    assert bool((moved != 1.0).any())
    assert all(weight.grad is None for weight in tiny.first_stage.parameters())


@pytest.mark.parametrize(("precision", "agreement"), [("bf16", 0.98), ("fp16", 0.999)])
def test_a_network_in_half_precision_has_the_same_gradient(tiny, tmp_path, monkeypatch, precision, agreement):
    """Though that of a mean over many pixels is far below what fp16 can hold. Nothing is compiled for it."""
    monkeypatch.setattr(torch, "compile", lambda *_, **__: pytest.fail("compiled"))
    short = ldm_backend.load(write_model_folder(tmp_path / "model", TINY), "cpu", precision=precision, compiled=True)
    x, found = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(3)), []
    wanted = AnyLoss(lambda picture: 1e-6 * picture.square().mean((1, 2, 3)))
    for model in (tiny, short):
        loss = wanted.loss(space_of(model.first_stage))
        with with_gradients():
            at = tracked(x)
            found.append(gradient(model.first_stage, loss, model.unet(at, 300), WHOLE, at).flatten(1))
    assert torch.cosine_similarity(*found).min() > agreement
    assert float(found[1].norm()) == pytest.approx(float(found[0].norm()), rel=0.05)


def test_weights_of_inference_mode_are_refused_before_the_run(tmp_path: Path):
    with torch.inference_mode():
        model = ldm_backend.load(write_model_folder(tmp_path / "model", TINY), device="cpu")
        stage = copy.deepcopy(model.first_stage)
    with pytest.raises(InputError, match="weights of the first stage were loaded in torch.inference_mode"):
        check_weights(stage, "first stage")


def test_a_grey_model_takes_colours_and_grey_pictures():
    stage = random_stage(replace(TINY.first_stage, in_channels=1, out_channels=1)).double()
    space = space_of(stage)
    for wanted in (MeanColour((0.9, 0.2, 0.1)), GreyPicture(PICTURES), Reference(PICTURES), Style(PICTURES)):
        with with_gradients():
            assert gradient(stage, wanted.loss(space), tracked(draw(2, 3, 8, 8)), WHOLE).shape == (2, 3, 8, 8)
