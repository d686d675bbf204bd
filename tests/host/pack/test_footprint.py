"""What the pack does to the machine while it loads and works: it writes where it may, and speaks with nobody."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from sample_picture import EXAMPLE, sample_picture
from watched_host import Watched, watched_host

from ldm_headless import PACK_ROOT, ComfyClient

OURS = ("nodes", "ldm_backend", "web", "workflows", "demo")
MAY_BE_WRITTEN = ("output", "temp", "models")


@pytest.fixture(scope="module")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    with watched_host(tmp_path_factory.mktemp("watched")) as running:
        yield running


def contents(watched: Watched) -> dict[Path, tuple[int, int]]:
    """Everything that native code could have touched where nothing may change."""
    base = watched.host.base_directory
    roots = [watched.home, watched.checkout, *(base / name for name in ("input", "custom_nodes"))]
    files = [file for root in (*roots, *(PACK_ROOT / name for name in OURS)) for file in root.rglob("*")]
    kept = [file for file in files if "__pycache__" not in file.parts and file.is_file()]
    return {file: (file.stat().st_mtime_ns, file.stat().st_size) for file in kept}


def prompts() -> Iterator[dict]:
    """Templates until every node of theirs has run, which is every node of the pack that the demo
    can run, with fewer steps."""
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

    with ComfyClient(watched.host.url) as client:
        client.upload(EXAMPLE, sample_picture())
        before = contents(watched)
        os.truncate(watched.log, 0)
        for prompt in prompts():
            client.follow(client.submit(prompt))
    assert len(list((base / "output").rglob("*.png"))) > 5
    assert len(list(base.rglob("*.safetensors"))) == 1
    assert watched.written_outside(*(base / name for name in MAY_BE_WRITTEN)) == set()
    assert contents(watched) == before
    assert watched.addresses_elsewhere() == []
    assert watched.acts("process") == []
