"""Restoring pictures: any size, each of its own seed, what is known is kept, refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from conditional_models import SUPER_RESOLUTION, load_conditional

import ldm_backend
from ldm_backend.errors import InputError, ScheduleError
from ldm_backend.guidance.restoration import RESTORATIONS
from ldm_backend.views.images import as_channels, from_uint8, to_uint8

Model = ldm_backend.LatentDiffusion
RNG = np.random.default_rng(3)
PICTURES = RNG.integers(0, 256, (2, 19, 29, 3), np.uint8)
MASKS = RNG.random((2, 19, 29)) > 0.6
SETTINGS: dict[str, dict[str, Any]] = {
    "upscale": {"factor": 3},
    "inpaint": {"masks": MASKS},
    "colourise": {},
    "deblur": {"blur": 1.0},
}


def settings_of(task: str, part: slice) -> dict[str, Any]:
    return {key: value[part] if key == "masks" else value for key, value in SETTINGS[task].items()}


@pytest.mark.parametrize("task", RESTORATIONS)
def test_any_size_is_restored_each_picture_by_itself(tiny, task):
    images = PICTURES[:, :7, :9] if task == "upscale" else PICTURES
    images = images.mean(-1, keepdims=True).astype(np.uint8) if task == "colourise" else images
    together = ldm_backend.restore(tiny, images, [5, 6], task, steps=2, **SETTINGS[task])
    factor = SETTINGS[task].get("factor", 1)
    assert (together.dtype, together.shape) == (np.uint8, (2, factor * images.shape[1], factor * images.shape[2], 3))
    assert together.flags.c_contiguous
    alone = ldm_backend.restore(tiny, images[1:], [6], task, steps=2, **settings_of(task, slice(1, 2)))
    assert np.abs(alone[0].astype(int) - together[1]).max() <= 1  # sums of another batch size
    other = ldm_backend.restore(tiny, images[1:], [7], task, steps=2, **settings_of(task, slice(1, 2)))
    assert (other != alone).any()


def test_known_pixels_are_kept_to_the_bit_unless_they_are_noisy(tiny):
    exact = ldm_backend.restore(tiny, PICTURES, [1, 2], "inpaint", masks=MASKS, steps=2)
    assert np.array_equal(exact[~MASKS], PICTURES[~MASKS])
    assert (exact[MASKS] != PICTURES[MASKS]).any()
    noisy = ldm_backend.restore(tiny, PICTURES, [1, 2], "inpaint", masks=MASKS, steps=2, noise=0.1)
    assert (noisy[~MASKS] != PICTURES[~MASKS]).any()


@pytest.mark.parametrize("settings", [{"sampler": "dpmpp_2m"}, {"codec": "linear"}, {"eta": 0.0, "grid": "trailing"}])
def test_samplers_codecs_and_grids(tiny, settings):
    plain = ldm_backend.restore(tiny, PICTURES, [1, 2], "colourise", steps=3)
    other = ldm_backend.restore(tiny, PICTURES, [1, 2], "colourise", steps=3, **settings)
    assert (plain != other).any()


def test_another_factor_and_filter_give_another_picture(tiny):
    small = PICTURES[:1, :8, :8]
    box, bicubic = (ldm_backend.restore(tiny, small, [1], "upscale", filter=f, steps=2) for f in ("box", "bicubic"))
    assert box.shape == bicubic.shape == (1, 32, 32, 3)
    assert (box != bicubic).any()


def test_an_upscaled_picture_keeps_the_small_one(demo_model, portrait):
    """On the demo: four times larger in ten steps; the small picture is there again to 60 dB, without a guide to 13."""
    small = portrait.reshape(1, 32, 4, 32, 4, 3).mean((2, 4)).round().astype(np.uint8)
    large = ldm_backend.restore(demo_model, small, [1], "upscale", steps=10)

    def decibels(a: np.ndarray, b: np.ndarray) -> float:
        return 10 * np.log10(255.0**2 / ((a.astype(float) - b) ** 2).mean())

    assert decibels(large.reshape(1, 32, 4, 32, 4, 3).mean((2, 4)), small) > 58.0
    assert decibels(large, portrait) > 26.0


@pytest.fixture(scope="module")
def demo_model(root) -> Model:
    return ldm_backend.load(root / "demo" / "portraits-128", device="cpu")


@pytest.fixture
def portrait(root, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    monkeypatch.syspath_prepend(root / "demo")
    from portraits import draw_portrait  # pyright: ignore[reportMissingImports]

    return draw_portrait(10_000_000)[None]


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "task": ({"task": "sharpen"}, "task is 'sharpen'; choose one of upscale, inpaint, colourise, deblur"),
    "no masks": ({"task": "inpaint"}, "task is inpaint with neither masks nor blur"),
    "masks for nothing": ({"task": "upscale", "masks": MASKS}, "task is upscale with masks; expected"),
    "no blur": ({"task": "deblur"}, "expected masks for inpaint, blur for deblur"),
    "blur and masks": ({"task": "deblur", "blur": 1.0, "masks": MASKS}, "task is deblur with masks and blur"),
    "empty mask": ({"task": "inpaint", "masks": MASKS & False}, "A mask is empty"),
    "mask of another size": ({"task": "inpaint", "masks": MASKS[:, :8]}, "The masks have shape"),
    "float images": ({"images": PICTURES / 255.0}, "The images are float64; expected uint8"),
    "no images": ({"images": PICTURES[:0]}, "The images have shape"),
    "seeds": ({"seeds": [1]}, "1 seeds for 2 images"),
    "factor": ({"task": "upscale", "factor": 0}, "factor is 0"),
    "filter": ({"task": "upscale", "filter": "lanczos"}, "filter is 'lanczos'"),
    "noise": ({"noise": float("nan")}, "noise is nan"),
    "codec": ({"codec": "fast"}, "codec is 'fast'"),
    "sigma": ({"task": "deblur", "blur": 0}, "sigma of the blur is 0"),
}


@pytest.mark.parametrize(("change", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_refusals(tiny, change, words):
    arguments: dict[str, Any] = {"images": PICTURES, "seeds": [1, 2], "task": "colourise", "steps": 2} | change
    with pytest.raises(InputError, match=words):
        ldm_backend.restore(tiny, **arguments)


def test_refusals_of_others(tiny, tmp_path):
    with pytest.raises(ScheduleError, match="dpmpp_2m has no eta"):
        ldm_backend.restore(tiny, PICTURES, [1, 2], "colourise", sampler="dpmpp_2m", eta=1.0)
    upscaler = load_conditional(tmp_path / "sr", SUPER_RESOLUTION)
    with pytest.raises(InputError, match="restore takes an unconditional model"):
        ldm_backend.restore(upscaler, PICTURES, [1, 2], "colourise")


def test_the_picture_is_that_of_generate_with_the_same_guide(tiny):
    from ldm_backend.guidance.guided import Guides
    from ldm_backend.guidance.guides import Projection
    from ldm_backend.guidance.measurements import GreyPicture

    images = PICTURES[:, :16, :16]
    for noise in (0.05, 0.0):
        known = GreyPicture(images, noise=noise)
        z = ldm_backend.pipeline.sample_latents(
            tiny, [1, 2], 2, 1.0, height=16, width=16, guides=Guides(Projection(known))
        )
        found = ldm_backend.restore(tiny, images, [1, 2], "colourise", steps=2, noise=noise)
        expected = to_uint8(torch.cat([tiny.first_stage.decode(one[None]).detach() for one in z]))
        if not noise:  # then the grey levels are brought in once more, rounded
            x = from_uint8(expected)
            difference = as_channels(from_uint8(images), 1) - as_channels(x, 1)
            expected = to_uint8(x + difference + 0.5 / 127.5)
        assert np.array_equal(found, expected)


def test_without_noise_what_is_known_is_there_again_to_half_a_level(tiny):
    """Wherever no level is at the end of its range."""
    small = (PICTURES[:, :5, :7] // 8 + 112).astype(np.uint8)
    large = ldm_backend.restore(tiny, small, [1, 2], "upscale", factor=3, steps=2)
    blocks = large.reshape(2, 5, 3, 7, 3, 3).astype(float)
    error, inside = np.abs(blocks.mean((2, 4)) - small), ((blocks > 0) & (blocks < 255)).all((2, 4))
    assert inside.mean() > 0.3
    assert error[inside].max() < 0.51
    grey = (PICTURES[..., :1] // 8 + 112).astype(np.uint8)
    coloured = ldm_backend.restore(tiny, grey, [1, 2], "colourise", steps=2)
    luma = (coloured * np.array([0.299, 0.587, 0.114])).sum(-1, keepdims=True)
    inside = ((coloured > 0) & (coloured < 255)).all(-1, keepdims=True)
    assert inside.mean() > 0.3
    assert np.abs(luma - grey)[inside].max() < 0.51
