"""Every damaged or hostile file ends in one LDMError that names it: soon, without much memory, without acting.

What cannot be noticed: a bit that flips inside the weights and leaves a finite number. Only a checksum finds that
(`ldm inspect` prints one, `ldm convert` and `ldm download` compare theirs); the last test here says so in code.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import forked_loader
import pytest
from bad_files import CASES, UNET
from model_folder import write_model_folder

import ldm_backend

SECONDS, MEGABYTES = 5.0, 500.0
Loader = Callable[[Path, Path], dict[str, Any]]


@pytest.fixture(scope="module")
def loader(tmp_path_factory, tiny_template) -> Iterator[Loader]:
    """Loads a path in a fresh process and says how that went; see forked_loader.py."""
    command = [sys.executable, forked_loader.__file__, str(tiny_template)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        requests, answers = server.stdin, server.stdout
        assert requests is not None
        assert answers is not None

        def load(path: Path, cwd: Path) -> dict[str, Any]:
            requests.write(json.dumps({"path": str(path), "cwd": str(cwd)}) + "\n")
            requests.flush()
            return json.loads(answers.readline())

        yield load
        requests.close()


@pytest.fixture(scope="module")
def tiny_template(tmp_path_factory, tiny) -> Path:
    return write_model_folder(tmp_path_factory.mktemp("template") / "tiny", tiny.config)


@pytest.fixture
def folder(tmp_path: Path, tiny_template: Path) -> Path:
    return Path(shutil.copytree(tiny_template, tmp_path / "model"))


def contents(root: Path) -> dict[str, object]:
    """What is there, by name: of a file when it was written, how long it is, and its first 16 MB as a hash."""

    def describe(path: Path) -> object:
        if path.is_symlink() or not path.is_file():
            return path.lstat().st_mode, path.lstat().st_mtime_ns
        with path.open("rb") as file:
            digest = hashlib.sha256(file.read(2**24))
        return path.stat().st_size, path.stat().st_mtime_ns, digest.hexdigest()

    return {str(path.relative_to(root)): describe(path) for path in root.rglob("*")}


@pytest.mark.parametrize("case", CASES)
def test_bad_file(tmp_path, folder, loader, case):
    spoil, message = CASES[case]
    path = spoil(folder) or folder
    before = contents(tmp_path)
    result = loader(path, tmp_path)
    assert result["family"], result
    assert str(folder) in result["message"]
    assert re.search(message, result["message"]), result["message"]
    assert len(result["message"]) < 1500
    assert result["message"].isprintable()
    assert result["seconds"] < SECONDS
    assert result["megabytes"] < MEGABYTES
    assert result["acts"] == []
    assert contents(tmp_path) == before


def test_corpus_is_large_enough():
    assert len(CASES) >= 30


def test_good_files_pass_the_same_watch(tmp_path, folder, loader):
    """Otherwise the tests above would show only that nothing loads at all."""
    before = contents(tmp_path)
    result = loader(folder, tmp_path)
    assert result["outcome"] == "loaded"
    assert result["acts"] == []
    assert contents(tmp_path) == before


def test_the_watch_notes_what_a_file_must_not_cause(tmp_path):
    code = (
        "import os, forked_loader; acts = []; forked_loader.watch(acts); open('a', 'w').close(); os.system('true'); "
        "os.rename('a', 'b'); print([act.partition(' ')[0] for act in acts])"
    )
    command = [sys.executable, "-c", code]
    support = str(Path(str(forked_loader.__file__)).parent)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([support, os.environ.get("PYTHONPATH", "")])}
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "['open', 'os.system', 'os.rename']"


def test_flipped_bits_that_leave_a_number_go_unnoticed(folder):
    """Honest about the limit: the lowest bit of the last weight."""
    data = bytearray((folder / UNET).read_bytes())
    data[-4] ^= 1
    (folder / UNET).write_bytes(data)
    ldm_backend.load(folder, device="cpu")
