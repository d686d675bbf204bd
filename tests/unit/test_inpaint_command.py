"""`ldm inpaint`: the backend's pixels, pairs of pictures and masks, what resumes, what is refused. Models are tiny."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest
from conditional_models import INPAINTING, SEMANTIC, SUPER_RESOLUTION, write_conditional_folder
from generated import snapshot
from pictured import QUICK, command, draw, info_of, lines, pixels_of
from PIL import Image

import ldm_backend

SHAPES = {"a.png": (24, 20), "b.png": (9, 31), "c.png": (32, 32)}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_conditional_folder(tmp_path_factory.mktemp("models") / "inpainting", INPAINTING)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Pictures, and masks of which those of one are thin strokes."""
    pictures, masks = tmp_path / "pictures", tmp_path / "masks"
    masks.mkdir()
    for number, (name, shape) in enumerate(SHAPES.items()):
        draw(pictures / name, *shape, 3, seed=number)
        mask = np.zeros(shape, np.uint8)
        mask[shape[0] // 3 :: 7] = 255
        Image.fromarray(mask).save(masks / name)
    return pictures, masks


def inpaint(model: Path, out: Path, *arguments: object) -> tuple[int, str]:
    return command("inpaint", *QUICK, "--model", model, "--out", out, *arguments)


def seen(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.array(picture)


@pytest.mark.parametrize("reduction", ["any", "nearest"])
def test_the_pictures_are_those_of_the_backend(
    model: Path, folders: tuple[Path, Path], tmp_path: Path, reduction: str
) -> None:
    pictures, masks = folders
    assert inpaint(model, tmp_path / "out", *folders, "--seed", "5", "--mask-reduction", reduction)[0] == 0
    loaded, entries = ldm_backend.load(model, "cpu"), lines(tmp_path / "out")
    assert list(entries) == list(SHAPES)
    for name in SHAPES:
        picture, mask = seen(pictures / name), seen(masks / name)
        seed = int.from_bytes(hashlib.sha256(f"5 {name}".encode()).digest()[:8], "big")
        expected = ldm_backend.inpaint(loaded, picture[None], mask, [seed], steps=2, mask_reduction=reduction)[0]
        found = pixels_of(tmp_path / "out", name)
        assert np.array_equal(found, expected)
        assert np.array_equal(found[mask == 0], picture[mask == 0])
        assert (found[mask > 0] != picture[mask > 0]).any()
        assert entries[name]["seed"] == info_of(tmp_path / "out", name)["seed"] == seed
        files = [path / name for path in folders]
        assert entries[name]["input_sha256"] == [hashlib.sha256(path.read_bytes()).hexdigest() for path in files]


def test_tiles_are_those_of_the_backend(model: Path, tmp_path: Path) -> None:
    picture = draw(tmp_path / "a.png", 24, 60, 3)
    mask = np.zeros((24, 60), np.uint8)
    mask[6:20, 5:55] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    files = (tmp_path / "a.png", tmp_path / "mask.png")
    assert inpaint(model, tmp_path / "out", *files, "--tile", "8")[0] == 0
    entry, loaded = lines(tmp_path / "out")["a.png"], ldm_backend.load(model, "cpu")
    expected = ldm_backend.inpaint(loaded, picture[None], mask, [entry["seed"]], steps=2, tile=8)[0]
    assert entry["tile"] == 8
    assert np.array_equal(pixels_of(tmp_path / "out", "a.png"), expected)
    status, text = inpaint(model, tmp_path / "other", *files, "--tile", "7")
    assert status == 2
    assert "tile is 7; expected a multiple of 2 latent cells, at least 8" in text


def test_a_picture_depends_on_no_neighbour(model: Path, folders: tuple[Path, Path], tmp_path: Path) -> None:
    """To the byte: one by one, or all of a folder; the same command then makes nothing."""
    pictures, masks = folders
    assert inpaint(model, tmp_path / "whole", *folders)[0] == 0
    for name in ("c.png", "a.png", "b.png"):
        assert inpaint(model, tmp_path / "parts", pictures / name, masks / name)[0] == 0
    assert snapshot(tmp_path / "parts") == snapshot(tmp_path / "whole")
    assert "3 were there, 0 missing" in inpaint(model, tmp_path / "parts", *folders)[1]
    (tmp_path / "parts" / "b.png").write_bytes(b"")
    assert "1 of 3 were broken (b.png)" in inpaint(model, tmp_path / "parts", *folders)[1]
    assert snapshot(tmp_path / "parts") == snapshot(tmp_path / "whole")


@pytest.mark.parametrize("which", [0, 1])
def test_a_result_of_another_picture_or_mask_is_kept_and_told(
    model: Path, folders: tuple[Path, Path], tmp_path: Path, which: int
) -> None:
    inpaint(model, tmp_path / "out", *folders)
    whole = snapshot(tmp_path / "out")
    shape = SHAPES["b.png"]
    Image.fromarray(np.full((*shape, 3) if which == 0 else shape, 255, np.uint8)).save(folders[which] / "b.png")
    status, text = inpaint(model, tmp_path / "out", *folders)
    assert status == 2
    assert "holds pictures that were made of other files of these names: b.png" in text
    assert snapshot(tmp_path / "out") == whole


def test_masks_without_a_white_pixel_and_all_white(model: Path, tmp_path: Path) -> None:
    picture = draw(tmp_path / "a.png", 24, 20, 3)
    for value in (0, 127, 128, 255):
        Image.new("L", (20, 24), value).save(tmp_path / "mask.png")
        assert inpaint(model, tmp_path / f"out-{value}", tmp_path / "a.png", tmp_path / "mask.png")[0] == 0
        found = pixels_of(tmp_path / f"out-{value}", "a.png")
        assert np.array_equal(found, picture) == (value < 128)


def test_masks_of_any_kind(model: Path, tmp_path: Path) -> None:
    """One bit, RGB, palette, opaque alpha, JPEG and turned by EXIF: the same picture."""
    draw(tmp_path / "a.png", 24, 16, 3)
    white = np.zeros((24, 16), bool)
    white[8:16] = True
    grey = Image.fromarray(white.astype(np.uint8) * 255)
    exif = Image.Exif()
    exif[0x0112] = 6
    grey.save(tmp_path / "grey.png")
    Image.fromarray(white).save(tmp_path / "bit.png")
    grey.convert("RGB").save(tmp_path / "rgb.webp", lossless=True)
    grey.convert("P").save(tmp_path / "palette.png")
    grey.convert("RGBA").save(tmp_path / "opaque.png")
    grey.save(tmp_path / "grey.jpg")
    grey.rotate(90, expand=True).save(tmp_path / "turned.png", exif=exif)
    found = []
    for name in ("grey.png", "bit.png", "rgb.webp", "palette.png", "opaque.png", "grey.jpg", "turned.png"):
        assert inpaint(model, tmp_path / name[:-4] / name, tmp_path / "a.png", tmp_path / name)[0] == 0, name
        found.append(pixels_of(tmp_path / name[:-4] / name, "a.png"))
    assert all(np.array_equal(each, found[0]) for each in found)


def test_what_cannot_be_used_is_named_and_the_others_go_on(
    model: Path, folders: tuple[Path, Path], tmp_path: Path
) -> None:
    pictures, masks = folders
    draw(masks / "a.png", *SHAPES["a.png"], 3)
    Image.new("L", (30, 9), 255).save(masks / "b.png")
    for name in ("d.png", "e.png", "f.jpg"):
        draw(pictures / name, 8, 8, 3)
    (masks / "d.jpg").write_bytes(b"nothing")
    Image.new("LA", (8, 8)).save(masks / "e.png")
    (pictures / "f.jpg").write_bytes(b"nothing")
    Image.new("L", (8, 8)).save(masks / "f.png")
    status, text = inpaint(model, tmp_path / "out", *folders)
    assert status == 2
    for message in (
        "the mask a.png is in colour; expected a mask in black and white",
        "b.png is 31x9 and its mask 30x9; crop or resize them in the same way",
        "cannot read the mask d.jpg as PNG, JPEG or WebP",
        "the mask e.png has transparent pixels",
        "cannot read f.jpg as PNG, JPEG or WebP",
        "5 of 6 pictures could not be made (a.png, b.png, d.png, e.png, f.png)",
    ):
        assert message in text
    assert [path.name for path in (tmp_path / "out").glob("*.png")] == ["c.png"]


def test_pairs_that_are_none_are_refused(model: Path, folders: tuple[Path, Path], tmp_path: Path) -> None:
    pictures, masks = folders
    out = tmp_path / "out"
    picture = pictures / "a.png"
    for arguments, message in (
        ((picture, masks), "one is a folder and one is not"),
        ((pictures, pictures), "is given as picture and as mask"),
        ((picture, picture), "is given as picture and as mask"),
        ((picture, tmp_path / "none.png"), "none.png is not there"),
        ((tmp_path / "none.png", picture), "none.png is not there"),
    ):
        status, text = inpaint(model, out, *arguments)
        assert status == 2
        assert message in text
    assert "holds the pictures themselves" in inpaint(model, masks, *folders)[1]
    draw(pictures / "x.png")
    assert f"{masks} holds nothing of these names: x;" in inpaint(model, out, *folders)[1]
    (pictures / "x.png").rename(masks / "y.png")
    assert f"{pictures} holds nothing of these names: y;" in inpaint(model, out, *folders)[1]
    draw(masks / "y.jpg")
    assert "several masks of one name: y" in inpaint(model, out, *folders)[1]
    assert not out.exists()


@pytest.mark.parametrize("config", [SUPER_RESOLUTION, SEMANTIC])
def test_a_model_of_another_task_is_refused(
    folders: tuple[Path, Path], tmp_path: Path, config: ldm_backend.pipeline.LDMConfig
) -> None:
    status, text = inpaint(write_conditional_folder(tmp_path / "model", config), tmp_path / "out", *folders)
    assert status == 2
    assert "ldm inpaint takes an inpainting model, and this one is" in text
    assert not (tmp_path / "out").exists()


def test_a_folder_of_the_other_command_is_refused(model: Path, folders: tuple[Path, Path], tmp_path: Path) -> None:
    inpaint(model, tmp_path / "out", *folders)
    whole = snapshot(tmp_path / "out")
    upscaler = write_conditional_folder(tmp_path / "upscaler", SUPER_RESOLUTION)
    arguments = ("--model", upscaler, "--out", tmp_path / "out", folders[0])
    status, text = command("upscale", *QUICK, *arguments)
    assert status == 2
    assert "is no job of `ldm upscale`; give another --out" in text
    assert snapshot(tmp_path / "out") == whole
