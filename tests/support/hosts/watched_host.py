"""A real ComfyUI that notes which files it writes, whom it speaks with and what it starts, from its first line on."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from ldm_headless import PACK_ROOT, HostLocation, PrivateHost, find_host

WATCH = PACK_ROOT / "tests" / "support" / "hosts" / "host_watch"
LOOPBACK = ("127.0.0.1", "::1", "localhost")


@dataclass
class Watched:
    """A host, and what it was seen to do."""

    host: PrivateHost
    log: Path
    home: Path
    checkout: Path

    def acts(self, kind: str) -> list[list[str]]:
        """The arguments of each act of a kind: "write", "network" or "process"."""
        rows = [json.loads(line) for line in self.log.read_text().splitlines()]
        return [found for noted, found in rows if noted == kind]

    def written_outside(self, *folders: Path) -> set[Path]:
        paths = {Path(path) for found in self.acts("write") for path in found}
        return {path for path in paths if not any(path.is_relative_to(place) for place in (*folders, Path("/dev")))}

    def addresses_elsewhere(self) -> list[list[str]]:
        return [found for found in self.acts("network") if not any(name in str(found) for name in LOOPBACK)]


@contextmanager
def watched_host(folder: Path, limits: str = ":") -> Iterator[Watched]:
    """A host under watch, with a home of its own.

    Args:
        folder: for everything of it.
        limits: shell command before its start, for example `ulimit -v 8000000`.
    """
    log, home = folder / "acts", folder / "home"
    home.mkdir()
    location = find_host()
    settings = {"PYTHONPATH": WATCH, "HOST_WATCH": log, "PYTHONDONTWRITEBYTECODE": 1, "HOME": home, "TMPDIR": home}
    variables = " ".join(f"{name}='{value}'" for name, value in settings.items())
    # A test that compiled something in this process has made torch name its folder in the environment.
    command = f"exec env -u TORCHINDUCTOR_CACHE_DIR {variables} '{location.python}' \"$@\""
    python = host_program(folder / "python", f"{limits}\n{command}")
    packs = {"comfyui-ldm": PACK_ROOT}
    with PrivateHost(HostLocation(location.path, str(python)), packs, folder / "base", cpu=True) as host:
        yield Watched(host, log, home, location.path)


def host_program(file: Path, script: str) -> Path:
    """A shell script that stands for the host's interpreter."""
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)
    return file
