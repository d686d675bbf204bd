"""Upscale, inpaint and synthesise on the pretended card: devices go together, the pictures are the CPU's, no waits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conditional_models import CONFIGS, write_conditional_folder
from pretend_cuda import Log, pretend_card

import ldm_backend
from ldm_backend.memory import chunks

RNG = np.random.default_rng(3)
SEEDS = [3, 4]
RUNS: dict[str, Any] = {
    "super-resolution": (ldm_backend.upscale, (RNG.integers(0, 256, (2, 8, 12, 3), np.uint8),)),
    "inpainting": (
        ldm_backend.inpaint,
        (RNG.integers(0, 256, (2, 24, 48, 3), np.uint8), RNG.random((2, 24, 48)) > 0.5),
    ),
    "semantic-synthesis": (ldm_backend.synthesise, (RNG.integers(0, 5, (2, 16, 24)),)),
}


@pytest.fixture
def log() -> Iterator[Log]:
    with pretend_card() as log:
        yield log
        assert not log.of("mismatch")
        assert not log.of("race")


@pytest.fixture(params=CONFIGS)
def task(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    return request.param, write_conditional_folder(tmp_path / "model", CONFIGS[request.param])


@pytest.mark.parametrize("tile", [None, 8])
def test_pictures_are_those_of_the_cpu(log, task, tile):
    """One level, in few pixels: where a value lies at the border between two."""
    name, folder = task
    run, inputs = RUNS[name]
    expected = run(ldm_backend.load(folder, "cpu"), *inputs, SEEDS, 3, tile=tile)
    assert not log.launches
    found = run(ldm_backend.load(folder, "cuda"), *inputs, SEEDS, 3, tile=tile)
    difference = np.abs(found.astype(int) - expected.astype(int))
    assert difference.max() <= 1
    assert (difference > 0).mean() < 0.01


@pytest.mark.parametrize("sampler", ["dpmpp_2m", "dpmpp_2m_sde"])
def test_no_step_waits_for_the_card(log, task, sampler, monkeypatch):
    monkeypatch.setattr(chunks, "_SMALL", 0)  # memory is asked for only where much is needed
    name, folder = task
    run, inputs = RUNS[name]
    parts: list[Log] = []
    model = ldm_backend.load(folder, "cuda")
    run(model, *inputs, SEEDS, 6, sampler=sampler, callback=lambda _: parts.append(log.cut()))
    for part in parts[2:]:
        waits = [act for act in part.acts if act.kind not in ("launch", "copy")]
        assert not part.syncs, waits
        assert not part.queries, waits
        assert not any(copy.waits for copy in part.copies)
        assert "CUDAGraph.replay" in part.launches
