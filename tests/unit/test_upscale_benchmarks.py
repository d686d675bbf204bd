"""benchmarks/upscale.py and upscale_quality.py: what they measure, and what their tables say of it."""

from __future__ import annotations

import argparse
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from conditional_models import write_pipeline_folder

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def paths(monkeypatch: pytest.MonkeyPatch) -> None:
    for folder in ("demo", "benchmarks"):
        monkeypatch.syspath_prepend(str(ROOT / folder))
    monkeypatch.setattr(os, "environ", os.environ.copy())  # the programs set variables for the processes they start


@pytest.fixture
def upscale() -> ModuleType:
    return importlib.import_module("upscale")


@pytest.fixture
def quality() -> ModuleType:
    return importlib.import_module("upscale_quality")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_pipeline_folder(tmp_path_factory.mktemp("upscaler") / "model")


def small_picture(*size: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 256, (*size, 3), np.uint8)


def taken(upscale, seconds=20.0, laps=(5.0, 7.0, 9.0, 13.0)):
    return upscale.Taken(seconds, list(laps), 100.0, np.zeros((4, 4, 3), np.uint8))


def test_the_first_evaluation_is_what_is_beyond_the_others(upscale):
    """3 s before the evaluations, 7 s after them, and evaluations of 2, 2 and 4 s."""
    one = taken(upscale)
    assert one.evaluations == [2.0, 2.0, 4.0]
    assert one.outside == 10.0
    assert one.total(100) == 210.0
    assert one.rounds(1) == [2.0, 2.0, 4.0]
    assert one.rounds(2) == [3.0]


@pytest.mark.parametrize("whole", [True, False])
def test_a_table_says_whether_the_picture_was_measured_or_extrapolated(upscale, tmp_path, whole):
    measured = dict.fromkeys(upscale.SIDES, 4)
    steps = measured if whole else {"ours": 20, "original": 100, "diffusers": 100}
    case = upscale.Case("Tiny", tmp_path, 8, steps, measured, pairs=1)
    text = "\n".join(upscale.section(case, [{side: taken(upscale) for side in upscale.SIDES}]))
    assert ("extrapolated" not in text) == ("Measured whole" in text) == whole
    first = next(line for line in text.splitlines() if "whole picture, s" in line)
    expected = [20.0, 20.0, 20.0, 1.0, 1.0] if whole else [50.0, 210.0, 210.0, 4.2, 4.2]
    assert [float(cell.split()[0]) for cell in first.split("|")[3:-1]] == expected
    assert "| one evaluation of the UNet, s | 3 | 2.000 (2.000 to 4.000)" in text


def test_sides_of_which_one_takes_more_turns_are_compared_as_far_as_both_go(upscale, tmp_path):
    measured = {"ours": 25, "original": 4, "diffusers": 4}
    case = upscale.Case("Tiny", tmp_path, 8, measured, measured, pairs=1)
    longer = taken(upscale, laps=range(1, 26), seconds=30.0)
    text = "\n".join(upscale.section(case, [dict.fromkeys(upscale.SIDES, taken(upscale)) | {"ours": longer}]))
    assert "| one evaluation of the UNet, s | 3 | 1.000 (1.000 to 1.000)" in text


@pytest.mark.slow
def test_the_command_measures_each_side_in_a_process_of_its_own(folder, tmp_path):
    command = [sys.executable, str(ROOT / "benchmarks" / "upscale.py"), "--parts", "demo", "--model", str(folder)]
    options = "--side 32 --pairs 1 --threads 1 --out"
    subprocess.run([*command, *options.split(), str(tmp_path)], check=True, timeout=240)
    (file,) = tmp_path.glob("upscale-*.md")
    lines = file.read_text().splitlines()
    assert any(line.startswith("## ") and "32x32 to 128x128" in line for line in lines)
    assert any(
        line.startswith("Evaluations of a picture: ours 15, original's way 100, diffusers 100.") for line in lines
    )
    rows = [line.split("|")[1:-1] for line in lines if re.match(r"\| .* \| \d+ \|", line)]
    assert [row[0].strip().split(",")[0] for row in rows] == [
        "whole picture", "one evaluation of the UNet", "all but the evaluations", "peak memory",
    ]  # fmt: skip
    assert all(float(cell.split()[0]) > 0 for cell in [*rows[0][2:], *rows[1][2:], *rows[3][2:]])


def test_the_released_size_is_measured_by_parts(upscale, tmp_path):
    arguments = argparse.Namespace(
        parts=["demo", "full"], model=tmp_path, side=[128, 512], full_side=[128], evaluations=4, pairs=None
    )
    demo, large, full = upscale.cases(arguments, lambda: tmp_path / "full")
    assert (demo.whole, large.whole, full.whole) == (True, True, False)
    assert (demo.side, large.side, full.side) == (128, 512, 128)
    assert (demo.pairs, large.pairs, full.pairs) == (3, 1, 2)
    assert full.folder == tmp_path / "full"
    assert full.measured == dict.fromkeys(upscale.SIDES, 4)
    assert full.steps == demo.measured == {"ours": 15, "original": 100, "diffusers": 100}


def test_fewer_than_two_evaluations_tell_nothing(upscale, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["upscale", "--evaluations", "1"])
    with pytest.raises(SystemExit):
        upscale.main()
    assert "2 or more" in capsys.readouterr().err


def test_detail_is_that_of_the_truth_and_blur_has_less(quality):
    truth = small_picture(16, 16)
    grey = np.full_like(truth, 99)
    half = ((truth.astype(float) + truth.astype(float).mean()) / 2).astype(np.uint8)
    assert quality.detail(truth, truth) == 1.0
    assert quality.detail(grey, truth) == 0.0
    assert quality.detail(half, truth) == pytest.approx(0.5, abs=0.02)


def test_a_shift_of_colours_costs_nothing_where_they_are_kept(quality):
    truth = small_picture(32, 32) // 2 + np.uint8(20)
    small = quality.made_small("box", truth, 0)
    score = quality.scored(truth + np.uint8(20), small, truth)
    assert score.psnr == pytest.approx(20 * np.log10(255 / 20))
    assert score.kept > 45
    assert score.detail == pytest.approx(1.0)


def test_rows_are_named_by_what_upscale_is_given(quality):
    names = [quality.label(setting) for setting in quality.SETTINGS]
    assert names[0] == "ddim, 15 steps, eta 1 (the default)"
    assert names[-1] == "ddim, 100 steps, eta 1, grid compvis (the original)"
    assert len(set(names)) == len(names)


def test_quality_is_measured_for_each_way_to_make_a_picture_small(quality, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(quality, "SIDE", 32)
    monkeypatch.setattr(quality, "SETTINGS", quality.SETTINGS[:2] + quality.SETTINGS[-1:])
    arguments = ["--model", str(folder), "--portraits", "2", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", ["upscale_quality", *arguments])
    quality.main()
    (file,) = tmp_path.glob("upscale-quality-*.md")
    text = file.read_text()
    assert [line for line in text.splitlines() if line.startswith("## ")] == [
        f"## {kind}" for kind in quality.KINDS.values()
    ]
    rows = [line for line in text.splitlines() if re.match(r"\| (?!\|)", line)]
    assert len(rows) == len(quality.KINDS) * (len(quality.SETTINGS) + 2)
    for setting in quality.SETTINGS:
        steps = setting.get("steps", 15)
        assert text.count(f"| {quality.label(setting)} | {steps} |") == len(quality.KINDS)
