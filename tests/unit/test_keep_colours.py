"""The colours of the small picture in the large one: what is guaranteed, no block is seen, edges swing over little."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conditional_models import SUPER_RESOLUTION, load_conditional, write_conditional_folder
from pictured import QUICK, command, draw, lines, pixels_of
from PIL import Image

import ldm_backend
from ldm_backend.conditioning.pictures import as_pictures
from ldm_backend.tasks.colours import with_colours_of

RNG = np.random.default_rng(11)
HALF = 0.5 + 1e-3


@pytest.fixture(scope="module")
def upscaler(tmp_path_factory: pytest.TempPathFactory) -> ldm_backend.LatentDiffusion:
    return load_conditional(tmp_path_factory.mktemp("models") / "sr", SUPER_RESOLUTION)


def averages(large: np.ndarray, scale: int = 4) -> np.ndarray:
    """Over the blocks, in float64."""
    n, height, width, channels = large.shape
    blocks = large.reshape(n, height // scale, scale, width // scale, scale, channels)
    return blocks.astype(np.float64).mean(axis=(2, 4))


def kept(small: np.ndarray, large: np.ndarray) -> np.ndarray:
    return with_colours_of(as_pictures(small, small.shape[3]), large)


@pytest.mark.parametrize("scale", [1, 2, 4, 8])
@pytest.mark.parametrize("size", [(1, 1), (1, 9), (7, 1), (12, 31)])
@pytest.mark.parametrize("channels", [1, 3])
def test_averages_are_the_small_picture(scale, size, channels):
    """Whatever the two show, while nothing is cut off; and the images of a batch do not mix."""
    small = RNG.integers(108, 148, (3, *size, channels), np.uint8)
    large = RNG.integers(108, 148, (3, scale * size[0], scale * size[1], channels), np.uint8)
    before = large.copy()
    found = kept(small, large)
    assert found.min() > 0
    assert found.max() < 255
    assert np.abs(averages(found, scale) - small).max() <= HALF
    assert np.array_equal(found[1:2], kept(small[1:2], large[1:2]))
    assert np.array_equal(large, before)


def test_a_picture_that_has_the_colours_stays_as_it_is():
    large = RNG.integers(0, 16, (1, 6, 8, 3), np.uint8).repeat(4, 1).repeat(4, 2) * 16
    assert np.array_equal(kept(averages(large).astype(np.uint8), large), large)


def test_a_shift_of_colour_goes_and_detail_stays():
    """Of a smooth cast over a detailed picture nothing is left but rounding, within two levels at most."""
    detail = RNG.integers(90, 160, (1, 64, 96, 3)).astype(float)
    detail -= (averages(detail) - np.round(averages(detail))).repeat(4, 1).repeat(4, 2)  # averages are whole levels
    cast = 25 * np.sin(np.linspace(0, 3, 96))[:, None] * np.array([1, -0.5, 0.2])
    shifted = np.clip(detail + cast, 0, 255).astype(np.uint8)
    found = kept(np.round(averages(detail)).astype(np.uint8), shifted)
    assert np.abs(shifted - detail).mean() > 7
    assert np.abs(found - detail).max() < 2


def steps(added: np.ndarray) -> tuple[float, float]:
    """How much it changes from one column to the next where blocks meet, and right beside that."""
    change = np.abs(np.diff(added.astype(float), axis=2)).mean(axis=(0, 1, 3))
    place = np.arange(len(change)) % 4
    return change[place == 3].mean(), change[(place == 2) | (place == 0)].mean()


def test_no_block_is_seen():
    """What is added changes no more where blocks meet than beside that; added block by block all would be there."""
    large = np.full((1, 64, 256, 3), 128, np.uint8)
    small = RNG.integers(113, 143, (1, 16, 64, 3), np.uint8)
    at, beside = steps(kept(small, large).astype(int) - large)
    assert at < 1.05 * beside
    at, beside = steps(small.repeat(4, 1).repeat(4, 2).astype(int) - large)
    assert at > 1.05 * beside


def test_a_hard_edge_swings_over_by_a_sixth():
    """Of what lacks beside it, and two blocks further by nothing that is seen."""
    small = np.full((1, 8, 12, 1), 100, np.uint8)
    small[:, :, 6:] = 160
    found = kept(small, np.full((1, 32, 48, 1), 100, np.uint8))[0, 16, :, 0].astype(int)
    assert found.min() >= 100 - 60 / 6 - 1
    assert found.max() <= 160 + 60 / 6 + 1
    assert np.abs(found[:12] - 100).max() <= 1
    assert np.abs(found[36:] - 160).max() <= 1


def test_black_and_white_are_cut_off_and_nothing_wraps():
    small = RNG.choice(np.array([0, 255], np.uint8), (1, 9, 9, 3))
    large = RNG.integers(0, 256, (1, 36, 36, 3), np.uint8)
    found = averages(kept(small, large))
    assert found[small == 255].mean() > 200
    assert found[small == 0].mean() < 55


@pytest.mark.parametrize("size", [(8, 12), (13, 9)])
@pytest.mark.parametrize("tile", [None, 8])
def test_pictures_of_the_model_keep_their_colours(upscaler, size, tile):
    """Of sides that are continued too. Without the option they are what they were."""
    small = RNG.integers(118, 138, (2, *size, 3), np.uint8)
    plain, found = (
        ldm_backend.upscale(upscaler, small, [1, 2], steps=2, tile=tile, keep_colours=keep) for keep in (False, True)
    )
    assert np.array_equal(plain, ldm_backend.upscale(upscaler, small, [1, 2], steps=2, tile=tile))
    cut = averages((found == 0) | (found == 255)) > 0
    assert cut.mean() < 0.1
    assert np.abs(averages(found) - small)[~cut].max() <= HALF
    assert np.abs(averages(plain) - small).mean() > 1
    assert found.flags.c_contiguous


def test_a_real_edge_is_not_softened():
    """A sharp picture and what it shrinks to: the result is the sharp one, not the enlarged small one."""
    sharp = np.zeros((1, 64, 64, 3), np.uint8) + np.uint8(60)
    sharp[:, :, 30:] = 190  # not where blocks meet
    small = np.array(Image.fromarray(sharp[0]).reduce(4))[None]
    assert np.abs(kept(small, sharp).astype(int) - sharp).max() <= 1


def test_the_command_gives_the_same(tmp_path: Path, upscaler) -> None:
    model = write_conditional_folder(tmp_path / "model", SUPER_RESOLUTION)
    picture = draw(tmp_path / "a.png", 6, 10, 3)
    arguments = (*QUICK, "--model", model, tmp_path / "a.png", "--out")
    assert command("upscale", *arguments, tmp_path / "kept", "--keep-colours")[0] == 0
    assert command("upscale", *arguments, tmp_path / "plain")[0] == 0
    for name, keep in (("kept", True), ("plain", False)):
        entry = lines(tmp_path / name)["a.png"]
        assert entry["keep_colours"] is keep
        expected = ldm_backend.upscale(upscaler, picture[None], [entry["seed"]], steps=2, keep_colours=keep)[0]
        assert np.array_equal(pixels_of(tmp_path / name, "a.png"), expected)
    status, text = command("upscale", *arguments, tmp_path / "plain", "--keep-colours")
    assert status == 2
    assert "keep_colours is False there and True now" in text
