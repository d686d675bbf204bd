"""The linear colours of latents, and `ldm fit-preview`, which prints them."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ldm_backend.errors import InputError
from ldm_backend.sampling.noise import draw_noise
from ldm_backend.views.latent_rgb import (
    Cells,
    LatentRGB,
    explained_variance,
    fit_cells,
    fit_latent_rgb,
    image_cells,
    read_images,
)
from ldm_headless import cli

FitPreview = Callable[..., tuple[int, str, str]]


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


def test_a_linear_first_stage_is_found_exactly():
    weight, bias = [[0.5, 0.0, 0.1], [0.0, -0.3, 0.2], [0.1, 0.2, 0.0]], [0.1, -0.2, 0.3]
    latents = random_cells()
    colours = latents @ torch.tensor(weight, dtype=torch.float64) + torch.tensor(bias, dtype=torch.float64)
    fit = fit_cells(Cells(latents, colours))
    assert fit.weight == [pytest.approx(row) for row in weight]
    assert fit.bias == pytest.approx(bias)
    assert explained_variance(fit, Cells(latents, colours)) == pytest.approx(1.0)


def test_the_mean_colour_explains_nothing():
    latents = random_cells()
    colours = latents.flip(1) + 0.5
    mean = LatentRGB(weight=[[0.0] * 3] * 3, bias=colours.mean(dim=0).tolist())
    assert explained_variance(mean, Cells(latents, colours)) == pytest.approx(0.0)
    with pytest.raises(InputError, match="the same"):
        explained_variance(mean, Cells(latents, torch.zeros_like(latents)))


def test_no_fit_on_images_is_better_than_their_own(tiny, folder):
    cells = image_cells(tiny.vq, read_images(folder))
    assert cells.latents.shape == cells.colours.shape == (2 * 64 * 64, 3)
    own, probe = fit_cells(cells), fit_latent_rgb(tiny.vq)
    assert 1 > explained_variance(own, cells) > explained_variance(probe, cells)


def test_colours_of_cells_are_those_of_their_pixels(tiny):
    image = torch.zeros(1, 3, 8, 4)
    image[:, 0, :4] = 1.0
    image[:, 2, 4:] = -0.5
    assert image_cells(tiny.vq, [image]).colours.tolist() == [[1, 0, 0], [0, 0, -0.5]]


def test_images_are_read_in_order_as_squares(folder):
    images = list(read_images(folder))
    assert [tuple(image.shape) for image in images] == [(1, 3, 256, 256)] * 2
    with Image.open(folder / "B.JPG") as first:
        middle = np.asarray(first.crop((10, 0, 290, 280)).resize((16, 16), Image.Resampling.BOX)) / 127.5 - 1
    small = torch.nn.functional.avg_pool2d(images[0], 16)[0].movedim(0, -1)
    assert np.abs(small.numpy() - middle).max() < 0.1


def test_folders_that_do_not_serve(tiny, tmp_path):
    with pytest.raises(InputError, match="no such folder"):
        list(read_images(tmp_path / "absent"))
    with pytest.raises(InputError, match="holds no images"):
        list(read_images(tmp_path))
    (tmp_path / "a.png").write_bytes(b"no image")
    with pytest.raises(InputError, match=r"a\.png: cannot be read"):
        list(read_images(tmp_path))
    with pytest.raises(InputError, match="No images"):
        image_cells(tiny.vq, [])


@pytest.fixture
def fit_preview(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> FitPreview:
    """The command in this process: exit code, standard output, standard error."""

    def run(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["ldm", "fit-preview", *map(str, arguments)])
        with pytest.raises(SystemExit) as end:
            cli.main()
        out, err = capsys.readouterr()
        return int(end.value.code or 0), out, err

    return run


def numbers(output: str, label: str) -> list[list[float]]:
    return [
        [float(text) for text in re.findall(r"[+-]?\d+\.\d+", line)] for line in output.splitlines() if label in line
    ]


def test_the_command_prints_the_fit_of_comfyui(tiny, tiny_folder, fit_preview):
    """Weight, bias and share, as the loader node would fit them."""
    status, out, err = fit_preview(tiny_folder)
    assert (status, err) == (0, "")
    fit = fit_latent_rgb(tiny.vq)
    rows = [numbers(out, f"channel {index}")[0] for index in range(3)]
    assert rows == [pytest.approx(row, abs=1e-4) for row in fit.weight]
    assert numbers(out, "bias") == [pytest.approx(fit.bias, abs=1e-4)]
    assert len(numbers(out, "explains")) == 1


def test_the_command_refits_on_images(tiny, tiny_folder, folder, fit_preview):
    status, out, err = fit_preview(tiny_folder, "--images", folder)
    assert (status, err) == (0, "")
    cells = image_cells(tiny.vq, read_images(folder))
    assert numbers(out, "bias")[1] == pytest.approx(fit_cells(cells).bias, abs=1e-4)
    (_,), (of_probe,), (of_images,) = numbers(out, "explains")
    assert of_probe == pytest.approx(explained_variance(fit_latent_rgb(tiny.vq), cells), abs=1e-3)
    assert of_images == pytest.approx(explained_variance(fit_cells(cells), cells), abs=1e-3)
    assert of_images > of_probe


def test_the_command_refuses_what_it_cannot_use(tiny_folder, tmp_path, fit_preview):
    status, out, err = fit_preview(tiny_folder, "--images", tmp_path / "absent")
    assert (status, out) == (2, "")
    assert "absent: no such folder" in err
