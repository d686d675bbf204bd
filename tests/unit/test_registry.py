"""What the Comfy registry shows of this pack."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[2]


def pyproject(folder: Path) -> dict:
    return tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))


def fill_in(folder: Path, tag: str) -> subprocess.CompletedProcess[str]:
    shutil.copy(ROOT / "pyproject.toml", folder)
    environment = {**os.environ, "GITHUB_REPOSITORY": "someone/comfyui-ldm", "GITHUB_REF_NAME": tag}
    command = [sys.executable, str(ROOT / "registry" / "addresses.py")]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize(("key", "largest", "shape"), [("Icon", (800, 400), 1.0), ("Banner", (2520, 1080), 21 / 9)])
def test_pictures_fit_the_registry(key, largest, shape):
    picture = Image.open(ROOT / pyproject(ROOT)["tool"]["comfy"][key])
    assert picture.width <= largest[0]
    assert picture.height <= largest[1]
    assert picture.width / picture.height == pytest.approx(shape)


def test_addresses_are_those_of_the_publishing_repository(tmp_path):
    before = pyproject(ROOT)
    done = fill_in(tmp_path, f"v{before['project']['version']}")
    assert done.returncode == 0, done.stderr
    after = pyproject(tmp_path)
    assert after["project"].pop("urls") == {"Repository": "https://github.com/someone/comfyui-ldm"}
    root = f"https://raw.githubusercontent.com/someone/comfyui-ldm/v{before['project']['version']}/"
    for key in ("Icon", "Banner"):
        address, path = after["tool"]["comfy"].pop(key), before["tool"]["comfy"].pop(key)
        assert address == root + path
    assert after == before


def test_a_tag_of_another_version_publishes_nothing(tmp_path):
    done = fill_in(tmp_path, "v99.0.0")
    assert done.returncode == 1
    assert "v99.0.0" in done.stderr
    assert (tmp_path / "pyproject.toml").read_bytes() == (ROOT / "pyproject.toml").read_bytes()
