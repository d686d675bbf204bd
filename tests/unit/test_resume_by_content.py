"""A folder of `ldm generate` is taken for what its files hold: what is broken is found, told, and made anew."""

from __future__ import annotations

import json
import os
import random
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from generated import fill, made, make_job, manifest, run, snapshot
from PIL import Image

from ldm_backend.errors import LDMError
from ldm_headless.errors import JobError
from ldm_headless.generation import contents
from ldm_headless.generation.job import Format, Job
from ldm_headless.generation.job_folder import JobFolder

FILE = {Format.PNG: "seed-3.png", Format.WEBDATASET: "shard-000000.tar", Format.NPZ: "images.npz"}


def flip(path: Path, at: int = 900) -> None:
    """Change a byte of an image, and neither size nor time."""
    before, data = path.stat(), bytearray(path.read_bytes())
    data[at if len(data) > at else len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def halve(path: Path) -> None:
    size = path.stat().st_size
    os.truncate(path, size // 2 if path.suffix != ".tar" else size // 4)  # the other half of these is padding


def link_nowhere(path: Path) -> None:
    path.unlink()
    path.symlink_to("nowhere")


DAMAGE: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "half": halve,
    "a byte less": lambda path: os.truncate(path, path.stat().st_size - 1),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "a byte flipped": flip,
    "a page": lambda path: path.write_text("<html>"),
    "a link that leads nowhere": link_nowhere,
}


@pytest.fixture
def finished(tmp_path: Path) -> Callable[[Format], tuple[Path, Job, dict[str, bytes]]]:
    def make(format_: Format) -> tuple[Path, Job, dict[str, bytes]]:
        job, out = make_job(format_=format_), tmp_path / "out"
        fill(out, job)
        return out, job, snapshot(out)

    return make


def again(out: Path, job: Job, verify: bool = False) -> tuple[list[int], list[int]]:
    """The broken seeds, and those that were made."""
    with JobFolder(out, job, verify) as folder:
        broken, before = folder.broken, set(folder.done)
        units = list(job.units(folder.done))
        for unit in units:
            for seed in unit.wanted:
                folder.store(made(job, seed))
        folder.finish()
    return broken, sorted(folder.done - before)


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("format_", Format)
def test_what_is_broken_is_made_anew(finished: Callable, format_: Format, damage: str) -> None:
    out, job, whole = finished(format_)
    DAMAGE[damage](out / FILE[format_])
    broken, remade = again(out, job)
    assert broken == remade
    assert broken or (format_, damage) == (Format.WEBDATASET, "a byte less")  # of padding, with no image in it
    assert snapshot(out) == whole
    assert not (out / FILE[format_]).is_symlink()
    assert again(out, job) == ([], [])


@pytest.mark.parametrize("format_", [Format.WEBDATASET, Format.NPZ])
def test_sound_images_of_a_broken_file_are_kept(finished: Callable, format_: Format) -> None:
    """They are not made again; those alone are that cannot be saved."""
    out, job, whole = finished(format_)
    flip(out / FILE[format_])
    broken, remade = again(out, job)
    assert len(broken) == len(remade) == 1
    assert snapshot(out) == whole


def test_half_a_shard_gives_its_half(finished: Callable) -> None:
    out, job, whole = finished(Format.WEBDATASET)
    halve(out / "shard-000001.tar")
    broken, remade = again(out, job)
    assert broken == remade
    assert set(broken) < {4, 5, 6, 7}
    assert snapshot(out) == whole


@pytest.mark.parametrize("format_", Format)
def test_nothing_is_lost_before_it_is_replaced(finished: Callable, format_: Format) -> None:
    """A run that breaks off leaves the broken file as it is, and the next one finds the same."""
    out, job, whole = finished(format_)
    halve(out / FILE[format_])
    half = (out / FILE[format_]).read_bytes()
    for _ in range(3):
        with JobFolder(out, job) as folder:
            broken = folder.broken
        assert (out / FILE[format_]).read_bytes() == half
        assert broken or format_ is not Format.PNG
    again(out, job)
    assert snapshot(out) == whole


@pytest.mark.parametrize("format_", Format)
def test_a_repair_that_breaks_off_anywhere_is_taken_up(
    finished: Callable, format_: Format, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After any number of renamings, as a kill would; twice in a row at each place."""
    out, job, whole = finished(format_)
    real, left = os.replace, 0

    def replace(*names: Path) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        real(*names)

    monkeypatch.setattr("pathlib.Path.replace", lambda source, target: replace(source, target))
    for number in range(0, 16, 3):
        left = 10**6
        halve(out / FILE[format_])
        for broken_off in (number, number + 1):
            left = broken_off
            with suppress(KeyboardInterrupt):
                again(out, job)
        left = 10**6
        again(out, job)
        assert snapshot(out) == whole, number


@pytest.mark.parametrize("format_", Format)
def test_only_what_changed_is_read(finished: Callable, format_: Format, monkeypatch: pytest.MonkeyPatch) -> None:
    out, job, _ = finished(format_)
    looked: list[object] = []
    real = contents.pixels_sha256
    monkeypatch.setattr(contents, "pixels_sha256", lambda pixels: (looked.append(1), real(pixels))[1])
    assert again(out, job) == ([], [])
    assert len(looked) == 0
    (out / FILE[format_]).touch()
    assert again(out, job) == ([], [])
    assert len(looked) == {Format.PNG: 1, Format.WEBDATASET: 4, Format.NPZ: 10}[format_]
    looked.clear()
    assert again(out, job) == ([], [])
    assert len(looked) == 0
    assert again(out, job, verify=True) == ([], [])
    assert len(looked) == 10


@pytest.mark.parametrize("format_", Format)
def test_verify_finds_what_neither_size_nor_time_tells(finished: Callable, format_: Format) -> None:
    out, job, whole = finished(format_)
    flip(out / FILE[format_])
    later = time.time_ns() + 10**12
    os.utime(out / "manifest.jsonl", ns=(later, later))  # as if written after that
    assert again(out, job, verify=True) != ([], [])
    assert snapshot(out) == whole


@pytest.mark.parametrize("format_", Format)
def test_a_manifest_of_before_there_were_sizes_goes_on(finished: Callable, format_: Format) -> None:
    """Its images are looked at once, and the broken one is found."""
    out, job, whole = finished(format_)
    entries = manifest(out)
    for entry in entries:
        del entry["bytes"]
    (out / "manifest.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    halve(out / FILE[format_])
    later = time.time_ns() + 10**12
    os.utime(out / "manifest.jsonl", ns=(later, later))
    assert again(out, job)[0]
    assert snapshot(out) == whole


@pytest.mark.parametrize("format_", [Format.WEBDATASET, Format.NPZ])
def test_images_that_wait_are_looked_at_too(tmp_path: Path, format_: Format) -> None:
    out, job = tmp_path / "out", make_job(format_=format_)
    fill(tmp_path / "whole", job)
    with JobFolder(out, job) as folder:
        for seed in (0, 1, 2):
            folder.store(made(job, seed))
    halve(out / ".pending" / "seed-1.png")
    flip(out / ".pending" / "seed-2.png")
    broken, remade = again(out, job)
    assert broken == [1, 2]
    assert remade == list(range(1, 10))
    assert snapshot(out) == snapshot(tmp_path / "whole")


def test_an_empty_picture_without_a_line_is_broken_and_a_foreign_one_is_kept(finished: Callable) -> None:
    out, job, whole = finished(Format.PNG)
    (out / "manifest.jsonl").unlink()
    (out / "seed-2.png").write_bytes(b"")
    assert again(out, job) == ([2], [2])
    assert snapshot(out) == whole
    (out / "manifest.jsonl").unlink()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(out / "seed-2.png")
    mine = (out / "seed-2.png").read_bytes()
    with pytest.raises(JobError, match=r"seed-2\.png is not of this job"), JobFolder(out, job):
        pass
    assert (out / "seed-2.png").read_bytes() == mine


def test_what_is_in_the_way_is_named(finished: Callable) -> None:
    out, job, _ = finished(Format.NPZ)
    (out / ".pending").write_text("")
    with (
        pytest.raises(JobError, match=r"\.pending is a link or no folder, which no job makes; move it"),
        JobFolder(out, job),
    ):
        pass
    (out / ".pending").unlink()
    (out / "manifest.jsonl").unlink()
    os.mkfifo(out / "manifest.jsonl")
    with pytest.raises(JobError, match=r"manifest\.jsonl is no file"), JobFolder(out, job):
        pass
    (out / "job.json").unlink()
    os.symlink("/dev/zero", out / "job.json")
    with pytest.raises(JobError, match=r"job\.json is no file of"), JobFolder(out, job):
        pass


ODD = (
    None, True, -1, 0, 2**70, 0.5, 1e308, "", "x", [], [[]], {}, {"a": 1}, float("nan"), "\x1b[2J", "é" * 300,
)  # fmt: skip
LINES = (
    b"", b"{", b"[]", b"null", b"[" * 5000, b"9" * 5000, b"\xff\xfe", b'{"seed": 1, "seed": 2}', b"\0" * 100,
    b"x" * 200_000,
)  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("format_", Format)
def test_odd_manifests_end_in_a_message_or_are_made_good(finished: Callable, format_: Format, tmp_path: Path) -> None:
    out, job, whole = finished(format_)
    chance, lines = random.Random(7), whole["manifest.jsonl"].splitlines()
    for number in range(70):
        folder = tmp_path / f"odd-{number}"
        shutil.copytree(out, folder)
        changed = list(lines)
        for _ in range(chance.choice((1, 2, 5))):
            at = chance.randrange(len(changed))
            if chance.random() < 0.3:
                changed[at] = chance.choice((*LINES, changed[at][: chance.randrange(len(changed[at]) or 1)]))
                continue
            entry = json.loads(lines[at])
            entry[chance.choice([*list(entry)[:8], "new"])] = chance.choice(ODD)
            changed[at] = json.dumps(entry).encode()
        (folder / "manifest.jsonl").write_bytes(b"\n".join(changed) + b"\n" * chance.randrange(2))
        again(folder, job)
        # What a machine is called, and a size, cannot be told from the pixels.
        entries, expected = manifest(folder), [json.loads(line) for line in lines]
        for each in (*entries, *expected):
            del each["machine"]
        assert entries == expected, number
        there = snapshot(folder)
        assert {name: there[name] for name in whole if name != "manifest.jsonl" and not name.endswith("tar")} == {
            name: whole[name] for name in whole if name != "manifest.jsonl" and not name.endswith("tar")
        }


@pytest.mark.parametrize("format_", Format)
def test_odd_jobs_end_in_a_message(finished: Callable, format_: Format) -> None:
    out, job, whole = finished(format_)
    chance = random.Random(7)
    for _ in range(60):
        found = json.loads(whole["job.json"])
        part = chance.choice((found, found["settings"]))
        part[chance.choice(list(part))] = chance.choice(ODD)
        text = chance.choice((json.dumps(found).encode(), *LINES))
        (out / "job.json").write_bytes(text)
        try:
            again(out, job)
        except LDMError as error:
            message = str(error)
        else:
            message = "job.json"
        assert "job.json" in message


def test_the_command_says_what_was_broken(tiny_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = (tiny_folder, "--seeds", "0-5", "--steps", "1", "--device", "cpu", "--out", out)
    assert run(*options)[0] == 0
    whole = snapshot(out)
    (out / "seed-1.png").write_bytes(b"")
    halve(out / "seed-4.png")
    status, text = run(*options)
    assert status == 0
    assert "2 of 6 were broken (seed-1.png, seed-4.png) and are made anew" in text
    assert "2 made" in text
    assert "4 were there" in text
    assert snapshot(out) == whole
    status, text = run(*options, "--verify")
    assert (status, "broken" in text) == (0, False)
    assert snapshot(out) == whole
