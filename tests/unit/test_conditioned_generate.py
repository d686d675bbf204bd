"""`generate` with a conditioning: the pictures of the tasks for the same seeds, and every other use refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conditional_models import CONFIGS, load_conditional
from torch import Tensor

import ldm_backend
from ldm_backend.conditioning.low_resolution import low_resolution
from ldm_backend.conditioning.masked_image import filled_pixels, masked_image
from ldm_backend.conditioning.pictures import as_pictures
from ldm_backend.errors import CheckpointError, InputError, TooLargeError
from ldm_backend.pipeline import sample_latents
from ldm_backend.tasks.synthesis import label_channels

RNG = np.random.default_rng(21)
SEEDS = [5, 2**64 - 1]
SMALL, LARGE = RNG.integers(0, 256, (2, 8, 24, 3), np.uint8), RNG.integers(0, 256, (2, 32, 64, 3), np.uint8)
MASKS, LABELS = RNG.random((2, 32, 64)) > 0.5, RNG.integers(0, 5, (2, 32, 64))
Model = ldm_backend.LatentDiffusion
CONDITIONINGS: dict[str, Callable[[Model], Tensor]] = {
    "super-resolution": lambda model: low_resolution(SMALL, model.config),
    "inpainting": lambda model: masked_image(
        model.first_stage, as_pictures(LARGE, 3), filled_pixels(MASKS, MASKS.shape)
    ),
    "semantic-synthesis": lambda model: label_channels(model, LABELS),
}
TASKS: dict[str, Any] = {
    "super-resolution": lambda model, **run: ldm_backend.upscale(model, SMALL, SEEDS, **run),
    "inpainting": lambda model, **run: ldm_backend.inpaint(model, LARGE, MASKS, SEEDS, **run),
    "semantic-synthesis": lambda model, **run: ldm_backend.synthesise(model, LABELS, SEEDS, **run),
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Model]:
    folder = tmp_path_factory.mktemp("models")
    return {name: load_conditional(folder / name, config) for name, config in CONFIGS.items()}


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize(
    "run",
    [
        {"steps": 3, "sampler": "dpmpp_2m"},
        {"steps": 4, "sampler": "ddim", "eta": 1.0, "grid": "compvis"},
        {"steps": 3, "sampler": "plms", "tile": 8},
    ],
)
def test_pictures_are_those_of_the_task(models, name, run):
    """To the bit; of inpainting before every other pixel is put back."""
    model = models[name]
    found = ldm_backend.generate(model, SEEDS, conditioning=CONDITIONINGS[name](model), **run)
    expected = TASKS[name](model, **run)
    if name == "inpainting":
        found, expected = found[MASKS], expected[MASKS]
    assert np.array_equal(found, expected)


def test_a_conditioning_is_not_written_to(models):
    model = models["super-resolution"]
    c = CONDITIONINGS[model.task](model)
    before = c.clone()
    z = sample_latents(model, SEEDS, 2, conditioning=c)
    assert z.shape == (2, 3, 8, 24)
    assert torch.equal(c, before)


def test_other_formats_of_a_conditioning_are_taken(models):
    """Labels as float64, and what is exact in half a float."""
    model = models["super-resolution"]
    c = torch.randint(-4, 5, (1, 3, 8, 8)).float() / 4
    one, *others = (
        ldm_backend.generate(model, [1], steps=2, conditioning=c.to(kind))
        for kind in (torch.float32, torch.float64, torch.float16)
    )
    assert all(np.array_equal(one, other) for other in others)


@pytest.mark.parametrize("name", TASKS)
def test_a_missing_conditioning_is_told(models, name):
    with pytest.raises(InputError, match=f"generate without a conditioning takes an unconditional .* {name} model"):
        ldm_backend.generate(models[name], [1], steps=1)


def test_a_superfluous_conditioning_is_told(tiny):
    with pytest.raises(InputError, match="this model takes none: it draws pictures from noise alone. Leave it out"):
        ldm_backend.generate(tiny, [1], steps=1, conditioning=torch.zeros(1, 3, 8, 8))
    with pytest.raises(InputError, match="tile is 64, and no conditioning is given"):
        ldm_backend.generate(tiny, [1], steps=1, tile=64)


@pytest.mark.parametrize(
    ("c", "message"),
    [
        (torch.zeros(1, 4, 8, 8), r"shape \(1, 4, 8, 8\); expected \(1, 3, h, w\) with h and w multiples of 2"),
        (torch.zeros(1, 3, 7, 8), r"shape \(1, 3, 7, 8\)"),
        (torch.zeros(1, 3, 8, 0), r"shape \(1, 3, 8, 0\)"),
        (torch.zeros(3, 8, 8), r"torch.float32 of shape \(3, 8, 8\)"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "torch.uint8"),
        (np.zeros((1, 3, 8, 8), np.float32), "is array"),
        ("a picture", "is 'a picture'; expected float"),
        (torch.zeros(2, 3, 8, 8), "1 seeds for 2 images"),
        (torch.full((1, 3, 8, 8), float("nan")), "NaN or infinity"),
    ],
)
def test_what_is_no_conditioning_is_told(models, c, message):
    with pytest.raises(InputError, match=message):
        ldm_backend.generate(models["super-resolution"], [1], steps=1, conditioning=c)


@pytest.mark.parametrize("settings", [{"height": 32}, {"width": 32}, {"cache_interval": 2}])
def test_what_does_not_go_with_a_conditioning_is_told(models, settings):
    with pytest.raises(InputError, match="with a conditioning, which says the size, expected 1, None and None"):
        ldm_backend.generate(models["super-resolution"], [1], 1, conditioning=torch.zeros(1, 3, 8, 8), **settings)


def test_a_tile_and_memory_count(models, monkeypatch: pytest.MonkeyPatch):
    model, c = models["super-resolution"], torch.zeros(1, 3, 8, 8)
    with pytest.raises(InputError, match="tile is 6; expected a multiple of 2"):
        ldm_backend.generate(model, [1], steps=1, conditioning=c, tile=6)
    monkeypatch.setattr(ldm_backend.pipeline, "free_bytes", lambda _: 10**6)
    with pytest.raises(TooLargeError, match="Sampling: 1 image of 32x32 pixels"):
        ldm_backend.generate(model, [1], steps=1, conditioning=c)


def test_a_changed_file_is_noticed(tmp_path: Path):
    model = load_conditional(tmp_path / "model", CONFIGS["super-resolution"])
    (tmp_path / "model" / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="unet"):
        ldm_backend.generate(model, [1], steps=1, conditioning=torch.zeros(1, 3, 8, 8))
