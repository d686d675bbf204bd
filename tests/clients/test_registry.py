"""The registry's own checks accept this pack as it would be published."""

import os
import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest

from ldm_headless import PACK_ROOT

BIN = PACK_ROOT / ".venv-clients" / "bin"


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that `comfy node publish` would upload, unpacked; validated on the way."""
    source, target = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("published")
    listing = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in run(listing, PACK_ROOT).stdout.split("\0"):
        if (PACK_ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(PACK_ROOT / name, source / name)
    run(["git", "init", "-q"], source)
    run(["git", "add", "--all"], source)
    for command in ("validate", "pack"):
        done = run([str(BIN / "comfy"), "--skip-prompt", "node", command], source)
        assert not {"warning", "error"} & set(done.stdout.lower().replace(":", " ").split()), done.stdout
    with zipfile.ZipFile(source / "node.zip") as archive:
        archive.extractall(target)  # noqa: S202 - zipfile refuses paths that leave the folder
    return target


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "HOME": str(folder.parent), "DO_NOT_TRACK": "1"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def test_it_is_complete_and_holds_nothing_else(published: Path) -> None:
    assert {path.name for path in published.iterdir()} == {
        "__init__.py", "nodes", "ldm_backend", "ldm_headless", "web", "workflows", "demo", "docs", "pyproject.toml",
        "README.md", "CHANGELOG.md", "LICENSE", "SECURITY.md", "locales", "subgraphs",
    }  # fmt: skip
    for name in ("portraits-128", "upscaler-4x", "inpainter-128", "text-portraits-128"):
        assert (published / "demo" / name / "unet" / "config.json").is_file()


def test_static_levels_of_comfy_test(published: Path) -> None:
    done = run([str(BIN / "comfy-test"), "lint", "--strict", str(published)], published)
    assert "[JAVASCRIPT] PASSED" in done.stdout
    assert "[SYNTAX] PASSED" in done.stdout, done.stdout
