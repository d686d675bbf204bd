"""What stands where `ldm generate` keeps images that wait for their shard, and is not its own."""

import os
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ldm_headless.cli import app
from ldm_headless.errors import JobError


@pytest.mark.parametrize("kind", ["file", "link to a folder", "link to nothing", "pipe"])
def test_what_stands_in_the_place_of_pending_is_refused(tiny_folder: Path, tmp_path: Path, kind: str) -> None:
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "00000000.png").write_bytes(b"the user's")
    command = ["generate", str(tiny_folder), "--seeds", "0-1", "--steps", "1", "--device", "cpu", "--out", str(out)]
    command += ["--format", "webdataset"]
    assert CliRunner().invoke(app, command).exit_code == 0
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    {
        "file": (out / ".pending").touch,
        "link to a folder": lambda: (out / ".pending").symlink_to(elsewhere),
        "link to nothing": lambda: (out / ".pending").symlink_to(tmp_path / "absent"),
        "pipe": lambda: os.mkfifo(out / ".pending"),
    }[kind]()
    found = CliRunner().invoke(app, command).exception
    assert isinstance(found, JobError)
    assert ".pending is a link or no folder, which no job makes; move it away" in str(found)
    (out / ".pending").unlink()
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert {path.name: path.read_bytes() for path in elsewhere.iterdir()} == {"00000000.png": b"the user's"}
