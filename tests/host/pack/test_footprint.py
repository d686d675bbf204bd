"""What the pack does to the machine while it loads and works: it writes where it may, and speaks with nobody."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from ldm_headless import PACK_ROOT, ComfyClient, HostLocation, PrivateHost, find_host

WATCH = PACK_ROOT / "tests" / "support" / "host_watch"
OURS = ("nodes", "ldm_backend", "web", "workflows", "demo")
MAY_BE_WRITTEN = ("output", "temp", "models")
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

    def contents(self) -> dict[Path, tuple[int, int]]:
        """Everything that native code could have touched where nothing may change."""
        base = self.host.base_directory
        roots = [self.home, self.checkout, *(base / name for name in ("input", "custom_nodes"))]
        files = [file for root in (*roots, *(PACK_ROOT / name for name in OURS)) for file in root.rglob("*")]
        kept = [file for file in files if "__pycache__" not in file.parts and file.is_file()]
        return {file: (file.stat().st_mtime_ns, file.stat().st_size) for file in kept}


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """A host under watch from its first line on, with a home of its own."""
    folder = tmp_path_factory.mktemp("watched")
    log, home, python = folder / "acts", folder / "home", folder / "python"
    home.mkdir()
    location = find_host()
    settings = {"PYTHONPATH": WATCH, "HOST_WATCH": log, "PYTHONDONTWRITEBYTECODE": 1, "HOME": home, "TMPDIR": home}
    variables = " ".join(f"{name}='{value}'" for name, value in settings.items())
    # A test that compiled something in this process has made torch name its folder in the environment.
    python.write_text(f"#!/bin/sh\nexec env -u TORCHINDUCTOR_CACHE_DIR {variables} '{location.python}' \"$@\"\n")
    python.chmod(0o755)
    packs = {"comfyui-ldm": PACK_ROOT}
    with PrivateHost(HostLocation(location.path, str(python)), packs, folder / "base", cpu=True) as host:
        yield Watched(host, log, home, location.path)


def prompts() -> Iterator[dict]:
    """Templates until every node of theirs has run, which is every node of the pack, with fewer steps."""
    seen: set[str] = set()
    for file in sorted((PACK_ROOT / "workflows" / "api").glob("*.json")):
        prompt = json.loads(file.read_text())
        types = {node["class_type"] for node in prompt.values()}
        if file.stem == "model-card" or types <= seen:  # that one needs the real weights
            continue
        seen |= types
        for node in prompt.values():
            if node["inputs"].get("steps", 0) > 10:
                node["inputs"]["steps"] = 10
        yield prompt


def test_loading_and_running_everything(watched: Watched) -> None:
    """While the host starts, what it does itself counts too: a folder of torch's in the temporary one, for example."""
    base = watched.host.base_directory
    assert watched.acts("write"), "the watch does not work"
    assert watched.acts("network"), "the watch does not work"
    assert watched.written_outside(base, watched.home) == set()
    assert watched.addresses_elsewhere() == []

    before = watched.contents()
    os.truncate(watched.log, 0)
    with ComfyClient(watched.host.url) as client:
        for prompt in prompts():
            client.follow(client.submit(prompt))
    assert len(list((base / "output").rglob("*.png"))) > 5
    assert len(list(base.rglob("*.safetensors"))) == 1
    assert watched.written_outside(*(base / name for name in MAY_BE_WRITTEN)) == set()
    assert watched.contents() == before
    assert watched.addresses_elsewhere() == []
    assert watched.acts("process") == []
