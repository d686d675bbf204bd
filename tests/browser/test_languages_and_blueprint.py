"""The pack in Chinese and Japanese, and its blueprint, as the editor shows them."""

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from editor_hands import add_node
from editor_page import Editor, exported, first_difference, titled
from playwright.sync_api import Browser, Page

from ldm_headless import PACK_ROOT, PrivateHost
from ldm_headless.ui_format.export import export_prompt

# Frontend 1.32.9 fetches the texts of all packs first, then puts its own in their place; 1.58.1 keeps both.
KEEPS_TEXTS = (1, 58)
_SHOWN = """(type) => {
  const node = LiteGraph.createNode(type)
  return {
    title: node.title,
    category: LiteGraph.registered_node_types[type].category,
    widgets: Object.fromEntries((node.widgets ?? []).map((widget) => [widget.name, widget.label])),
    outputs: node.outputs.map((output) => output.label ?? output.localized_name ?? output.name),
  }
}"""


@pytest.fixture(params=["zh", "ja"])
def foreign(request: pytest.FixtureRequest, browser: Browser, host: PrivateHost) -> Iterator[tuple[str, Page]]:
    """The editor in another language, and back to English afterwards."""

    def speak(language: str) -> None:
        settings = {"Comfy.Locale": language}
        httpx.post(f"{host.url}/api/settings", json=settings, trust_env=False).raise_for_status()

    speak(request.param)
    page = Editor(browser, host.url, PACK_ROOT / "output" / "browser").page
    version = page.evaluate("() => window.__COMFYUI_FRONTEND_VERSION__")
    try:
        if tuple(map(int, version.split(".")[:2])) < KEEPS_TEXTS:
            pytest.skip(f"frontend {version} loads a language over the texts of the packs")
        yield request.param, page
    finally:
        page.context.close()
        speak("en")


def test_nodes_speak_the_language(foreign: tuple[str, Page]) -> None:
    """Titles, widgets, outputs and categories; what a saved graph holds stays what it was."""
    language, page = foreign
    folder = PACK_ROOT / "locales" / language
    texts: dict[str, Any] = json.loads((folder / "nodeDefs.json").read_text(encoding="utf-8"))
    categories = json.loads((folder / "main.json").read_text(encoding="utf-8"))["nodeCategories"]
    shown = {node_id: page.evaluate(_SHOWN, node_id) for node_id in texts}
    assert {node_id: node["title"] for node_id, node in shown.items()} == {
        node_id: text["display_name"] for node_id, text in texts.items()
    }
    for node_id, node in shown.items():
        assert node["category"].split("/")[0] == categories["latent diffusion"]
        names = texts[node_id].get("inputs", {})
        assert {name: label for name, label in node["widgets"].items() if name in names and label} == {
            name: names[name]["name"] for name in node["widgets"] if name in names
        }
    assert shown["LDMCodeView"]["outputs"][0] == texts["LDMCodeView"]["outputs"]["0"]["name"]
    graph = json.loads((PACK_ROOT / "workflows" / "demo.json").read_text())
    theirs, _ = exported(page, graph)
    assert theirs == json.loads((PACK_ROOT / "workflows" / "api" / "demo.json").read_text())


@pytest.mark.parametrize(
    ("name", "inputs", "count"),
    [
        ("LDM portrait", ["checkpoint", "seed", "width", "height", "batch_size", "steps"], 5),
        ("LDM remove", ["image", "mask", "checkpoint", "seed", "steps"], 5),
        (
            "LDM text portrait",
            ["text", "negative", "checkpoint", "seed", "width", "height", "batch_size", "steps", "cfg"],
            7,
        ),
        ("LDM upscale", ["image", "checkpoint", "seed", "steps", "tile"], 4),
    ],
)
def test_blueprint_is_found_placed_and_exported(
    page: Page, object_info: dict[str, Any], name: str, inputs: list[str], count: int
) -> None:
    """By search, as any node; between two others it is a whole graph, which our conversion reads as the editor does."""
    page.evaluate("() => app.graph.clear()")
    add_node(page, name, 400, 300)
    graph = page.evaluate(
        """() => {
          const [placed] = app.graph.nodes
          const preview = LiteGraph.createNode('PreviewImage')
          app.graph.add(preview)
          placed.connect(0, preview, 0)
          const picture = placed.inputs.findIndex((input) => input.type === 'IMAGE')
          if (picture >= 0) {
            const grey = LiteGraph.createNode('EmptyImage')
            app.graph.add(grey)
            grey.connect(0, placed, picture)
          }
          const hole = placed.inputs.findIndex((input) => input.type === 'MASK')
          if (hole >= 0) {
            const white = LiteGraph.createNode('SolidMask')
            app.graph.add(white)
            white.connect(0, placed, hole)
          }
          return JSON.parse(JSON.stringify(app.graph.serialize()))
        }"""
    )
    (subgraph,) = graph["definitions"]["subgraphs"]
    (placed,) = (node for node in graph["nodes"] if node["type"] == subgraph["id"])
    assert subgraph["name"] == name
    assert [slot["name"] for slot in placed["inputs"]] == inputs
    theirs, titles = exported(page, graph)
    assert len(theirs) == count
    assert first_difference(export_prompt(graph, titled(object_info, titles), "graph"), theirs) == ""
