"""The workflows that come with the pack: both formats say the same, and they run."""

import io
import json
from itertools import combinations
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image

from ldm_headless import PACK_ROOT, ComfyClient, load_workflow

WORKFLOWS = sorted((PACK_ROOT / "workflows").glob("*.json"))
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")
NOTES = ("Note", "MarkdownNote")
TITLE_HEIGHT = 30  # of a node, above its position
# Files that each workflow saves or previews. The model card's needs the real weights, so it is not run.
FILES = {
    "batch-of-seeds": 9,
    "code-view": 3,
    "contact-sheet": 1,
    "custom-sampling": 4,
    "demo": 1,
    "fast-sampling": 4,
    "feature-cache": 1,
    "image-to-image": 5,
    "inpaint": 5,
    "inversion": 1,
    "ksampler": 1,
    "latent-circle": 1,
    "seed-variations": 1,
    "seed-walk": 1,
    "tiled-decode": 1,
}

each = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)


def to_api(ui: dict[str, Any], object_info: dict[str, Any]) -> dict[str, Any]:
    """A UI-format graph in API format, for graphs without subgraphs, reroutes or converted widgets."""
    links = {link[0]: [str(link[1]), link[2]] for link in ui["links"]}
    prompt = {}
    for node in ui["nodes"]:
        if node["type"] in NOTES:
            continue
        inputs: dict[str, Any] = {}
        values = iter(node["widgets_values"])
        spec = object_info[node["type"]]["input"]
        for name, (kind, *options) in (spec.get("required", {}) | spec.get("optional", {})).items():
            setting = options[0] if options else {}
            if (isinstance(kind, list) or kind in WIDGETS) and not setting.get("forceInput"):
                inputs[name] = next(values)
                if setting.get("control_after_generate"):
                    assert next(values) in ("fixed", "increment", "decrement", "randomize")
        assert list(values) == [], f"{node['type']} has more values than widgets"
        inputs |= {slot["name"]: links[slot["link"]] for slot in node["inputs"] if slot["link"] is not None}
        prompt[str(node["id"])] = {
            "inputs": inputs, "class_type": node["type"], "_meta": {"title": node["title"]}
        }  # fmt: skip
    return prompt


def rectangle(node: dict[str, Any]) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of a node with its title."""
    (x, y), (width, height) = node["pos"], node["size"]
    return x, y - TITLE_HEIGHT, x + width, y + height


def test_all_workflows_are_here():
    """Each comes in both formats; the parametrised tests below would pass silently on an empty folder."""
    stems = {path.stem for path in WORKFLOWS}
    assert stems == FILES.keys() | {"model-card"}
    assert {path.stem for path in (PACK_ROOT / "workflows" / "api").glob("*.json")} == stems


@each
def test_both_formats_are_the_same_graph(path: Path, client: ComfyClient):
    """What `ldm` runs is what the browser shows."""
    ui = json.loads(path.read_text())
    assert to_api(ui, client.object_info()) == load_workflow(path.parent / "api" / path.name)


@each
def test_ui_graph_is_sound(path: Path):
    """What the frontend relies on: ids, slots and links agree in both directions; a note explains the graph."""
    ui = json.loads(path.read_text())
    nodes = {node["id"]: node for node in ui["nodes"]}
    assert ui["version"] == 0.4
    assert ui["last_node_id"] == max(nodes)
    assert ui["last_link_id"] == max(link[0] for link in ui["links"])
    for link_id, source, output, target, slot, kind in ui["links"]:
        assert link_id in nodes[source]["outputs"][output]["links"]
        assert nodes[source]["outputs"][output]["type"] == kind
        assert nodes[target]["inputs"][slot]["link"] == link_id
        assert nodes[target]["inputs"][slot]["type"] == kind
        assert nodes[source]["order"] < nodes[target]["order"]
        assert nodes[source]["pos"][0] < nodes[target]["pos"][0]
    titles = [node["title"] for node in nodes.values()]
    assert all(titles)
    assert len(set(titles)) == len(titles), "`ldm run --set` finds nodes by their titles"
    assert any(node["type"] in NOTES and len(node["widgets_values"][0]) > 100 for node in nodes.values())


@each
def test_template_and_thumbnail_are_served(path: Path, client: ComfyClient):
    """The frontend lists the workflows as templates of the pack, each with a picture."""
    templates = httpx.get(f"{client.base_url}/workflow_templates", trust_env=False).json()
    assert path.stem in templates["comfyui-ldm"]
    base = f"{client.base_url}/api/workflow_templates/comfyui-ldm/{path.stem}"
    assert httpx.get(f"{base}.json", trust_env=False).json() == json.loads(path.read_text())
    picture = httpx.get(f"{base}.jpg", trust_env=False)
    assert picture.status_code == 200
    assert min(Image.open(io.BytesIO(picture.content)).size) >= 128


@each
def test_nodes_do_not_overlap(path: Path):
    """A newcomer sees every node whole."""
    for one, other in combinations(json.loads(path.read_text())["nodes"], 2):
        (left, top, right, bottom), (x0, y0, x1, y1) = rectangle(one), rectangle(other)
        apart = right <= x0 or x1 <= left or bottom <= y0 or y1 <= top
        assert apart, f"{one['title']} covers a part of {other['title']}"


@pytest.mark.parametrize("stem", FILES)
def test_workflow_runs(stem: str, client: ComfyClient, run_prompt):
    """As shipped, with the checkpoint that comes with the pack; only the steps are fewer."""
    prompt = load_workflow(PACK_ROOT / "workflows" / "api" / f"{stem}.json")
    for node in prompt.values():
        if "steps" in node["inputs"]:
            node["inputs"]["steps"] = 2
    files = run_prompt(prompt)
    assert len(files) == FILES[stem]
    for file in files:
        picture = Image.open(io.BytesIO(client.fetch(file)))
        assert np.ptp(np.asarray(picture.convert("L"))) > 32, f"{file.filename} is blank"
        if picture.format == "WEBP":
            frames = [node["inputs"]["frames"] for node in prompt.values() if "frames" in node["inputs"]]
            assert [getattr(picture, "n_frames", 1)] == frames
