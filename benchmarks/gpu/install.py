"""Installs on the machine with the card what `make gpu-kit` collected. The standard library only."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
KIT = ROOT / ".gpu"
MACHINE = ROOT / ".gpu-machine"
OWN = "comfyui_ldm"
PACKAGES = ("ldm_backend", "ldm_headless")


def install() -> dict[str, str]:
    """Wheels into this interpreter's site-packages, the host and links to our packages into `.gpu-machine/`.

    Into site-packages, because the private host drops PYTHONPATH. A package that is there already is kept: it is the
    one that belongs to the machine's torch.

    Returns: environment variables for the stages.
    Raises: SystemExit: nothing was collected, or pip failed.
    """
    wheels = sorted((KIT / "wheels").glob("*.whl"))
    if not wheels or not (KIT / "comfyui.tar.gz").is_file():
        raise SystemExit(f"{KIT} is empty: run `make gpu-kit` where there is a network, and carry .gpu here.")
    wanted = [wheel for wheel in wheels if wheel.name.startswith(OWN) or not present(wheel.name.split("-")[0])]
    command = [sys.executable, "-m", "pip", "install", "-q", "--disable-pip-version-check", "--no-index", "--no-deps"]
    command += ["--no-compile", "--no-cache-dir", "--force-reinstall", *map(str, wanted)]
    # Without the settings of this machine: one that names a folder of wheels would be asked in spite of --no-index.
    environment = {**os.environ, "PIP_CONFIG_FILE": os.devnull}
    if subprocess.run(command, env=environment, check=False).returncode:
        raise SystemExit("pip could not install the kit's wheels; its message is above.")
    return {
        "PYTHONPATH": os.pathsep.join([str(link_packages()), str(ROOT / "benchmarks")]),
        "COMFYUI_PATH": str(unpack_host()),
        "COMFYUI_PYTHON": sys.executable,
        "HF_HUB_OFFLINE": "1",
        "PYTHONUNBUFFERED": "1",
    }


def present(name: str) -> bool:
    """Whether this interpreter has the package."""
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def link_packages() -> Path:
    """A folder for the import path that holds our packages of this tree and nothing else of it.

    The wheel holds the same code, but a host finds the pack, and the tests their data, by where the package lies; and
    the root itself holds `nodes` and `tests`, which must not stand for the host's.
    """
    folder = MACHINE / "own"
    folder.mkdir(parents=True, exist_ok=True)
    for name in PACKAGES:
        if not (folder / name).exists():
            (folder / name).symlink_to(ROOT / name, target_is_directory=True)
    return folder


def unpack_host() -> Path:
    """The private ComfyUI of the archive."""
    shutil.rmtree(MACHINE / "comfyui", ignore_errors=True)
    with tarfile.open(KIT / "comfyui.tar.gz") as packed:
        packed.extractall(MACHINE, filter="data")
    return MACHINE / "comfyui"
