"""Rounding, and the arguments of `generate`."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import ldm_backend
from ldm_backend.errors import InputError, ScheduleError
from ldm_backend.views.images import to_uint8, to_unit


def test_levels_are_clamped_and_truncated():
    """(x + 1) * 127.5, truncated: 0.999 of a level stays below, everything outside ends at the ends."""
    levels = torch.tensor([-2.0, -1.0, 0.0, (99.999 / 127.5) - 1, 1.0, 5.0]).view(1, 1, 1, 6).expand(1, 3, 1, 6)
    assert to_uint8(levels)[0, 0, :, 0].tolist() == [0, 0, 127, 99, 255, 255]
    assert to_unit(levels)[0, 0, :, 0].tolist() == pytest.approx([0, 0, 0.5, 99.999 / 255, 1, 1], abs=1e-6)


def test_layout_is_nhwc():
    x = torch.zeros(2, 3, 4, 8)
    assert to_uint8(x).shape == to_unit(x).shape == (2, 4, 8, 3)
    assert to_uint8(x).dtype == np.uint8


def test_generate_returns_one_picture_a_seed(tiny):
    images = ldm_backend.generate(tiny, seeds=[1, 2, 1], steps=2)
    assert images.shape == (3, 32, 32, 3)
    assert np.array_equal(images[0], images[2])
    assert not np.array_equal(images[0], images[1])
    assert tiny.vq is tiny.first_stage  # its older name is public


def test_defaults_are_the_model_cards_recipe(tiny):
    seen = []
    images = ldm_backend.generate(tiny, callback=lambda info: seen.append(info.t))
    assert seen == list(range(995, -1, -5))
    assert np.array_equal(images, ldm_backend.generate(tiny, [3], 200, 0.0, "ddim", "leading"))


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"sampler": "euler"}, ScheduleError, "choose one of ddim"),
        ({"grid": "karras"}, ScheduleError, "choose one of leading"),
        ({"steps": 0}, ScheduleError, "1 to 1000"),
        ({"eta": 2.0}, ScheduleError, "eta is 2.0"),
        ({"seeds": []}, InputError, "seeds is empty"),
        ({"seeds": [-5]}, InputError, "seed is -5"),
    ],
)
def test_bad_arguments(tiny, arguments, error, message):
    with pytest.raises(error, match=message):
        ldm_backend.generate(tiny, **({"steps": 2} | arguments))
