"""Collects what a bare machine with a card lacks into `.gpu/`: wheels, the private ComfyUI, and two stand-ins.

    make gpu-kit

The machine has no network, Python 3.12 and torch; WHEELS is what else the pack, its host and the peer import there.
Versions are those of constraints.txt.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import re
import subprocess
import sys
import tarfile
import time
import zipfile
from pathlib import Path

from ldm_headless.host.install import find_host

ROOT = Path(__file__).resolve().parents[2]
KIT = ROOT / ".gpu"
MIB = 2**20
AT_MOST = 60 * MIB  # with the working tree it must stay below the 64 MiB that travel

# diffusers: the peer, which imports importlib_metadata. websockets: our client. torchsde, which imports trampoline:
# the host's samplers. The rest of what they need belongs to what such a machine has, see machine.txt.
WHEELS = ("diffusers", "importlib_metadata", "websockets", "torchsde", "trampoline")
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64", "manylinux1_x86_64")
# At the top of a checkout: what ComfyUI wrote, and what only its developers need. Deeper down such names are modules.
LEFT_OUT = {".git", "output", "input", "temp", "user", "tests", "tests-unit", "custom_nodes", ".github"}

# ComfyUI imports av when it starts and uses it for video and sound, which nothing here touches.
AV = '''"""A stand-in for PyAV: its names can be imported and written in annotations; using one is an error."""


class _Absent:
    def __init__(self, *arguments, **named):
        raise ImportError("this is the GPU kit's stand-in for av, which can neither read nor write video")


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return _Absent
'''
AV_FILES = {"av/__init__.py": AV}
for _name in ("container", "subtitles", "subtitles/stream"):
    AV_FILES[f"av/{_name}/__init__.py"] = "from av import __getattr__  # noqa: F401\n"
# ComfyUI refuses to start without the package of its frontend; nobody opens a browser on such a machine.
FRONTEND_FILES = {
    "comfyui_frontend_package/__init__.py": "",
    "comfyui_frontend_package/static/index.html": "<!doctype html><title>no frontend</title>\n",
}


def main() -> None:
    """Collect everything anew."""
    argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None).parse_args()
    host = find_host().path
    wheels = KIT / "wheels"
    wheels.mkdir(parents=True, exist_ok=True)
    for old in (*wheels.glob("*.whl"), *KIT.glob("comfyui*.tar.gz")):
        old.unlink()
    download(wheels)
    pip("wheel", "-q", "--no-deps", "-w", str(wheels), str(ROOT))
    frontend = re.search(r"^comfyui-frontend-package==(\S+)", (host / "requirements.txt").read_text(), re.MULTILINE)
    stub(wheels, "av", "99.0.0", AV_FILES)
    stub(wheels, "comfyui_frontend_package", frontend[1] if frontend else "99.0.0", FRONTEND_FILES)
    archive(host, KIT / "comfyui.tar.gz")
    facts = {"commit": commit(), "collected": time.strftime("%Y-%m-%d"), "host": version_of(host)}
    (KIT / "collected.json").write_text(json.dumps(facts) + "\n")
    report(sorted([*wheels.glob("*.whl"), KIT / "comfyui.tar.gz"]))


def report(files: list[Path]) -> None:
    """Say what there is and how large it is.

    Raises:
        SystemExit: More than can travel.
    """
    for file in files:
        sys.stdout.write(f"{file.stat().st_size / MIB:6.1f} MiB  {file.relative_to(ROOT)}\n")
    total = sum(file.stat().st_size for file in files)
    sys.stdout.write(f"{total / MIB:6.1f} MiB in all\n")
    if total > AT_MOST:
        raise SystemExit(f"That is more than {AT_MOST // MIB} MiB, which is what can travel.")


def download(folder: Path) -> None:
    """The wheels of others, for the machine's Python, not for this one."""
    target = ["--python-version", "3.12", "--implementation", "cp", "--only-binary=:all:", "--no-deps"]
    target += [part for name in PLATFORMS for part in ("--platform", name)]
    pip("download", "-q", *target, "-c", str(ROOT / "constraints.txt"), "-d", str(folder), *WHEELS)


def pip(*arguments: str) -> None:
    """Run pip; ends the program with its status where it fails."""
    status = subprocess.run([sys.executable, "-m", "pip", *arguments], cwd=ROOT, check=False).returncode
    if status:
        raise SystemExit(f"`pip {' '.join(arguments)}` failed with exit code {status}; its message is above.")


def stub(folder: Path, name: str, version: str, files: dict[str, str]) -> None:
    """Write a wheel of a few files, so that pip installs it like any other."""
    info = f"{name}-{version}.dist-info"
    files = files | {
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: {version}\n"
        "Summary: A stand-in made by comfyui-ldm's benchmarks/gpu; not the package of that name\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: comfyui-ldm\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    lines = []
    for path, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        lines.append(f"{path},sha256={digest},{len(text.encode())}")
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED) as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)
        wheel.writestr(f"{info}/RECORD", "\n".join([*lines, f"{info}/RECORD,,"]) + "\n")


def archive(host: Path, file: Path) -> None:
    """The host's tree without models and what it wrote."""

    def wanted(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        parts = Path(member.name).parts[1:]
        model = parts[:1] == ("models",) and member.isfile() and not parts[-1].endswith(("_here", ".yaml"))
        return None if model or LEFT_OUT & set(parts[:1]) or "__pycache__" in parts else member

    with tarfile.open(file, "w:gz") as packed:
        packed.add(host, "comfyui", filter=wanted)


def version_of(host: Path) -> str:
    """What the tree says of itself."""
    found = re.search(r'"([^"]+)"', (host / "comfyui_version.py").read_text())
    return found[1] if found else "unknown"


def commit() -> str:
    """Of this checkout; the machine has no git of it."""

    def git(*arguments: str) -> str:
        return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False).stdout.strip()  # noqa: S607

    return (git("rev-parse", "--short=12", "HEAD") or "unknown") + ("-dirty" if git("status", "--porcelain") else "")


if __name__ == "__main__":
    main()
