"""The workflows that come with the pack: both formats say the same, and they run."""

import io
import json
import time
from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image
from sample_picture import sample_picture
from typer.testing import CliRunner

from ldm_headless import PACK_ROOT, ComfyClient, load_workflow, to_prompt
from ldm_headless.cli import app
from ldm_headless.ui_format.editors import MARK

WORKFLOWS = sorted((PACK_ROOT / "workflows").glob("*.json"))
NOTES = ("Note", "MarkdownNote")
TITLE_HEIGHT = 30  # of a node, above its position
# Files that each workflow saves or previews.
FILES = {
    "batch-of-seeds": 9,
    "code-view": 3,
    "contact-sheet": 1,
    "custom-sampling": 4,
    "demo": 1,
    "fast-sampling": 4,
    "feature-cache": 1,
    "guided-colourise": 3,
    "guided-repair": 4,
    "guided-restore": 3,
    "guided-style": 3,
    "image-to-image": 5,
    "inpaint": 5,
    "inversion": 1,
    "ksampler": 1,
    "latent-circle": 1,
    "model-card": 1,
    "portrait-x4": 2,
    "remove": 2,
    "remove-ksampler": 2,
    "save-and-inspect": 4,
    "seed-variations": 1,
    "seed-walk": 1,
    "text-portrait": 4,
    "tiled-decode": 1,
    "upscale": 1,
    "upscale-ksampler": 1,
}
DEMOS = ("portraits-128", "upscaler-4x", "inpainter-128", "text-portraits-128")

each = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)


def rectangle(node: dict[str, Any]) -> tuple[float, float, float, float]:
    """Left, top, right and bottom of a node with its title."""
    (x, y), (width, height) = node["pos"], node["size"]
    return x, y - TITLE_HEIGHT, x + width, y + height


def test_all_workflows_are_here():
    """Each comes in both formats; the parametrised tests below would pass silently on an empty folder."""
    stems = {path.stem for path in WORKFLOWS}
    assert stems == FILES.keys()
    assert {path.stem for path in (PACK_ROOT / "workflows" / "api").glob("*.json")} == stems


@each
def test_both_formats_are_the_same_graph(path: Path, client: ComfyClient):
    """What `ldm` runs is what the browser shows."""
    api = load_workflow(path.parent / "api" / path.name).prompt
    assert api is not None
    info = client.object_info()
    if MARK in info["PreviewAny"]:  # today's editor does not send the text that this node shows, no input of the host
        api = {key: {**node, "inputs": _without_preview(node)} for key, node in api.items()}
    assert to_prompt(load_workflow(path), info) == api


def _without_preview(node: Mapping[str, Any]) -> dict[str, Any]:
    shown = {"preview"} if node["class_type"] == "PreviewAny" else set()
    return {name: value for name, value in node["inputs"].items() if name not in shown}


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
        assert nodes[target]["inputs"][slot]["type"] in (kind, "*")
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
    assert Image.open(io.BytesIO(picture.content)).size == (512, 512), "the page of templates is even"


@each
def test_nodes_do_not_overlap(path: Path):
    """A newcomer sees every node whole."""
    for one, other in combinations(json.loads(path.read_text())["nodes"], 2):
        (left, top, right, bottom), (x0, y0, x1, y1) = rectangle(one), rectangle(other)
        apart = right <= x0 or x1 <= left or bottom <= y0 or y1 <= top
        assert apart, f"{one['title']} covers a part of {other['title']}"


def ldm_run(*arguments: object) -> list[Image.Image]:
    """The pictures that `ldm run` makes, in the order of its output, which tells of checkpoints too."""
    told = CliRunner().invoke(app, ["run", *map(str, arguments)], catch_exceptions=False)
    assert told.exit_code == 0, told.output
    return [Image.open(line) for line in told.stdout.splitlines() if not line.endswith(".safetensors")]


def same_pixels(left: list[Image.Image], right: list[Image.Image]) -> bool:
    pairs = zip(left, right, strict=True)
    return all(np.array_equal(np.asarray(one), np.asarray(other)) for one, other in pairs)


def prompt_id(report: Path) -> str:
    (job,) = json.loads(report.read_text())["jobs"]
    return job["prompt_id"]


def cached_nodes(client: ComfyClient, report: Path) -> list[str]:
    """The nodes that the run of this report did not execute, since the host had their results."""
    entry = client.history(prompt_id(report))
    assert entry is not None
    (nodes,) = (data["nodes"] for kind, data in entry["status"]["messages"] if kind == "execution_cached")
    return nodes


def foreign(node: Mapping[str, Any], name: str, known: tuple[str, ...]) -> bool:
    """Whether a node names a file that does not come with the pack."""
    return isinstance(value := node["inputs"].get(name), str) and value not in known


@each
def test_both_formats_and_a_picture_run_and_give_the_same_pixels(path: Path, client: ComfyClient, tmp_path: Path):
    """As shipped, but for the steps, which are fewer, the real weights, which are not here, and a picture of ours."""
    prompt = json.loads((path.parent / "api" / path.name).read_text())
    sets = [f"{key}.steps=2" for key, node in prompt.items() if "steps" in node["inputs"]]
    sets += [f"{key}.checkpoint={DEMOS[0]}" for key, node in prompt.items() if foreign(node, "checkpoint", DEMOS)]
    (tmp_path / "own.png").write_bytes(sample_picture())
    sets += [f"{key}.image={tmp_path / 'own.png'}" for key, node in prompt.items() if foreign(node, "image", ())]
    options = ["--server", client.base_url, *(part for text in sets for part in ("--set", text))]
    options += ["--report", str(tmp_path / "report.json")]
    client.free()
    time.sleep(0.5)  # the host does it after its answer
    pictures = ldm_run(path.parent / "api" / path.name, "--out", tmp_path / "api", *options)
    assert cached_nodes(client, tmp_path / "report.json") == []
    files = client.outputs(prompt_id(tmp_path / "report.json"))  # previews too
    assert len(files) == FILES[path.stem]
    assert len(pictures) == sum(file.type == "output" for file in files)
    for node in prompt.values():
        if node["class_type"] == "LDMEmptyLatent":  # what the host makes of an empty latent differs between versions
            assert {picture.size for picture in pictures} == {(node["inputs"]["width"], node["inputs"]["height"])}
    for file in files:
        picture = Image.open(io.BytesIO(client.fetch(file)))
        assert np.ptp(np.asarray(picture.convert("L"))) > 32, f"{file.filename} is blank"
        if picture.format == "WEBP":
            frames = [node["inputs"]["frames"] for node in prompt.values() if "frames" in node["inputs"]]
            assert [getattr(picture, "n_frames", 1)] == frames
    client.free()  # the next run makes its own pixels
    assert same_pixels(ldm_run(path, "--out", tmp_path / "ui", *options), pictures)
    assert cached_nodes(client, tmp_path / "report.json") == []
    made = next((tmp_path / "api").glob("*.png"), None) or next((tmp_path / "api").glob("*.webp"))
    assert same_pixels(ldm_run(made, "--out", tmp_path / "made", "--server", client.base_url), pictures)


def test_images_carry_the_graph_in_the_editor_format_where_it_is_true(client: ComfyClient, tmp_path: Path):
    """For both formats; not with other values, for which ComfyUI rebuilds a graph from the prompt in the image."""
    graph = json.loads((PACK_ROOT / "workflows" / "demo.json").read_text())
    (sampler,) = (node for node in graph["nodes"] if node["type"] == "LDMDDIMSampler")
    sampler["widgets_values"][0] = 2
    (tmp_path / "api").mkdir()
    ui, api, options = tmp_path / "demo.json", tmp_path / "api" / "demo.json", ("--server", client.base_url)
    ui.write_text(json.dumps(graph))
    api.write_text(json.dumps(to_prompt(load_workflow(ui), client.object_info())))
    for source in (ui, api):
        (picture,) = ldm_run(source, "--out", tmp_path / source.parent.name, *options)
        assert json.loads(picture.info["workflow"]) == graph
        (again,) = ldm_run(str(getattr(picture, "filename")), "--out", tmp_path / "again", "--fresh", *options)  # noqa: B009
        assert json.loads(again.info["workflow"]) == graph
        for number, change in enumerate((["--seed", "8"], ["--set", "Noise to latent.steps=3"])):
            (changed,) = ldm_run(source, "--out", tmp_path / f"{source.parent.name}{number}", *change, *options)
            assert "workflow" not in changed.info
            assert json.loads(changed.info["prompt"]) != json.loads(picture.info["prompt"])
    prompt = json.loads(api.read_text())
    prompt["2"]["inputs"]["seed"] = 987
    api.write_text(json.dumps(prompt))  # its twin stays
    (changed,) = ldm_run(api, "--out", tmp_path / "edited", *options)
    assert '"seed": 987' in changed.info["prompt"]
    assert "workflow" not in changed.info


def test_a_sweep_and_a_table(client: ComfyClient, tmp_path: Path):
    """Every value with every row, under names that tell them."""
    table = tmp_path / "table.csv"
    table.write_text("Noise to latent.steps,seed\n2,5\n3,6\n")
    pictures = ldm_run(
        PACK_ROOT / "workflows" / "demo.json", "--sweep", "Noise to latent.eta=0|0.5", "--table", table,
        "--name", "{eta}/{steps:02}-{seed:03}", "--out", tmp_path / "out", "--server", client.base_url,
    )  # fmt: skip
    names = [Path(getattr(picture, "filename")).relative_to(tmp_path / "out") for picture in pictures]  # noqa: B009
    assert list(map(str, names)) == ["0/02-005.png", "0/03-006.png", "0.5/02-005.png", "0.5/03-006.png"]
    inputs = [json.loads(picture.info["prompt"])["3"]["inputs"] for picture in pictures]
    assert [(entry["eta"], entry["steps"]) for entry in inputs] == [(0, 2), (0, 3), (0.5, 2), (0.5, 3)]
