"""ComfyUI's editor in a real browser: open it, and ask it for the prompt of a graph."""

from collections.abc import Mapping
from typing import Any

import httpx
from playwright.sync_api import Browser, Page

READY = "() => !!(window.app && window.LiteGraph && window.LiteGraph.registered_node_types['LDMCheckpointLoader'])"
# What would stand in front of the graph at a first visit.
_QUIET = {
    "Comfy.TutorialCompleted": True,
    "Comfy.Minimap.Visible": False,
    "Comfy.Workflow.ShowMissingNodesWarning": False,
    "Comfy.Workflow.ShowMissingModelsWarning": False,
}
_EXPORT = """async (graph) => {
  await app.loadGraphData(graph)
  const {output} = await app.graphToPrompt()
  const types = Object.values(output).map((node) => node.class_type)
  const titles = types.map((type) => [type, LiteGraph.registered_node_types[type].title])
  return {output, titles: Object.fromEntries(titles)}
}"""


def open_editor(browser: Browser, url: str) -> Page:
    """A page of the editor, as a visitor without history sees it, with the pack's nodes loaded and no dialog open."""
    httpx.post(f"{url}/api/settings", json=_QUIET, trust_env=False).raise_for_status()
    page = browser.new_context().new_page()
    page.goto(url)
    page.wait_for_function(READY, timeout=180_000)
    page.keyboard.press("Escape")
    return page


def exported(page: Page, graph: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """What Export (API) gives for a graph, and the titles that the editor gives to nodes without one."""
    answer = page.evaluate(_EXPORT, graph)
    return answer["output"], answer["titles"]


def titled(object_info: Mapping[str, Any], titles: Mapping[str, str]) -> dict[str, Any]:
    """The descriptions with the editor's titles: it translates some display names, even into English."""
    return {**object_info, **{kind: {**object_info[kind], "display_name": title} for kind, title in titles.items()}}


def types_of(graph: Mapping[str, Any]) -> set[str]:
    """The node types of a graph and its subgraphs, without those of the editor alone."""
    subgraphs = (graph.get("definitions") or {}).get("subgraphs") or []
    own = {"Note", "MarkdownNote", "Reroute", "PrimitiveNode", *(subgraph["id"] for subgraph in subgraphs)}
    return {node["type"] for part in (graph, *subgraphs) for node in part["nodes"]} - own


def first_difference(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    """Where two prompts part, order included; empty when they do not."""
    if list(ours) != list(theirs):
        return f"nodes {list(ours)}, the editor has {list(theirs)}"
    for node_id, node in ours.items():
        other = theirs[node_id]
        mine, its = list(node["inputs"].items()), list(other["inputs"].items())
        for one, another in (*zip(mine, its, strict=False), (mine, its), (node, other)):
            if one != another:
                return f"node {node_id}: {one}, the editor has {another}"
    return ""
