"""The linear colours of latents, and the benchmark that tells how good they are."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from ldm_backend.errors import InputError
from ldm_backend.sampling.noise import draw_noise
from ldm_backend.views.latent_rgb import Cells, LatentRGB, fit_cells, fit_latent_rgb

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("preview_colours")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two pictures of different shapes, and a file that is none."""
    generator = np.random.default_rng(0)
    for name, shape in (("a.png", (20, 30, 3)), ("B.JPG", (64, 48, 3))):
        pixels = generator.integers(0, 256, shape, dtype=np.uint8)
        Image.fromarray(pixels).resize((300, 280), Image.Resampling.BICUBIC).save(tmp_path / name)
    (tmp_path / "notes.txt").write_text("no image")
    return tmp_path


def random_cells() -> torch.Tensor:
    return draw_noise([0], (1, 100, 3))[0, 0].double()


def test_a_linear_first_stage_is_found_exactly(benchmark):
    weight, bias = [[0.5, 0.0, 0.1], [0.0, -0.3, 0.2], [0.1, 0.2, 0.0]], [0.1, -0.2, 0.3]
    latents = random_cells()
    colours = latents @ torch.tensor(weight, dtype=torch.float64) + torch.tensor(bias, dtype=torch.float64)
    fit = fit_cells(Cells(latents, colours))
    assert fit.weight == [pytest.approx(row) for row in weight]
    assert fit.bias == pytest.approx(bias)
    assert benchmark.explained_variance(fit, Cells(latents, colours)) == pytest.approx(1.0)


def test_the_mean_colour_explains_nothing(benchmark):
    latents = random_cells()
    colours = latents.flip(1) + 0.5
    mean = LatentRGB(weight=[[0.0] * 3] * 3, bias=colours.mean(dim=0).tolist())
    assert benchmark.explained_variance(mean, Cells(latents, colours)) == pytest.approx(0.0)
    with pytest.raises(InputError, match="the same"):
        benchmark.explained_variance(mean, Cells(latents, torch.zeros_like(latents)))


def test_no_fit_on_images_is_better_than_their_own(benchmark, tiny, folder):
    cells = benchmark.image_cells(tiny.first_stage, benchmark.read_images(folder))
    assert cells.latents.shape == cells.colours.shape == (2 * 64 * 64, 3)
    own, probe = fit_cells(cells), fit_latent_rgb(tiny.first_stage)
    assert 1 > benchmark.explained_variance(own, cells) > benchmark.explained_variance(probe, cells)


def test_colours_of_cells_are_those_of_their_pixels(benchmark, tiny):
    image = torch.zeros(1, 3, 8, 4)
    image[:, 0, :4] = 1.0
    image[:, 2, 4:] = -0.5
    assert benchmark.image_cells(tiny.first_stage, [image]).colours.tolist() == [[1, 0, 0], [0, 0, -0.5]]


def test_images_are_read_in_order_as_squares(benchmark, folder):
    images = list(benchmark.read_images(folder))
    assert [tuple(image.shape) for image in images] == [(1, 3, 256, 256)] * 2
    with Image.open(folder / "B.JPG") as first:
        middle = np.asarray(first.crop((10, 0, 290, 280)).resize((16, 16), Image.Resampling.BOX)) / 127.5 - 1
    small = torch.nn.functional.avg_pool2d(images[0], 16)[0].movedim(0, -1)
    assert np.abs(small.numpy() - middle).max() < 0.1


def test_folders_that_do_not_serve(benchmark, tiny, tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        list(benchmark.read_images(tmp_path / "absent"))
    with pytest.raises(InputError, match="holds no images"):
        list(benchmark.read_images(tmp_path))
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"a\.png: cannot be read"):
        list(benchmark.read_images(tmp_path))
    with pytest.raises(InputError, match="No images"):
        benchmark.image_cells(tiny.first_stage, [])


def numbers(output: str, label: str) -> list[list[float]]:
    return [
        [float(text) for text in re.findall(r"[+-]?\d+\.\d+", line)] for line in output.splitlines() if label in line
    ]


def test_the_command_prints_both_fits(benchmark, tiny, tiny_folder, folder, monkeypatch, capsys):
    """Weight, bias and share, as the loader node would fit them, and of a fit on images."""
    monkeypatch.setattr(sys, "argv", ["preview_colours", str(tiny_folder), "--images", str(folder)])
    benchmark.main()
    out = capsys.readouterr().out
    fit = fit_latent_rgb(tiny.first_stage)
    cells = benchmark.image_cells(tiny.first_stage, benchmark.read_images(folder))
    rows = [numbers(out, f"channel {index}")[0] for index in range(3)]
    assert rows == [pytest.approx(row, abs=1e-4) for row in fit.weight]
    assert numbers(out, "bias") == [pytest.approx(bias, abs=1e-4) for bias in (fit.bias, fit_cells(cells).bias)]
    (_,), (of_probe,), (of_images,) = numbers(out, "explains")
    assert of_probe == pytest.approx(benchmark.explained_variance(fit, cells), abs=1e-3)
    assert of_images == pytest.approx(benchmark.explained_variance(fit_cells(cells), cells), abs=1e-3)
    assert of_images > of_probe


def test_the_command_refuses_what_it_cannot_use(benchmark, tiny_folder, tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["preview_colours", str(tiny_folder), "--images", str(tmp_path / "absent")])
    with pytest.raises(SystemExit, match="absent: no such folder"):
        benchmark.main()
