"""benchmarks/guidance.py: which ways have rows and with how many portraits, and what a step costs."""

from __future__ import annotations

import importlib
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

import ldm_backend
from ldm_backend.views.images import from_uint8

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def paths(monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("demo", "benchmarks"):
        monkeypatch.syspath_prepend(str(ROOT / folder))


@pytest.fixture
def guidance() -> ModuleType:
    return importlib.import_module("guidance")


@pytest.fixture
def cost() -> ModuleType:
    return importlib.import_module("guidance_cost")


def test_ways_by_gradient_have_few_portraits_and_a_projection_beside_them(guidance):
    found = list(guidance.rows_of(["none", "projection", "loss", "score"], 0.0, 32, 8))
    assert found == [("none", 32), ("projection", 32), ("projection", 8), ("loss", 8), ("score", 8)]
    noisy = list(guidance.rows_of(["projection"], 0.05, 32, 8))
    assert noisy == [("projection", 32), (guidance.NOISE_UNTOLD, 32)]
    assert list(guidance.rows_of(["projection", "loss"], 0.0, 4, 8)) == [("projection", 4), ("loss", 4)]


def test_the_few_portraits_are_the_first_of_all(guidance):
    """Their noise too."""
    portraits = importlib.import_module("portraits")
    truth = from_uint8(np.stack([portraits.draw_portrait(seed) for seed in range(3)]))
    for task in ("upscale", "colourise"):
        whole, few = (guidance.measured(truth, 0.05, count)[task](0.05).images for count in (3, 2))
        assert (whole[:2] == few).all()
        assert len(few) == 2


def test_a_row_has_a_cell_for_each_column(guidance, root: Path):
    model = ldm_backend.load(root / "demo" / "portraits-128", device="cpu")
    truth = from_uint8(importlib.import_module("portraits").draw_portrait(3)[None])
    known = guidance.measured(truth, 0.0, 1)["upscale"]
    exact, noisy = (guidance.row(model, truth, known(noise), "projection", 1) for noise in (0.0, 0.05))
    assert len(exact) == len(noisy) == len(guidance.HEAD) - 3
    number, psnr, agreeing = exact[:3]
    assert number == "1"
    assert float(agreeing) > float(psnr.split()[0])
    assert noisy[2] == "-"


def test_a_step_is_counted_in_plain_steps_of_the_same_round(cost, tiny):
    seconds = cost.step_seconds(tiny, 2)
    assert set(seconds) == set(cost.STEPS_OF)
    assert all(len(found) == 2 for found in seconds.values())
    assert min(seconds["loss-3"]) > min(seconds["none"])
    made = {"none": [1.0, 2.0, 1.0], "projection": [4.0, 8.0, 6.0]}
    lines = cost.cost_table("One step", made)
    assert lines[0] == "One step, median (least to most) of 3 rounds:"
    assert lines[-1] == "| projection | 1 + 2 | 0 | 6.00 (4.00 to 8.00) | 4.0 (4.0 to 6.0) |"


@pytest.mark.parametrize("full", [False, True])
def test_the_program_writes_its_tables(
    guidance, tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: bool
) -> None:
    """The step costs, with random weights of another size in the place of the full one."""
    monkeypatch.setattr(guidance, "scratch_weights", lambda: nullcontext(tiny_folder))
    arguments = ["guidance.py", "--tasks", "--rounds", "1", "--out", str(tmp_path / "table.md")]
    monkeypatch.setattr("sys.argv", [*arguments, *(["--full-size", "1"] if full else [])])
    guidance.main()
    text = (tmp_path / "table.md").read_text()
    assert ("One step of the demo, 128x128 pixels" in text, "One step of the released size" in text) == (True, full)
    assert text.count("| loss-3 | 0 | 3 x decoder |") == 1 + full
    assert "threads of torch" in text
