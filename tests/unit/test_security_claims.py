"""SECURITY.md names tests that are there, and the lock file is that of pyproject.toml and constraints.txt."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.markers import Marker

ROOT = Path(__file__).parents[2]
# With the condition behind it, if there is one.
LOCKED = r"^[\w.-]+==\S+(?: ; ([^\\\n]+))?"
PIN = re.compile(r"^([\w.-]+)==(\S+)", re.MULTILINE)


def pins(name: str) -> dict[str, str]:
    return {plain(package): version for package, version in PIN.findall((ROOT / name).read_text(encoding="utf-8"))}


def plain(package: str) -> str:
    return re.sub(r"[-_.]+", "-", package).lower()


def test_named_tests_exist():
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", (ROOT / "SECURITY.md").read_text(encoding="utf-8"))
    assert len(named) > 15
    missing = {(file, test) for file, test in named if f"def {test}(" not in (ROOT / file).read_text(encoding="utf-8")}
    assert missing == set()


def test_the_lock_has_what_is_installed_with_checksums():
    """A failure asks for the command at the top of the lock."""
    locked, tested = pins("requirements-dev.lock"), pins("constraints.txt")
    assert {name: version for name, version in locked.items() if tested.get(name, version) != version} == {}
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    direct = [*project["dependencies"], *extras["cli"], *extras["dev"], *extras["browser"], *extras["evaluate"]]
    names = {plain(re.split(r"[\[<>=]", requirement)[0]) for requirement in direct} - {project["name"]}
    assert names - locked.keys() == set()
    text = (ROOT / "requirements-dev.lock").read_text(encoding="utf-8")
    assert len(re.findall(rf"{LOCKED} \\\n    --hash=sha256:[0-9a-f]{{64}}", text, re.MULTILINE)) == len(locked)


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_the_lock_is_for_every_python(python):
    """On Linux everything is locked for each of them, but what Windows or the browser's Python alone have."""
    text = (ROOT / "requirements-dev.lock").read_text(encoding="utf-8")
    found = re.findall(rf"{LOCKED} \\$", text, re.MULTILINE)
    assert len(found) == len(pins("requirements-dev.lock"))
    elsewhere = ("win32", "sys_platform == 'emscripten'")
    markers = [Marker(marker) for marker in found if marker and not any(place in marker for place in elsewhere)]
    here = {"python_version": python, "python_full_version": f"{python}.0", "sys_platform": "linux"}
    assert all(marker.evaluate(here | {"platform_machine": "x86_64"}) for marker in markers)
