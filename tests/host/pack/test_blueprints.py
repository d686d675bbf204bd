"""Subgraphs that hosts which know blueprints offer as one node: listed, complete, and what is in them runs."""

import io
import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from ldm_headless import PACK_ROOT, ComfyClient, to_prompt
from ldm_headless.workflows.workflow import Workflow

BLUEPRINTS = sorted((PACK_ROOT / "subgraphs").glob("*.json"))

each = pytest.mark.parametrize("path", BLUEPRINTS, ids=lambda path: path.stem)


def placed(path: Path) -> dict[str, Any]:
    """A graph that holds the blueprint's node and shows its images."""
    graph = json.loads(path.read_text())
    (node,) = graph["nodes"]
    node["outputs"][0]["links"] = [1]
    shown = {"id": 9, "type": "PreviewImage", "pos": [400, 80], "size": [300, 300], "mode": 0, "order": 1, "flags": {},
             "inputs": [{"name": "images", "type": "IMAGE", "link": 1}], "outputs": [], "properties": {}}  # fmt: skip
    return graph | {"nodes": [node, shown], "links": [[1, node["id"], 0, 9, 0, "IMAGE"]]}


def test_there_is_one():
    assert [path.stem for path in BLUEPRINTS] == ["LDM portrait"]


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
    assert len(node["widgets_values"]) == len(names)


@each
def test_what_is_in_it_runs(path: Path, client: ComfyClient):
    """As it comes, on the demo model; the values on the node are those that are used."""
    prompt = to_prompt(Workflow(path.name, placed(path), None), client.object_info())
    values = {name: value for node in prompt.values() for name, value in node["inputs"].items()}
    assert (values["checkpoint"], values["seed"], values["width"], values["steps"]) == ("portraits-128", 20, 128, 20)
    prompt_id = client.submit(prompt)
    client.follow(prompt_id)
    (file,) = client.outputs(prompt_id)
    picture = Image.open(io.BytesIO(client.fetch(file)))
    assert picture.size == (128, 128)
    assert np.ptp(np.asarray(picture.convert("L"))) > 64
