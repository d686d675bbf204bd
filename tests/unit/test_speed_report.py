"""The arithmetic of benchmarks/speed.py: what its tables say of given numbers."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture
def speed_report(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return importlib.import_module("speed_report")


def test_a_ratio_is_of_neighbours_and_above_one_where_ours_is_faster(speed_report):
    row = speed_report.Compared("UNet", ours=[1.0, 2.0, 4.0], diffusers=[2.0, 2.0, 5.0])
    assert row.ratios == [2.0, 1.0, 1.25]
    line = speed_report.compared_table([row], "s")[-1]
    assert line == "| UNet | 3 | 2.00 (1.00 to 4.00) | 2.00 (2.00 to 5.00) | 1.25 (1.00 to 2.00) |  |"


def test_images_per_second_are_printed_but_the_ratio_stays_that_of_the_times(speed_report):
    row = speed_report.Compared("batch 4", ours=[2.0], diffusers=[4.0], form=".1f", images=4)
    line = speed_report.compared_table([row], "images/s")[-1]
    assert line == "| batch 4 | 1 | 2.0 (2.0 to 2.0) | 1.0 (1.0 to 1.0) | 2.00 (2.00 to 2.00) |  |"


def test_only_the_steps_grow_with_their_number(speed_report):
    assert speed_report.scaled(seconds=5.0, loop=2.0, steps=2, wanted=200) == 203.0


def test_pictures_differ_by_the_share_of_levels_more_than_one_apart(speed_report):
    theirs = np.full((1, 2, 2, 1), 255, np.uint8)
    ours = theirs - np.array([0, 1, 2, 255], np.uint8).reshape(theirs.shape)
    assert speed_report.difference(ours, theirs) == "50.00 % of levels more than 1 apart"


def test_tensors_differ_by_the_largest_error_over_the_standard_deviation(speed_report):
    theirs = np.array([-2.0, 2.0])
    assert speed_report.difference(theirs + [0.0, 0.02], theirs) == "1e-02 of std apart at most"


def test_the_report_links_the_plot_only_where_there_is_one(speed_report):
    section = speed_report.Section("Memory", ["a line"])
    assert "![" not in speed_report.report([section], "head", "foot", None)
    assert "(a.png)" in speed_report.report([section], "head", "foot", "a.png")
