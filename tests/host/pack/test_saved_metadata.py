"""What the pack writes beside pictures and weights, its own readers take again, whatever prompt and workflow hold."""

import json
import math
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngImageFile
from safetensors import safe_open

import ldm_backend
from ldm_backend.checkpoints.checkpoint import read_checkpoint
from ldm_headless import PrivateHost
from ldm_headless.workflows.embedded import read_document

OUR_NAMES = dict.fromkeys(("weights", "format", "config", "ldm_config", "source", "source_layout", "ldm"), "x")


def deep(levels: int) -> Any:
    value: list[Any] = []
    for _ in range(levels):
        value = [value]
    return value


# What comes with a prompt, and whether the workflow of it is kept.
EXTRA: dict[str, tuple[Any, bool]] = {
    "usual": ({"workflow": {"nodes": [], "title": "café 肖像"}}, True),
    "names of ours": ({"workflow": {"nodes": []}, **OUR_NAMES, "__metadata__": {"a": "b"}}, True),
    "values that are no texts": ({"workflow": {"nodes": []}, "a": 5, "b": None, "c": [1.5, True]}, True),
    "nan": ({"workflow": {"nodes": [math.nan, math.inf]}}, True),
    "9 MiB": ({"workflow": {"nodes": ["x" * (9 * 2**20)]}}, False),
    "lone surrogate": ({"workflow": {"nodes": ["\ud800"]}}, False),
    "lone surrogate in a name": ({"workflow": {"nodes": []}, "\ud800": 1}, True),
    "deep": ({"workflow": {"nodes": deep(150)}}, False),
    "long number": ({"workflow": {"nodes": [10**400]}}, False),
    "odd names": ({"workflow": {"nodes": []}, "": 1, "x" * 100: 2, "a\0b": 3, "日本": 4, " x": 5}, True),
    "no object": ([1, 2], False),
}
# Only the header of a checkpoint is small.
KEPT_IN_PNG = {"9 MiB"}


def run(host: PrivateHost, graph: Any, extra: Any) -> None:
    """As a client that looks at nothing: ours sends no NaN and takes no such answers."""
    body = json.dumps({"prompt": graph.prompt, "extra_data": {"extra_pnginfo": extra}}).encode()
    with httpx.Client(base_url=host.url, trust_env=False, timeout=60) as http:
        response = http.post("/prompt", content=body, headers={"Content-Type": "application/json"})
        assert response.status_code == 200, response.text
        prompt_id = response.json()["prompt_id"]
        for _ in range(600):
            entry = http.get(f"/history/{prompt_id}").json().get(prompt_id)
            if entry is not None:
                assert entry["status"]["status_str"] == "success", entry["status"]
                return
            time.sleep(0.1)
    pytest.fail("the prompt does not end")


def carried_by(file: Path) -> dict[str, Any]:
    with file.open("rb") as stream:
        text, found = read_document(stream, file.name)
    assert text is None
    return found


def same(left: Any, right: Any) -> bool:
    return json.dumps(left) == json.dumps(right)  # NaN is not equal to itself


@pytest.mark.parametrize("case", EXTRA)
def test_a_checkpoint_loads_again(graph, host: PrivateHost, tiny, tmp_path, case: str) -> None:
    extra, kept = EXTRA[case]
    loader = graph.checkpoint()
    prefix = f"meta-{tmp_path.name}"
    graph.add("LDMCheckpointSave", model=loader[0], vae=loader[1], filename_prefix=prefix, dtype="fp32")
    run(host, graph, extra)
    (file,) = (host.base_directory / "output").glob(f"{prefix}_*.safetensors")
    saved = read_checkpoint(file)
    assert (saved.weights, saved.config) == ("only", tiny.config)
    ldm_backend.load(file, device="cpu")
    found = carried_by(file)
    assert found["prompt"].keys() == graph.prompt.keys()
    assert ("workflow" in found) == kept
    assert not kept or same(found["workflow"], extra["workflow"])
    with safe_open(file, "pt") as opened:
        texts = opened.metadata()
    ours = {"format", "ldm_config", "weights", "prompt", "workflow"}
    assert {name for name in texts if not name.startswith("extra_pnginfo.")} <= ours
    if case == "names of ours":
        assert {f"extra_pnginfo.{name}": '"x"' for name in OUR_NAMES}.items() <= texts.items()


@pytest.mark.parametrize("case", EXTRA)
def test_a_picture_is_read_again(graph, host: PrivateHost, tmp_path, case: str) -> None:
    extra, kept = EXTRA[case]
    latent = graph.noise(seed=7, batch_size=2)
    images = graph.add("LDMVQDecode", vae=graph.checkpoint()[1], latent=latent[0])
    prefix = f"meta-{tmp_path.name}"
    graph.add("LDMSaveImage", images=images[0], latent=latent[0], filename_prefix=prefix)
    run(host, graph, extra)
    files = sorted((host.base_directory / "output").glob(f"{prefix}_*.png"))
    assert len(files) == 2
    for number, file in enumerate(files):
        found = carried_by(file)
        assert found["prompt"].keys() == graph.prompt.keys()
        assert ("workflow" in found) == (kept or case in KEPT_IN_PNG)
        assert "workflow" not in found or same(found["workflow"], extra["workflow"])
        with Image.open(file) as picture:
            assert isinstance(picture, PngImageFile)
            assert json.loads(picture.text["ldm"])["seed"] == 7 + number


def test_what_is_left_out_is_told(graph, host: PrivateHost) -> None:
    loader = graph.checkpoint()
    graph.add("LDMCheckpointSave", model=loader[0], vae=loader[1], filename_prefix="told", dtype="fp32")
    run(host, graph, EXTRA["9 MiB"][0])
    assert "LDM Checkpoint Save: saved without workflow in the file's metadata: it is too large" in host.log()
