"""`ldm upscale`: the backend's pixels, names and seeds, what resumes, what is refused. Models are tiny."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import os
import shutil
import signal
import subprocess
import sys
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conditional_models import INPAINTING, SEMANTIC, SUPER_RESOLUTION, write_conditional_folder
from generated import snapshot
from pictured import QUICK, command, draw, info_of, lines, pixels_of
from PIL import Image

import ldm_backend
from ldm_backend.errors import CheckpointError, LDMError, SamplingError, TooLargeError


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_conditional_folder(tmp_path_factory.mktemp("models") / "sr", SUPER_RESOLUTION)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    for number, name in enumerate(("a.png", "b.jpg", "c.webp", "d.jpeg", "E.PNG")):
        draw(folder / name, 5 + number, 9, 3, seed=number)
    return folder


def upscale(model: Path, out: Path, *arguments: object) -> tuple[int, str]:
    return command("upscale", *QUICK, "--model", model, "--out", out, *arguments)


def seen(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.array(picture.convert("RGB"))


@pytest.mark.parametrize(
    "options", [(), ("--sampler", "unipc"), ("--eta", "0.5"), ("--tile", "8", "--grid", "leading")]
)
def test_the_pictures_are_those_of_the_backend(model: Path, pictures: Path, tmp_path: Path, options: tuple) -> None:
    out = tmp_path / "out"
    assert upscale(model, out, pictures, "--seed", "5", *options)[0] == 0
    loaded = ldm_backend.load(model, "cpu")
    entries = lines(out)
    assert list(entries) == ["E.png", "a.png", "b.png", "c.png", "d.png"]
    given = dict(zip(options[::2], options[1::2], strict=True))
    eta = float(given.get("--eta", 0 if "--sampler" in given else 1))
    for path in pictures.iterdir():
        name = f"{path.stem}.png"
        seed = int.from_bytes(hashlib.sha256(f"5 {name}".encode()).digest()[:8], "big")
        expected = ldm_backend.upscale(
            loaded,
            seen(path)[None],
            [seed],
            steps=2,
            eta=eta,
            sampler=given.get("--sampler", "ddim"),
            grid=given.get("--grid", "auto"),
            tile=int(given["--tile"]) if "--tile" in given else None,
        )[0]
        assert np.array_equal(pixels_of(out, name), expected)
        assert entries[name]["seed"] == info_of(out, name)["seed"] == seed
        assert entries[name]["eta"] == info_of(out, name)["eta"] == eta
        assert info_of(out, name)["inputs"] == [path.name]
        assert info_of(out, name)["input_sha256"] == [hashlib.sha256(path.read_bytes()).hexdigest()]


@pytest.mark.parametrize("name", ["upscale", "inpaint"])
def test_the_defaults_are_those_of_the_backend(name: str) -> None:
    ours = inspect.signature(getattr(importlib.import_module(f"ldm_headless.commands.{name}"), name)).parameters
    theirs = inspect.signature(getattr(ldm_backend, name)).parameters
    both = ours.keys() & theirs.keys()
    assert both >= {"steps", "eta", "sampler", "grid", "tile"}
    assert {key: ours[key].default for key in both} == {key: theirs[key].default for key in both}


def test_a_picture_depends_on_no_neighbour_and_on_no_order(model: Path, pictures: Path, tmp_path: Path) -> None:
    """To the byte, and to the manifest: alone, two backwards, all of a folder, in one run or in several."""
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert upscale(model, whole, pictures)[0] == 0
    for names in (("d.jpeg",), ("c.webp", "a.png"), ()):
        files = [pictures / name for name in names] or [pictures]
        assert upscale(model, parts, *files)[0] == 0
    assert snapshot(parts) == snapshot(whole)
    upscale(model, tmp_path / "other", pictures, "--seed", "1")
    assert (pixels_of(tmp_path / "other", "a.png") != pixels_of(whole, "a.png")).any()


def test_the_same_command_makes_what_is_missing_or_broken(model: Path, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    upscale(model, out, pictures)
    whole = snapshot(out)
    assert "5 were there, 0 missing" in upscale(model, out, pictures)[1]
    (out / "a.png").unlink()
    (out / "b.png").write_bytes(whole["b.png"][:-20])
    (out / "c.png").write_bytes(b"")
    status, text = upscale(model, out, pictures)
    assert status == 0
    assert "2 of 5 were broken (b.png, c.png) and are made anew" in text
    assert "3 made" in text
    assert snapshot(out) == whole
    data = bytearray(whole["d.png"])
    data[len(data) // 2] ^= 1
    (out / "d.png").write_bytes(data)
    later = time.time_ns() + 10**12
    os.utime(out / "manifest.jsonl", ns=(later, later))  # as if written after that
    assert "(d.png) and are made anew" in upscale(model, out, pictures, "--verify")[1]
    assert snapshot(out) == whole


@pytest.mark.parametrize("lost", [1, 3, 5])
def test_pictures_whose_lines_are_lost_are_known_by_what_they_say(
    model: Path, pictures: Path, tmp_path: Path, lost: int
) -> None:
    """As after a kill between a picture and its line, or a power failure in the manifest."""
    out = tmp_path / "out"
    upscale(model, out, pictures)
    whole = snapshot(out)
    kept = whole["manifest.jsonl"].splitlines(keepends=True)[: 5 - lost]
    (out / "manifest.jsonl").write_bytes(b"".join(kept) + b'{"file": "z.png", "sh\n[1\n' + b"\xff" * 9)
    (out / ".ldm-partial-x").write_bytes(b"half")
    assert "0 made" in upscale(model, out, pictures)[1]
    assert snapshot(out) == whole


def test_a_result_of_another_picture_is_kept_and_told(model: Path, pictures: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    upscale(model, out, pictures)
    whole = snapshot(out)
    draw(pictures / "a.png", 4, 4, 3, seed=99)
    status, text = upscale(model, out, pictures)
    assert status == 2
    assert "holds pictures that were made of other files of these names: a.png; move them away" in text
    assert snapshot(out) == whole
    (out / "manifest.jsonl").unlink()
    assert "a.png is not of this job; move it away" in upscale(model, out, pictures)[1]
    assert (out / "a.png").read_bytes() == whole["a.png"]
    (out / "a.png").unlink()
    assert "1 made" in upscale(model, out, pictures)[1]
    assert pixels_of(out, "a.png").shape == (16, 16, 3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--seed", "1"), "base_seed is 0 there and 1 now"),
        (("--sampler", "unipc"), "sampler is 'ddim' there and 'unipc' now"),
        (("--tile", "16"), "tile is None there and 16 now"),
        (("--threads", "2"), "threads is 1 there and 2 now"),
    ],
)
def test_another_job_in_the_same_folder_is_refused(
    model: Path, pictures: Path, tmp_path: Path, options: tuple, message: str
) -> None:
    out = tmp_path / "out"
    upscale(model, out, pictures / "a.png")
    before = snapshot(out)
    status, text = upscale(model, out, pictures, *options)
    assert status == 2
    assert message in text
    assert snapshot(out) == before


@pytest.mark.parametrize("text", [b"", b"null", b"[]", b'{"settings": 1}', b'{"settings": {}}', b"[" * 5000, b"\xff"])
def test_a_job_that_is_none_ends_in_a_message(model: Path, pictures: Path, tmp_path: Path, text: bytes) -> None:
    out = tmp_path / "out"
    upscale(model, out, pictures / "a.png")
    (out / "job.json").write_bytes(text)
    before = snapshot(out)
    status, told = upscale(model, out, pictures / "a.png")
    assert status == 2
    assert "job.json" in told
    assert snapshot(out) == before


def test_folders_of_others_are_left_alone(model: Path, pictures: Path, tmp_path: Path, tiny_folder: Path) -> None:
    before = snapshot(pictures)
    assert "holds the pictures themselves" in upscale(model, pictures, pictures)[1]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "a.png").write_bytes(b"mine")
    assert "holds 'a.png' but no job.json" in upscale(model, tmp_path / "mine", pictures)[1]
    drawn = tmp_path / "drawn"
    arguments = ("--seeds", "0", "--steps", "1", "--device", "cpu", "--out")
    assert command("generate", tiny_folder, *arguments, drawn)[0] == 0
    assert "is no job of `ldm upscale`" in upscale(model, drawn, pictures)[1]
    upscale(model, tmp_path / "out", pictures)
    assert "is of another job" in command("generate", tiny_folder, *arguments, tmp_path / "out")[1]
    assert snapshot(pictures) == before


def broken(folder: Path) -> dict[str, str]:
    """Files that are no pictures for a model, and what is said of each."""
    draw(folder / "whole.png", 30, 30, 3)
    whole = (folder / "whole.png").read_bytes()
    (folder / "cut.png").write_bytes(whole[: len(whole) // 2])
    draw(folder / "cut.jpg", 30, 30, 3)
    (folder / "cut.jpg").write_bytes((folder / "cut.jpg").read_bytes()[:-300])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.webp").write_text("<html>")
    (folder / "folder.png").mkdir()
    (folder / "link.png").symlink_to(folder / "empty.png")
    (folder / "nowhere.png").symlink_to(folder / "nothing.png")
    (folder / "loop.png").symlink_to(folder / "loop.png")
    os.mkfifo(folder / "pipe.png")
    draw(folder / "clear.png", 5, 5, 4)
    Image.new("P", (5, 5)).save(folder / "palette.png", transparency=0)
    Image.new("I;16", (5, 5)).save(folder / "deep.png")
    deep = bytearray(whole)
    deep[24] = 16  # of three colours, which Pillow would halve without a word
    deep[29:33] = zlib.crc32(deep[12:29]).to_bytes(4, "big")
    (folder / "deeper.png").write_bytes(deep)
    Image.new("CMYK", (5, 5)).save(folder / "print.jpg")
    frames = [Image.new("RGB", (5, 5), colour) for colour in ("red", "blue")]
    frames[0].save(folder / "moving.webp", save_all=True, append_images=frames[1:])
    Image.new("1", (8000, 8000)).save(folder / "huge.png")
    Image.new("1", (1500, 1500)).save(folder / "large.png")
    (folder / "whole.png").unlink()
    return {
        "cut.png": "cannot read cut.png as PNG, JPEG or WebP: image file is truncated",
        "cut.jpg": "cannot read cut.jpg as PNG, JPEG or WebP: image file is truncated",
        "empty.png": "cannot read empty.png as PNG, JPEG or WebP: it is none of these",
        "text.webp": "cannot read text.webp as PNG, JPEG or WebP: it is none of these",
        "folder.png": "folder.png: it is no file",
        "link.png": "cannot read link.png as PNG, JPEG or WebP: it is none of these",
        "nowhere.png": "nowhere.png: there is no such file",
        "loop.png": "loop.png: there is no such file",
        "pipe.png": "pipe.png: it is no file",
        "clear.png": "clear.png has transparent pixels, which the models do not know; put it on a background first",
        "palette.png": "palette.png has transparent pixels",
        "deep.png": "deep.png has 16 bits a channel, of which the models know 8",
        "deeper.png": "deeper.png has 16 bits a channel",
        "print.jpg": "print.jpg has the mode CMYK; expected RGB or grey",
        "moving.webp": "moving.webp is a moving picture",
        "huge.png": "huge.png has 8,000x8,000 pixels; at most 33,554,432 are taken",
        "large.png": "large.png is 1500x1500; 4 times as large it would have 36,000,000 pixels",
    }


def test_broken_pictures_are_named_and_the_others_go_on(model: Path, tmp_path: Path) -> None:
    folder, out = tmp_path / "pictures", tmp_path / "out"
    draw(folder / "b good.png")
    said = broken(folder)
    shutil.move(folder / "cut.jpg", folder / "half.jpg")  # cut.png is there
    said["half.jpg"] = said.pop("cut.jpg").replace("cut", "half")
    draw(folder / "z good.png")
    status, text = upscale(model, out, folder)
    assert status == 2
    for message in said.values():
        assert message in text
    assert f"{len(said)} of {len(said) + 2} pictures could not be made" in text
    assert "2 made" in text
    assert sorted(path.name for path in out.glob("*.png")) == ["b good.png", "z good.png"]
    draw(folder / "text.webp")
    assert "1 made" in upscale(model, out, folder)[1]


def test_pictures_are_taken_as_they_are_seen(model: Path, tmp_path: Path) -> None:
    """Turned as EXIF says; grey, palettes, opaque alpha and one bit as RGB."""
    folder, out = tmp_path / "pictures", tmp_path / "out"
    upright = draw(folder / "upright.png", 6, 10, 3)
    grey = draw(folder / "grey.png", 6, 10)
    for orientation in (3, 6):
        exif = Image.Exif()
        exif[0x0112] = orientation
        turned = Image.fromarray(upright).rotate(180 if orientation == 3 else 90, expand=True)
        turned.save(folder / f"turned-{orientation}.png", exif=exif)
    Image.fromarray(np.dstack([upright, np.full((6, 10), 255, np.uint8)])).save(folder / "opaque.png")
    Image.fromarray(grey).convert("RGB").save(folder / "grey-rgb.png")
    Image.fromarray(grey).convert("P").save(folder / "palette.png")
    Image.fromarray(grey > 127).save(folder / "one-bit.png")
    assert upscale(model, out, folder)[0] == 0
    loaded = ldm_backend.load(model, "cpu")
    like = {"turned-3": upright, "turned-6": upright, "opaque": upright, "upright": upright}
    like |= {name: np.repeat(grey[..., None], 3, 2) for name in ("grey", "grey-rgb", "palette")}
    like["one-bit"] = np.repeat((grey > 127)[..., None], 3, 2) * np.uint8(255)
    for name, picture in like.items():
        entry = lines(out)[f"{name}.png"]
        expected = ldm_backend.upscale(loaded, picture[None], [entry["seed"]], steps=2)[0]
        assert np.array_equal(pixels_of(out, f"{name}.png"), expected), name


def test_odd_names(model: Path, tmp_path: Path) -> None:
    """What files may be called, results are called too; the same command finds them again."""
    names = (
        "-x.png",
        "a b.png",
        "\u00e9\U0001f600.png",
        "a\nldm: b.png",
        "\x1b[2J.png",
        "\u202e.png",
        "a.b.png",
        "job.json.png",
    )
    for number, name in enumerate((*names, f"{'n' * 251}.png", "%s{x}[red].png")):
        draw(tmp_path / "in" / name, 3, 4, 3, seed=number)
    status, text = upscale(model, tmp_path / "out", tmp_path / "in")
    assert (status, "10 made" in text) == (0, True)
    assert {path.name for path in (tmp_path / "in").iterdir()} == {
        path.name for path in (tmp_path / "out").glob("*.png")
    }
    assert "10 were there, 0 missing" in upscale(model, tmp_path / "out", tmp_path / "in", "--verify")[1]


@pytest.mark.parametrize("error", [TooLargeError("too large"), SamplingError("NaN")])
def test_what_the_model_cannot_make_is_named_and_the_others_go_on(
    model: Path, pictures: Path, tmp_path: Path, error: LDMError, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = ldm_backend.upscale

    def fails_for_one(model: ldm_backend.LatentDiffusion, images: np.ndarray, *more: Any, **run: Any) -> np.ndarray:
        if images.shape[1] == 6:
            raise error
        return real(model, images, *more, **run)

    monkeypatch.setattr(ldm_backend, "upscale", fails_for_one)
    status, text = upscale(model, tmp_path / "out", pictures)
    assert status == 2
    assert f"b.jpg: {error}" in text
    assert "1 of 5 pictures could not be made (b.png)" in text
    assert "4 made" in text
    monkeypatch.undo()
    status, text = upscale(model, tmp_path / "out", pictures)
    assert (status, "1 made" in text) == (0, True)


def test_what_is_wrong_for_all_ends_the_run(
    model: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> np.ndarray:
        raise CheckpointError("the file was changed")

    monkeypatch.setattr(ldm_backend, "upscale", fails)
    status, text = upscale(model, tmp_path / "out", pictures)
    assert (status, text.count("the file was changed")) == (2, 1)
    assert "0 made" in text


@pytest.mark.parametrize("size", [(1, 1), (1, 30), (33, 2)])
def test_odd_sizes(model: Path, tmp_path: Path, size: tuple[int, int]) -> None:
    draw(tmp_path / "a.png", *size, 3)
    assert upscale(model, tmp_path / "out", tmp_path / "a.png")[0] == 0
    assert pixels_of(tmp_path / "out", "a.png").shape == (4 * size[0], 4 * size[1], 3)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda at: [at / "nothing.png"], "nothing.png is not there"),
        (
            lambda at: [(at / "none").mkdir(), at / "none"][1:],
            "none holds no pictures; expected files that end in .png",
        ),
        (lambda at: [draw(at / "a.png"), draw(at / "a.jpg"), at][2:], "would become the same file"),
        (lambda at: [draw(at / "x" / "a.png"), at / "x", at / "x" / "a.png"][1:], "would become the same file"),
        (lambda at: [draw(at / "a.png"), draw(at / "A.jpg"), at][2:], "would become the same file"),
        (lambda at: [draw(at / ".a.png"), at / ".a.png"][1:], "begins with a dot"),
        (lambda at: [draw(at / "a\udc80.png"), at / "a\udc80.png"][1:], "its name is no UTF-8 text"),
    ],
)
def test_names_that_cannot_stand_for_results_are_refused(model: Path, tmp_path: Path, make, message: str) -> None:
    (tmp_path / "in").mkdir()
    files = make(tmp_path / "in")
    status, text = upscale(model, tmp_path / "out", *map(os.fsdecode, files))
    assert status == 2
    assert message in text
    assert not (tmp_path / "out").exists()


def test_settings_that_do_not_fit_are_refused_before_anything_is_made(model: Path, tmp_path: Path) -> None:
    draw(tmp_path / "a.png")
    for options, message in (
        (("--tile", "7"), "tile is 7; expected a multiple of 2 latent cells, at least 8"),
        (("--sampler", "heun"), "sampler is 'heun'"),
        (("--sampler", "dpmpp_2m", "--eta", "0.5"), "dpmpp_2m has no eta"),
        (("--steps", "1001"), "expected a whole number from 1 to 1000"),
        (("--workers", "2"), "--workers is for --ray"),
    ):
        status, text = upscale(model, tmp_path / "out", tmp_path / "a.png", *options)
        assert status == 2, options
        assert message in text


@pytest.mark.parametrize("config", [INPAINTING, SEMANTIC])
def test_a_model_of_another_task_is_refused(tmp_path: Path, config: ldm_backend.pipeline.LDMConfig) -> None:
    draw(tmp_path / "a.png")
    status, text = upscale(write_conditional_folder(tmp_path / "model", config), tmp_path / "out", tmp_path / "a.png")
    assert status == 2
    assert "ldm upscale takes a super-resolution model, and this one is" in text
    assert not (tmp_path / "out").exists()


def test_lines_of_others_lead_nowhere(model: Path, pictures: Path, tmp_path: Path) -> None:
    """A manifest that names files elsewhere, or odd values, changes neither them nor the pictures."""
    out = tmp_path / "out"
    upscale(model, out, pictures)
    whole = snapshot(out)
    line = whole["manifest.jsonl"].splitlines()[0].decode()
    odd = ['"../../x.png"', '"/etc/x.png"', '".lock"', '"job.json"', "7", "null", '["E.png"]', '"a\\u0000.png"']
    changed = [line.replace('"E.png"', name).encode() for name in odd]
    changed += [
        line.replace('"input_sha256": ["', each).encode() for each in ('"input_sha256": ["x', '"input_sha256": "')
    ]
    (out / "manifest.jsonl").write_bytes(b"\n".join([*changed, b"[" * 5000, b"", b"9" * 5000]))
    assert upscale(model, out, pictures)[0] == 0
    assert snapshot(out) == whole


@pytest.mark.slow
def test_kills_at_any_moment_change_no_byte(model: Path, tmp_path: Path) -> None:
    """SIGKILL after 1, 2, ... pictures; the same command completes them to the bytes of a run in one go."""
    folder = tmp_path / "pictures"
    for number in range(24):
        draw(folder / f"{number:02}.png", 24, 24, 3, seed=number)
    assert upscale(model, tmp_path / "whole", folder, "--steps", "8")[0] == 0
    out, kills = tmp_path / "out", 0
    arguments = ["upscale", folder, "--model", model, "--out", out, "--steps", "8", "--device", "cpu"]
    run = [sys.executable, "-P", "-m", "ldm_headless", *map(str, arguments)]
    for wanted in (1, 8, 15):
        process = subprocess.Popen(run, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=tmp_path)
        while process.poll() is None and len(list(out.glob("*.png"))) < wanted:
            time.sleep(0.005)
        kills += process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert kills >= 2
    assert subprocess.run(run, capture_output=True, check=False, cwd=tmp_path).returncode == 0
    assert snapshot(out) == snapshot(tmp_path / "whole")
