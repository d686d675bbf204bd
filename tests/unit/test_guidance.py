"""Guided runs: every sampler, when guides work, no image depends on its batch, conditioned models, refusals."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest
import torch
from conditional_models import SUPER_RESOLUTION, load_conditional
from torch import Tensor

import ldm_backend
from ldm_backend.config.model import ScheduleConfig
from ldm_backend.errors import InputError, SamplingError, TooLargeError
from ldm_backend.guidance import costs
from ldm_backend.guidance.codecs import LinearCodec
from ldm_backend.guidance.guided import Guided, Guides
from ldm_backend.guidance.guides import Guide, LossGradient, Projection, ScoreGradient
from ldm_backend.guidance.losses import AnyLoss, MeanColour, Style
from ldm_backend.guidance.measurements import Blurred, GreyPicture, KnownPixels, LowResolution
from ldm_backend.networks.deep_cache import DeepCache
from ldm_backend.pipeline import sample_latents
from ldm_backend.sampling.noise import draw_noise
from ldm_backend.sampling.samplers import SAMPLERS
from ldm_backend.sampling.schedule import Schedule

Model = ldm_backend.LatentDiffusion
RNG = np.random.default_rng(5)
PICTURES = RNG.random((3, 32, 32, 3)).astype(np.float32)
MASKS = RNG.random((3, 32, 32)) > 0.6
SEEDS = [7, 2**64 - 1, 3]


def known(part: slice = slice(None)) -> dict[str, list[Guide]]:
    """Guides of all kinds for some pictures of the batch."""
    pictures, masks = PICTURES[part], MASKS[part]
    low = LowResolution(pictures[:, ::4, ::4], 4)
    return {
        "low resolution": [Projection(low)],
        "bicubic with noise": [Projection(LowResolution(pictures[:, ::2, ::2], 2, "bicubic", noise=0.05), 0.9)],
        "known pixels": [Projection(KnownPixels(pictures, masks))],
        "grey": [Projection(GreyPicture(pictures))],
        "blurred": [Projection(Blurred(pictures, 1.0))],
        "linear": [Projection(low, codec="linear")],
        "two": [Projection(low), Projection(KnownPixels(pictures, masks)), Projection(low, codec="linear")],
        "loss": [LossGradient(Style(pictures), inner=2)],
        "score": [ScoreGradient(low)],
        "all": [Projection(GreyPicture(pictures)), LossGradient(MeanColour((0.5, 0.2, 0.1))), ScoreGradient(low)],
    }


def run(model: Model, guides: list[Guide], seeds: list[int], sampler: str = "ddim", steps: int = 3, **settings: Any):
    settings = {"eta": 1.0} | settings if sampler == "ddim" else settings
    return sample_latents(model, seeds, steps, sampler=sampler, guides=Guides(*guides), **settings)


@pytest.mark.parametrize("name", known())
def test_an_image_depends_on_no_neighbour_and_on_no_order(tiny, name):
    """A batch of another size rounds its sums otherwise: 1e-3 of latents of 1; a code that flips would be more."""
    together = run(tiny, known()[name], SEEDS, steps=2)
    assert torch.equal(together, run(tiny, known()[name], SEEDS, steps=2))
    alone = run(tiny, known(slice(1, 2))[name], SEEDS[1:2], steps=2)
    torch.testing.assert_close(alone[0], together[1], rtol=0, atol=1e-3)
    backwards = run(tiny, known(slice(None, None, -1))[name], SEEDS[::-1], steps=2)
    torch.testing.assert_close(backwards.flip(0), together, rtol=0, atol=1e-3)


@pytest.mark.parametrize("sampler", SAMPLERS)
@pytest.mark.parametrize("name", ["low resolution", "loss", "score"])
def test_every_sampler_can_be_guided(tiny, sampler, name):
    found = run(tiny, known()[name], SEEDS, sampler, eta=0.0)
    plain = sample_latents(tiny, SEEDS, 3, sampler=sampler)
    assert bool(torch.isfinite(found).all())
    assert (found - plain).abs().amax((1, 2, 3)).min() > 0.01


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_projection_on_everything_ends_at_the_picture(tiny, sampler):
    """With the linear codec, which loses nothing but what is finer than a cell."""
    flat = np.repeat(np.repeat(0.5 + 0.2 * (PICTURES[:, :8, :8] - 0.5), 4, 1), 4, 2)
    guide = Projection(LowResolution(flat, 1), codec="linear")
    z = run(tiny, [guide], SEEDS, sampler, eta=0.0)
    found = LinearCodec(tiny.first_stage).picture(z)
    expected = torch.from_numpy(flat).movedim(-1, 1) * 2.0 - 1.0
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-3)


def test_nothing_touches_the_global_generator(tiny):
    before = torch.get_rng_state()
    for guides in known().values():
        run(tiny, guides, SEEDS, steps=1)
    assert torch.equal(before, torch.get_rng_state())


class Counting:
    """A loss that counts its calls."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, x: Tensor) -> Tensor:
        self.calls += 1
        return x.square().mean((1, 2, 3))


@pytest.mark.parametrize(
    ("window", "calls"),
    [
        ({}, 10),
        ({"every": 3}, 4),
        ({"start": 0.45}, 6),  # timesteps 900, 800, .. 0 of 0..999
        ({"end": 0.45}, 4),
        ({"start": 0.2, "end": 0.85, "every": 2}, 3),
        ({"start": 0.95, "end": 0.96}, 0),
    ],
)
@pytest.mark.parametrize("kind", [LossGradient, ScoreGradient])
def test_guides_work_within_their_window_at_every_nth_step(tiny, kind, window, calls):
    loss = Counting()
    run(tiny, [kind(AnyLoss(loss), **window)], [1], steps=10, eta=0.0)
    assert loss.calls == calls


def test_plms_counts_timesteps_and_not_calls(tiny):
    """Its first step evaluates twice, at two timesteps of which the second comes again; each is used once or twice."""
    loss = Counting()
    run(tiny, [ScoreGradient(AnyLoss(loss), every=2)], [1], "plms", steps=6)
    assert loss.calls == 3


def test_out_of_its_window_a_guide_changes_nothing(tiny):
    guide = Projection(GreyPicture(PICTURES), start=0.999, end=0.9995)
    assert torch.equal(run(tiny, [guide], SEEDS, eta=0.0), sample_latents(tiny, SEEDS, 3))


def test_weak_and_cached_guides(tiny):
    low = LowResolution(PICTURES[:, ::4, ::4], 4)
    plain, strong = sample_latents(tiny, SEEDS, 4), run(tiny, [Projection(low)], SEEDS, steps=4, eta=0.0)
    weak = run(tiny, [Projection(low, 0.01)], SEEDS, steps=4, eta=0.0)
    assert (weak - plain).norm() < 0.2 * (strong - plain).norm()
    cached = run(tiny, [Projection(low)], SEEDS, steps=4, eta=0.0, cache_interval=2)
    assert bool(torch.isfinite(cached).all())
    with pytest.raises(InputError, match="cache_interval is above 1"):
        run(tiny, [ScoreGradient(low)], SEEDS, cache_interval=2)


def test_several_measurements_agree_with_all_of_them(tiny):
    """In pixels, before the encoder: turns end where both agree."""
    low = LowResolution(PICTURES.reshape(3, 8, 4, 8, 4, 3).mean((2, 4)), 4)
    pixels = KnownPixels(PICTURES, MASKS)
    guides = [Projection(low), Projection(pixels)]
    guided = Guided(tiny.unet, tiny.schedule, tiny.first_stage, guides, (3, 3, 8, 8))
    x = torch.rand(3, 3, 32, 32) * 2.0 - 1.0
    agreeing = guided._agreeing(x, 500, guided._projections)
    for _, bound in guided._projections:
        before, after = (bound.difference(one, slice(None)).abs().mean() for one in (x, agreeing))
        assert after < 0.05 * before


@pytest.fixture(scope="module")
def upscaler(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return load_conditional(tmp_path_factory.mktemp("conditional") / "sr", SUPER_RESOLUTION)


@pytest.mark.parametrize("name", ["low resolution", "loss", "score"])
def test_a_conditioned_model_is_guided_with_its_conditioning_joined(upscaler, name):
    c = draw_noise([1, 2, 3], (3, 8, 8))

    def draw(c: Tensor, part: slice = slice(None), guided: bool = True) -> Tensor:
        guides = Guides(*known(part)[name]) if guided else None
        return sample_latents(upscaler, SEEDS[part], 3, 1.0, conditioning=c, guides=guides)

    found = draw(c)
    assert (found - draw(c, guided=False)).abs().max() > 0.01
    assert (found - draw(-c)).abs().max() > 1e-4
    torch.testing.assert_close(draw(c[1:2], slice(1, 2))[0], found[1], rtol=0, atol=1e-3)


def test_a_latent_without_signal_is_left_alone(tiny):
    config = ScheduleConfig(rescale_betas_zero_snr=True, prediction_type="v_prediction", timestep_spacing="trailing")
    guided = Guided(tiny.unet, Schedule(config), tiny.first_stage, known()["score"], (3, 3, 8, 8), tiny.unet)
    x = draw_noise(SEEDS, (3, 8, 8))
    assert torch.equal(guided(x, 999), tiny.unet(x, 999))
    assert bool((guided(x, 500) != tiny.unet(x, 500)).any())


LOW = LowResolution(PICTURES[:, ::4, ::4], 4)
REFUSED: dict[str, tuple[Any, str]] = {
    "none": (lambda: Guides(), r"guides is \[\]"),
    "a measurement": (lambda: Guides(cast("Any", LOW)), "guides is .* expected Projection"),
    "start after end": (lambda: Projection(LOW, start=0.6, end=0.5), "start is 0.6 and end 0.5"),
    "nan start": (lambda: Projection(LOW, start=float("nan")), "start is nan"),
    "every": (lambda: Projection(LOW, every=0), "every is 0"),
    "projection on a loss": (lambda: Projection(cast("Any", MeanColour((1, 0, 0)))), "expected a measurement"),
    "projection too strong": (lambda: Projection(LOW, 1.5), "strength is 1.5"),
    "codec": (lambda: Projection(LOW, codec="taesd"), "codec is 'taesd'"),
    "gradient of nothing": (lambda: LossGradient(cast("Any", len)), "expected a loss such as MeanColour"),
    "no strength": (lambda: LossGradient(LOW, 0.0), "strength is 0.0"),
    "nan strength": (lambda: ScoreGradient(LOW, float("nan")), "strength is nan"),
    "inner": (lambda: LossGradient(LOW, inner=0), "inner is 0"),
    "number of pictures": (lambda: Guides(Projection(LowResolution(PICTURES[:2, ::4, ::4], 4))), "2 of 8x8 pixels"),
    "size": (lambda: Guides(Projection(GreyPicture(PICTURES[:, :16]))), "The grey picture: 3 of 32x16"),
}


@pytest.mark.parametrize(("make", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_what_cannot_guide_is_refused_before_anything_is_drawn(tiny, make, words):
    def never(info: object) -> None:
        raise AssertionError(info)

    with pytest.raises(InputError, match=words):
        sample_latents(tiny, SEEDS, 2, guides=make(), callback=never)


def test_a_list_of_guides_is_refused_with_what_takes_it(tiny):
    with pytest.raises(InputError, match="expected guidance.guided.Guides"):
        sample_latents(tiny, SEEDS, 2, guides=known()["grey"])  # pyright: ignore[reportArgumentType]


def test_what_a_guide_makes_infinite_ends_the_run(tiny, monkeypatch):
    guided = Guided(tiny.unet, tiny.schedule, tiny.first_stage, known()["linear"], (3, 3, 8, 8))
    x = draw_noise(SEEDS, (3, 8, 8))
    guided(x, 500)
    monkeypatch.setattr(guided, "_agreeing", lambda x, t, projections: x * torch.inf)
    with pytest.raises(SamplingError, match="A guide made NaN or infinity"):
        guided.corrected(x, 500)


@pytest.mark.parametrize("kind", [LossGradient, ScoreGradient])
def test_a_gradient_that_does_not_fit_is_refused_with_what_would(tiny, monkeypatch, kind):
    guides = [kind(LOW)]
    needed = Guided(tiny.unet, tiny.schedule, tiny.first_stage, guides, (3, 3, 8, 8), tiny.unet)._cost(1)
    monkeypatch.setattr(costs, "free_bytes", lambda device: needed - 1)
    with pytest.raises(
        TooLargeError, match=r"A gradient through the decoder: 1 image of 32x32 .* would take .* Projection"
    ):
        run(tiny, guides, SEEDS)
    run(tiny, [Projection(LOW)], SEEDS, steps=1)
    monkeypatch.setattr(costs, "free_bytes", lambda device: 2**29)
    large = LowResolution(np.zeros((1, 2048, 2048, 3), np.uint8), 1)
    with pytest.raises(TooLargeError, match=r"What fits: 1 image of \d+x\d+ pixels\. Working at every n-th step"):
        Guided(tiny.unet, tiny.schedule, tiny.first_stage, [kind(large)], (1, 3, 512, 512), tiny.unet)


def test_a_cached_denoiser_is_told_apart(tiny):
    Guided(DeepCache(tiny.unet, 2), tiny.schedule, tiny.first_stage, known()["loss"], (3, 3, 8, 8))


def test_the_weights_of_the_first_stage_are_as_they_were(tiny, tmp_path: Path):
    before = [weight.clone() for weight in tiny.first_stage.parameters()]
    run(tiny, known()["all"], SEEDS, steps=2)
    assert all(torch.equal(a, b) for a, b in zip(before, tiny.first_stage.parameters(), strict=True))
    assert all(weight.grad is None for network in (tiny.unet, tiny.first_stage) for weight in network.parameters())
