"""`ldm restore`: the backend's pixels, what resumes, options of other tasks, what is refused. Models are tiny."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conditional_models import INPAINTING, SUPER_RESOLUTION, write_conditional_folder
from generated import snapshot
from pictured import QUICK, command, draw, info_of, lines, pixels_of
from PIL import Image

import ldm_backend
from ldm_backend.errors import CheckpointError
from ldm_backend.guidance import guides, operators, restoration
from ldm_headless.commands import restore as commanded

NAMES = ("a.png", "b.png", "c.png")
TASKS: dict[str, tuple[str, ...]] = {
    "upscale": ("--factor", "3", "--filter", "bicubic"),
    "inpaint": (),
    "colourise": ("--noise", "0.05"),
    "deblur": ("--blur", "1.5", "--codec", "linear"),
}
GIVEN: dict[str, dict[str, Any]] = {
    "upscale": {"factor": 3, "filter": "bicubic"},
    "inpaint": {},
    "colourise": {"noise": 0.05},
    "deblur": {"blur": 1.5, "codec": "linear"},
}


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Three in colour, of several sizes, and masks of theirs in a folder beside."""
    (tmp_path / "masks").mkdir()
    for number, name in enumerate(NAMES):
        shape = (9 + 5 * number, 14)
        draw(tmp_path / "pictures" / name, *shape, 3, seed=number)
        mask = np.zeros(shape, np.uint8)
        mask[2:6, 3:9] = 255
        Image.fromarray(mask).save(tmp_path / "masks" / name)
    return tmp_path / "pictures"


def restore(model: Path, out: Path, task: str, *arguments: object) -> tuple[int, str]:
    return command("restore", *QUICK, "--model", model, "--out", out, "--task", task, *arguments)


def options_of(task: str, pictures: Path) -> list[object]:
    return [*TASKS[task], *(["--masks", pictures.parent / "masks"] if task == "inpaint" else [])]


def seen(path: Path) -> np.ndarray:
    with Image.open(path) as picture:
        return np.array(picture)


@pytest.mark.parametrize("task", TASKS)
def test_the_pictures_are_those_of_the_backend(tiny_folder: Path, pictures: Path, tmp_path: Path, task: str) -> None:
    out = tmp_path / "out"
    assert restore(tiny_folder, out, task, pictures, "--seed", "5", *options_of(task, pictures))[0] == 0
    loaded, entries = ldm_backend.load(tiny_folder, "cpu"), lines(out)
    assert list(entries) == list(NAMES)
    for name in NAMES:
        seed = int.from_bytes(hashlib.sha256(f"5 {name}".encode()).digest()[:8], "big")
        given = dict(GIVEN[task])
        if task == "inpaint":
            given["masks"] = seen(pictures.parent / "masks" / name)
        expected = ldm_backend.restore(loaded, seen(pictures / name)[None], [seed], task, steps=2, **given)[0]
        assert np.array_equal(pixels_of(out, name), expected)
        info = info_of(out, name)
        assert entries[name]["seed"] == info["seed"] == seed
        folders = [pictures, pictures.parent / "masks"] if task == "inpaint" else [pictures]
        files = [hashlib.sha256((folder / name).read_bytes()).hexdigest() for folder in folders]
        assert entries[name]["input_sha256"] == info["input_sha256"] == files
        for found in (entries[name], info):
            assert {key: found[key] for key in ("task", "steps", "sampler", "eta")} == {
                "task": task, "steps": 2, "sampler": "ddim", "eta": 1.0,
            }  # fmt: skip
            assert {key: found[key] for key in GIVEN[task]} == GIVEN[task]
            assert found["command"] == "ldm restore"
            assert "restoration" not in found


@pytest.mark.parametrize(
    ("options", "given"),
    [
        (("--sampler", "dpmpp_2m"), {"sampler": "dpmpp_2m", "eta": 0.0}),
        (("--eta", "0.3", "--grid", "trailing"), {"eta": 0.3, "grid": "trailing"}),
    ],
)
def test_sampler_eta_and_grid_are_those_of_the_backend(
    tiny_folder: Path, tmp_path: Path, options: tuple, given: dict[str, Any]
) -> None:
    picture = draw(tmp_path / "a.png", 16, 16, 3)
    assert restore(tiny_folder, tmp_path / "out", "deblur", tmp_path / "a.png", "--blur", "1", *options)[0] == 0
    entry, loaded = lines(tmp_path / "out")["a.png"], ldm_backend.load(tiny_folder, "cpu")
    assert {key: entry[key] for key in given} == given
    expected = ldm_backend.restore(loaded, picture[None], [entry["seed"]], "deblur", blur=1.0, steps=2, **given)[0]
    assert np.array_equal(pixels_of(tmp_path / "out", "a.png"), expected)


def test_the_defaults_and_choices_are_those_of_the_backend(tiny_folder: Path, tmp_path: Path) -> None:
    for name in ("STEPS", "SAMPLER", "FACTOR"):
        assert getattr(commanded, name) == getattr(restoration, name)
    choices = ((commanded.Task, restoration.RESTORATIONS), (commanded.Filter, operators.FILTERS))
    for ours, theirs in (*choices, (commanded.Codec, guides.CODECS)):
        assert tuple(each.value for each in ours) == theirs
    picture = draw(tmp_path / "a.png", 4, 6, 3)
    arguments = ("--model", tiny_folder, "--out", tmp_path / "out", "--device", "cpu", "--task", "upscale")
    assert command("restore", *arguments, tmp_path / "a.png")[0] == 0
    entry, loaded = lines(tmp_path / "out")["a.png"], ldm_backend.load(tiny_folder, "cpu")
    assert np.array_equal(
        pixels_of(tmp_path / "out", "a.png"), ldm_backend.restore(loaded, picture[None], [entry["seed"]], "upscale")[0]
    )


def test_colourise_takes_grey_levels_whatever_the_file_is(tiny_folder: Path, tmp_path: Path) -> None:
    """Grey, RGB of equal channels, palette: the same picture. Of a yellowed scan the luma counts."""
    grey = draw(tmp_path / "in" / "grey.png", 12, 16)
    Image.fromarray(grey).convert("RGB").save(tmp_path / "in" / "rgb.png")
    Image.fromarray(grey).convert("P").save(tmp_path / "in" / "palette.png")
    yellow = np.repeat(grey[..., None], 3, 2) * np.array([1.0, 0.9, 0.6])
    Image.fromarray(yellow.astype(np.uint8)).save(tmp_path / "in" / "yellow.png")
    loaded = ldm_backend.load(tiny_folder, "cpu")
    for name in ("grey", "rgb", "palette", "yellow"):
        out = tmp_path / name
        assert restore(tiny_folder, out, "colourise", tmp_path / "in" / f"{name}.png")[0] == 0
        seed = lines(out)[f"{name}.png"]["seed"]
        taken = yellow.astype(np.uint8) if name == "yellow" else grey[..., None]
        expected = ldm_backend.restore(loaded, taken[None], [seed], "colourise", steps=2)[0]
        assert np.array_equal(pixels_of(out, f"{name}.png"), expected), name


def test_a_picture_depends_on_no_neighbour_and_what_is_missing_or_broken_is_made(
    tiny_folder: Path, pictures: Path, tmp_path: Path
) -> None:
    out = tmp_path / "parts"
    assert restore(tiny_folder, tmp_path / "whole", "upscale", pictures)[0] == 0
    for name in ("c.png", "a.png", "b.png"):
        assert restore(tiny_folder, out, "upscale", pictures / name)[0] == 0
    whole = snapshot(tmp_path / "whole")
    assert snapshot(out) == whole
    assert "3 were there, 0 missing" in restore(tiny_folder, out, "upscale", pictures, "--verify")[1]
    (out / "a.png").unlink()
    (out / "b.png").write_bytes(whole["b.png"][:-20])
    status, text = restore(tiny_folder, out, "upscale", pictures)
    assert (status, "1 of 3 were broken (b.png)" in text, "2 made" in text) == (0, True, True)
    assert snapshot(out) == whole


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("upscale", ("--factor", "2"), "factor is 4 there and 2 now"),
        ("upscale", ("--filter", "bicubic"), "filter is 'box' there and 'bicubic' now"),
        ("upscale", ("--noise", "0.1"), "noise is 0.0 there and 0.1 now"),
        ("upscale", ("--codec", "linear"), "codec is 'network' there and 'linear' now"),
        ("upscale", ("--eta", "0.5"), "eta is 1.0 there and 0.5 now"),
        ("upscale", ("--seed", "1"), "base_seed is 0 there and 1 now"),
        ("colourise", (), "task is 'upscale' there and 'colourise' now"),
        ("deblur", ("--blur", "2"), "blur is None there and 2.0 now"),
    ],
)
def test_another_job_in_the_same_folder_is_refused(
    tiny_folder: Path, pictures: Path, tmp_path: Path, task: str, options: tuple, message: str
) -> None:
    out = tmp_path / "out"
    restore(tiny_folder, out, "upscale", pictures / "a.png")
    before = snapshot(out)
    status, text = restore(tiny_folder, out, task, pictures / "a.png", *options)
    assert (status, message in text) == (2, True), text
    assert snapshot(out) == before


def test_what_cannot_be_used_is_named_and_the_others_go_on(tiny_folder: Path, pictures: Path, tmp_path: Path) -> None:
    (pictures / "d.png").write_bytes(b"nothing")
    draw(pictures / "e.png", 5, 5, 4)
    draw(pictures / "f.png", 1700, 1700, 3)
    status, text = restore(tiny_folder, tmp_path / "out", "upscale", pictures)
    assert status == 2
    for message in (
        "cannot read d.png as PNG, JPEG or WebP",
        "e.png has transparent pixels",
        "f.png is 1700x1700; 4 times as large it would have 46,240,000 pixels",
        "3 of 6 pictures could not be made (d.png, e.png, f.png)",
    ):
        assert message in text
    assert sorted(path.name for path in (tmp_path / "out").glob("*.png")) == list(NAMES)
    draw(pictures / "d.png", 6, 6, 3)
    assert "1 made" in restore(tiny_folder, tmp_path / "out", "upscale", pictures)[1]


def test_masks_that_cannot_be_used_and_pictures_too_small_for_a_blur(
    tiny_folder: Path, pictures: Path, tmp_path: Path
) -> None:
    masks = pictures.parent / "masks"
    Image.new("L", (14, 9), 0).save(masks / "a.png")
    Image.new("L", (14, 14), 255).save(masks / "b.png")
    draw(pictures / "d.png", 8, 8, 3)
    Image.new("L", (9, 8), 255).save(masks / "d.png")
    status, text = restore(tiny_folder, tmp_path / "out", "inpaint", pictures, "--masks", masks)
    assert status == 2
    for message in (
        "a.png: A mask is empty",
        "b.png: A mask covers its whole picture of 14x14 pixels",
        "d.png is 8x8 and its mask 9x8",
        "3 of 4 pictures could not be made (a.png, b.png, d.png)",
    ):
        assert message in text
    found, picture = pixels_of(tmp_path / "out", "c.png"), seen(pictures / "c.png")
    mask = seen(masks / "c.png") > 0
    assert np.array_equal(found[~mask], picture[~mask])
    assert (found[mask] != picture[mask]).any()
    draw(pictures / "large.png", 40, 48, 3)
    status, text = restore(tiny_folder, tmp_path / "sharp", "deblur", pictures, "--blur", "6")
    assert status == 2
    assert "a.png: The kernel has 37x37 taps, too many for pictures of 14x9" in text
    assert [path.name for path in (tmp_path / "sharp").glob("*.png")] == ["large.png"]


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("upscale", ("--blur", "2"), "--blur is for --task deblur, and this one is upscale; leave it out"),
        ("colourise", ("--factor", "4"), "--factor is for --task upscale, and this one is colourise"),
        ("deblur", ("--blur", "2", "--filter", "box"), "--filter is for --task upscale, and this one is deblur"),
        ("deblur", ("--blur", "2", "--masks", "a.png"), "--masks is for --task inpaint, and this one is deblur"),
        ("inpaint", (), "--task inpaint needs --masks, which is not given"),
        ("deblur", (), "--task deblur needs --blur, which is not given"),
        ("deblur", ("--blur", "0"), "sigma of the blur is 0.0; expected 0.1 to 1000 pixels"),
        ("deblur", ("--blur", "nan"), "sigma of the blur is nan"),
        ("upscale", ("--noise", "nan"), "Invalid value for '--noise'"),
        ("upscale", ("--noise", "1.5"), "Invalid value for '--noise'"),
        ("upscale", ("--factor", "0"), "Invalid value for '--factor'"),
        ("upscale", ("--filter", "lanczos"), "Invalid value for '--filter'"),
        ("upscale", ("--codec", "taesd"), "Invalid value for '--codec'"),
        ("sharpen", (), "Invalid value for '--task'"),
        ("upscale", ("--sampler", "heun"), "sampler is 'heun'"),
        ("upscale", ("--sampler", "dpmpp_2m", "--eta", "1"), "dpmpp_2m has no eta"),
        ("upscale", ("--steps", "1001"), "expected a whole number from 1 to 1000"),
        ("upscale", ("--workers", "2"), "--workers is for --ray"),
    ],
)
def test_options_that_do_not_fit_are_refused_before_anything_is_made(
    tiny_folder: Path, tmp_path: Path, task: str, options: tuple, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ldm_backend, "restore", lambda *_, **__: pytest.fail("restored"))
    draw(tmp_path / "a.png", 6, 6, 3)
    status, text = restore(tiny_folder, tmp_path / "out", task, tmp_path / "a.png", *options)
    assert (status, message in text) == (2, True), text
    assert not list(tmp_path.glob("out/*.png"))


def test_pictures_and_masks_that_are_no_pairs_are_refused(tiny_folder: Path, pictures: Path, tmp_path: Path) -> None:
    masks, out = pictures.parent / "masks", tmp_path / "out"
    for files, mask, message in (
        ((pictures / "a.png", pictures / "b.png"), masks, "takes one picture and its mask, or two folders, and 2"),
        ((pictures,), masks / "a.png", "one is a folder and one is not"),
        ((pictures,), pictures, "is given as picture and as mask"),
        ((pictures / "a.png",), tmp_path / "none.png", "none.png is not there"),
    ):
        status, text = restore(tiny_folder, out, "inpaint", *files, "--masks", mask)
        assert (status, message in text) == (2, True), text
    assert "holds the pictures themselves" in restore(tiny_folder, pictures, "upscale", pictures)[1]
    assert not out.exists()


@pytest.mark.parametrize("config", [SUPER_RESOLUTION, INPAINTING])
def test_a_model_of_another_task_is_refused_and_so_is_a_folder_of_another_command(
    tiny_folder: Path, pictures: Path, tmp_path: Path, config: ldm_backend.pipeline.LDMConfig
) -> None:
    model = write_conditional_folder(tmp_path / "model", config)
    status, text = restore(model, tmp_path / "out", "upscale", pictures)
    assert status == 2
    assert "ldm restore takes an unconditional model, and this one is" in text
    assert not (tmp_path / "out").exists()
    if config is SUPER_RESOLUTION:
        assert command("upscale", *QUICK, "--model", model, "--out", tmp_path / "out", pictures)[0] == 0
        whole = snapshot(tmp_path / "out")
        assert "is no job of `ldm restore`" in restore(tiny_folder, tmp_path / "out", "upscale", pictures)[1]
        assert snapshot(tmp_path / "out") == whole


def test_what_is_wrong_for_all_ends_the_run(
    tiny_folder: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> np.ndarray:
        raise CheckpointError("the file was changed")

    monkeypatch.setattr(ldm_backend, "restore", fails)
    status, text = restore(tiny_folder, tmp_path / "out", "upscale", pictures)
    assert (status, text.count("the file was changed")) == (2, 1)


@pytest.mark.slow
def test_the_demo_is_interrupted_and_resumed_to_the_same_bytes(root: Path, tmp_path: Path) -> None:
    """SIGINT in the midst, SIGKILL after a picture: nothing half-written, and the same command completes it."""
    model, folder, out = root / "demo" / "portraits-128", tmp_path / "small", tmp_path / "out"
    for number in range(4):
        draw(folder / f"{number}.png", 16, 16, 3, seed=number)
    arguments = ("--steps", "3", "--device", "cpu", "--task", "upscale", "--model", model, folder, "--out")
    assert command("restore", *arguments, tmp_path / "whole")[0] == 0
    run = [sys.executable, "-P", "-m", "ldm_headless", "restore", *map(str, arguments), str(out)]
    codes = []
    for wanted, number in ((1, signal.SIGINT), (2, signal.SIGKILL)):
        process = subprocess.Popen(
            run,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=tmp_path,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
        while process.poll() is None and len(list(out.glob("*.png"))) < wanted:
            time.sleep(0.005)
        process.send_signal(number)
        codes.append(process.wait())
    assert codes == [130, -signal.SIGKILL]
    assert 2 <= len(list(out.glob("*.png"))) < 4
    assert subprocess.run(run, capture_output=True, check=False, cwd=tmp_path).returncode == 0
    assert snapshot(out) == snapshot(tmp_path / "whole")
