"""The sides of benchmarks/upscale.py, with tiny networks: each draws the picture that ours does with its settings.

A level of 255 apart at most: diffusers' pipeline rounds where the others truncate, and sums are in another order.
"""

from __future__ import annotations

import importlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from conditional_models import SUPER_RESOLUTION, write_pipeline_folder

import ldm_backend

pytestmark = pytest.mark.parity

STEPS = 5


@pytest.fixture(autouse=True)
def path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))


@pytest.fixture(scope="module", params=["epsilon", "v_prediction"])
def folder(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Path:
    schedule = replace(SUPER_RESOLUTION.schedule, prediction_type=request.param)
    config = replace(SUPER_RESOLUTION, schedule=schedule)
    return write_pipeline_folder(tmp_path_factory.mktemp("upscaler") / "model", config)


class Clock:
    laps = 0

    def step(self) -> None:
        self.laps += 1


def loaded(side: str, folder: Path):
    program = importlib.import_module("upscale_sides").PROGRAMS[side](Clock())
    program.load(folder)
    return program


def small_picture(*size: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)


def enlarged(folder: Path, small: np.ndarray, **settings) -> np.ndarray:
    seed = importlib.import_module("upscale_sides").SEED
    model = ldm_backend.load(folder, "cpu")
    return ldm_backend.upscale(model, small[None], [seed], STEPS, sampler="ddim", **settings)[0]


def assert_same_levels(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected.astype(int)).max() <= 1


@torch.no_grad()
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_the_originals_way_is_its_sampler_and_all_that_it_computes_beside(folder, eta, monkeypatch):
    program, calls = loaded("original", folder), []
    for name in ("encode", "decode"):
        method = getattr(program.vq, name)
        monkeypatch.setattr(program.vq, name, lambda *a, name=name, f=method, **k: calls.append(name) or f(*a, **k))
    small = small_picture(16, 24)
    assert_same_levels(program.image(small, STEPS, eta), enlarged(folder, small, eta=eta, grid="compvis"))
    assert program.clock.laps == STEPS
    assert sorted(calls) == ["decode"] * 3 + ["encode"]


@torch.no_grad()
def test_diffusers_is_its_pipeline_at_its_defaults(folder):
    program, small = loaded("diffusers", folder), small_picture(32, 32)
    assert_same_levels(program.image(small, STEPS), enlarged(folder, small, eta=0.0, grid="leading"))
    assert program.clock.laps == STEPS


def test_ours_is_the_default(folder):
    program, small = loaded("ours", folder), small_picture(16, 16)
    expected = ldm_backend.upscale(ldm_backend.load(folder, "cpu"), small[None], [3])[0]
    steps = 15
    assert np.array_equal(program.image(small, steps), expected)
    assert program.clock.laps == steps


def test_weights_of_the_released_size_are_a_folder_of_both(monkeypatch, tmp_path):
    monkeypatch.setattr("ldm_backend.config.presets.SUPER_RESOLUTION_4X", SUPER_RESOLUTION)
    with torch.random.fork_rng():
        importlib.import_module("upscale_sides").write_upscaler(tmp_path / "model")
    small = small_picture(32, 32)
    found = [loaded(side, tmp_path / "model").image(small, STEPS) for side in ("ours", "diffusers")]
    assert [one.shape for one in found] == [(128, 128, 3)] * 2
    assert ldm_backend.load(tmp_path / "model", "cpu").task == "super-resolution"
