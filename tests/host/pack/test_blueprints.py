"""Subgraphs that hosts which know blueprints offer as one node: listed, complete, and what is in them runs."""

import io
import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from sample_picture import EXAMPLE, sample_picture

from ldm_headless import PACK_ROOT, ComfyClient, to_prompt
from ldm_headless.workflows.workflow import Workflow

BLUEPRINTS = sorted((PACK_ROOT / "subgraphs").glob("*.json"))

each = pytest.mark.parametrize("path", BLUEPRINTS, ids=lambda path: path.stem)


# What the blueprint's node holds, for what the nodes in it get, and the sides of the picture.
VALUES: dict[str, tuple[dict[str, Any], tuple[int, int]]] = {
    "LDM portrait": (
        {"checkpoint": "portraits-128", "seed": 20, "width": 128, "height": 128, "batch_size": 1, "steps": 20},
        (128, 128),
    ),
    "LDM remove": ({"checkpoint": "inpainter-128", "seed": 0, "steps": 20}, (40, 24)),
    "LDM text portrait": (
        {
            "text": "long blond hair, smiling, green top, blue background",
            "negative": "",
            "checkpoint": "text-portraits-128",
            "seed": 6,
            "width": 128,
            "height": 128,
            "batch_size": 1,
            "steps": 20,
            "cfg": 3,
        },
        (128, 128),
    ),
    "LDM upscale": ({"checkpoint": "upscaler-4x", "seed": 0, "steps": 20, "tile": 0}, (160, 96)),
}


INNER = {"negative": "text"}  # what a node in it calls a value that has another name outside


def placed(path: Path) -> dict[str, Any]:
    """A graph that holds the blueprint's node, gives it a picture and a mask if it takes them, and shows its images."""
    graph = json.loads(path.read_text())
    (node,) = graph["nodes"]
    node["outputs"][0]["links"] = [1]
    shown = {"id": 9, "type": "PreviewImage", "pos": [400, 80], "size": [300, 300], "mode": 0, "order": 2, "flags": {},
             "inputs": [{"name": "images", "type": "IMAGE", "link": 1}], "outputs": [], "properties": {}}  # fmt: skip
    nodes, links = [node, shown], [[1, node["id"], 0, 9, 0, "IMAGE"]]
    for index, slot in enumerate(node["inputs"]):
        if slot["type"] == "MASK":
            slot["link"] = 3
            links.append([3, 7, 0, node["id"], index, "MASK"])
            nodes.append({"id": 7, "type": "SolidMask", "pos": [-800, 80], "size": [300, 112], "mode": 0, "order": 0,
                          "flags": {}, "inputs": [], "properties": {}, "widgets_values": [1, 40, 24],
                          "outputs": [{"name": "MASK", "type": "MASK", "links": [3]}]})  # fmt: skip
        if slot["type"] == "IMAGE":
            slot["link"] = 2
            links.append([2, 8, 0, node["id"], index, "IMAGE"])
            nodes.append({"id": 8, "type": "LoadImage", "pos": [-400, 80], "size": [300, 300], "mode": 0, "order": 0,
                          "flags": {}, "inputs": [], "properties": {}, "widgets_values": [EXAMPLE, "image"],
                          "outputs": [{"name": "IMAGE", "type": "IMAGE", "links": [2]}]})  # fmt: skip
    return graph | {"nodes": nodes, "links": links}


def test_these_are_there():
    assert [path.stem for path in BLUEPRINTS] == list(VALUES)


@each
def test_the_host_lists_and_serves_it(path: Path, client: ComfyClient):
    """The editor shows the name of the file as the name of the node."""
    with httpx.Client(base_url=client.base_url, trust_env=False) as http:
        answer = http.get("/global_subgraphs")
        if answer.status_code == 404:
            pytest.skip("this host knows no blueprints")
        ((key, entry),) = ((key, entry) for key, entry in answer.json().items() if entry["name"] == path.stem)
        assert entry["info"]["node_pack"] == "custom_nodes.comfyui-ldm"
        assert json.loads(http.get(f"/global_subgraphs/{key}").json()["data"]) == json.loads(path.read_text())


@each
def test_it_is_one_node_with_named_values(path: Path):
    """What the editor asks of a blueprint: a single subgraph node at the root, of the subgraph that is defined."""
    graph = json.loads(path.read_text())
    (node,), (subgraph,) = graph["nodes"], graph["definitions"]["subgraphs"]
    assert node["type"] == subgraph["id"]
    assert graph["links"] == []
    assert len(graph["extra"]["BlueprintDescription"]) > 60
    names = [slot["name"] for slot in node["inputs"]]
    assert names == [slot["name"] for slot in subgraph["inputs"]]
    widgets = [slot["name"] for slot in node["inputs"] if "widget" in slot]
    assert dict(zip(widgets, node["widgets_values"], strict=True)) == VALUES[path.stem][0]


@each
def test_what_is_in_it_runs(path: Path, client: ComfyClient):
    """As it comes, on a demo model; the values on the node are those that are used."""
    client.upload(EXAMPLE, sample_picture(40, 24))
    prompt = to_prompt(Workflow(path.name, placed(path), None), client.object_info())
    values: dict[str, list[Any]] = {}
    for node in prompt.values():
        for name, value in node["inputs"].items():
            values.setdefault(name, []).append(value)
    expected, size = VALUES[path.stem]
    assert all(value in values[INNER.get(name, name)] for name, value in expected.items())
    prompt_id = client.submit(prompt)
    client.follow(prompt_id)
    (file,) = client.outputs(prompt_id)
    picture = Image.open(io.BytesIO(client.fetch(file)))
    assert picture.size == size
    assert np.ptp(np.asarray(picture.convert("L"))) > 64
