"""ComfyUI's editor in a real browser: open it, and ask it for the prompt of a graph."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
from playwright.sync_api import Browser, ConsoleMessage, Page

from ldm_headless import find_host
from ldm_headless.errors import HostError
from ldm_headless.ui_format.editors import MARK

PINNED = "comfyui-frontend-package==1.32.9"


def _is_newer() -> bool:
    """Whether this is another editor than the pinned one: FRONTEND_ROOT names one, or the host has one of its own."""
    try:
        return "FRONTEND_ROOT" in os.environ or PINNED not in (find_host().path / "requirements.txt").read_text()
    except (HostError, OSError):
        return False  # whoever needs the host will say so


# It has places and faults of its own.
NEWER = _is_newer()
READY = "() => !!(window.app && window.LiteGraph && window.LiteGraph.registered_node_types['LDMCheckpointLoader'])"
# What would stand in front of the graph at a first visit.
_QUIET = {
    "Comfy.TutorialCompleted": True,
    "Comfy.Minimap.Visible": False,
    "Comfy.Workflow.ShowMissingNodesWarning": False,
    "Comfy.Workflow.ShowMissingModelsWarning": False,
}
# Before it asks for docs/<id>.md, the editor asks for docs/<id>/<language>.md, which a pack need not have.
_OPTIONAL = re.compile(r"/docs/\w+/[\w-]+\.md$")
# What the browser says about requests, which are counted themselves; those to other servers are blocked by the host.
_SAID_OF_REQUESTS = ("Failed to load resource", "violates the following Content Security Policy")
# The events of the host, with the browser's clock, since the page was opened.
_KEEP_EVENTS = """() => {
  window.hostEvents = []
  for (const kind of ['progress', 'execution_success', 'execution_error', 'execution_interrupted'])
    app.api.addEventListener(kind, (event) => hostEvents.push({kind, at: performance.now(), detail: event.detail}))
}"""
_EXPORT = """async (graph) => {
  await app.loadGraphData(graph)
  const {output} = await app.graphToPrompt()
  const types = Object.values(output).map((node) => node.class_type)
  const titles = types.map((type) => [type, LiteGraph.registered_node_types[type].title])
  return JSON.parse(JSON.stringify({output, titles: Object.fromEntries(titles)}))  // as it is sent
}"""


class Editor:
    """A page of the editor, as a visitor without history sees it, with the pack's nodes loaded and no dialog open.

    Attributes:
        page: For what a user does.
        screenshots: Folder that they go to.
        faults: What no test may cause: errors of the page, and requests for the pack's files that failed. While it
            loads, only errors that name the pack: the editor has errors of its own then. The same of a newer
            editor than the host's: it asks for what that host does not have.
    """

    def __init__(self, browser: Browser, url: str, screenshots: Path) -> None:
        httpx.post(f"{url}/api/settings", json=_QUIET, trust_env=False).raise_for_status()
        self.faults: list[str] = []
        self._is_quiet = False
        self.screenshots = screenshots
        self.page = browser.new_context(viewport={"width": 1600, "height": 900}).new_page()
        self.page.on("console", self._note_console)
        self.page.on("pageerror", lambda error: self._note_error(f"uncaught: {error.stack or error}"))
        self.page.on("response", lambda response: self._note_request(response.url, response.status))
        self.page.goto(url)
        self.page.wait_for_function(READY, timeout=180_000)
        self._is_quiet = not NEWER
        self.page.evaluate(_KEEP_EVENTS)
        self.page.keyboard.press("Escape")

    def close(self) -> None:
        """Close the page.

        Raises:
            AssertionError: It had faults.
        """
        self.page.context.close()
        if self.faults:
            raise AssertionError("\n".join(self.faults))

    def screenshot(self, name: str) -> None:
        """Keep what the user sees, for people to look at."""
        self.screenshots.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=self.screenshots / f"{name}.png")

    def _note_console(self, message: ConsoleMessage) -> None:
        of_request = any(text in message.text for text in _SAID_OF_REQUESTS)
        if message.type == "error" and not of_request:
            self._note_error(f"console: {message.text}")

    def _note_error(self, text: str) -> None:
        if self._is_quiet or "ldm" in text.lower():
            self.faults.append(text)

    def _note_request(self, url: str, status: int) -> None:
        if "/comfyui-ldm/" in url and status >= 400 and not _OPTIONAL.search(url):
            self.faults.append(f"{status} for {url}")


def exported(page: Page, graph: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
    """What Export (API) gives for a graph, and the titles that the editor gives to nodes without one."""
    answer = page.evaluate(_EXPORT, graph)
    return answer["output"], answer["titles"]


def titled(object_info: Mapping[str, Any], titles: Mapping[str, str]) -> dict[str, Any]:
    """The descriptions with the editor's titles: it translates some display names, even into English.

    And with what tells that the editor is one of today, which a host with another editor than its own does not know.
    """
    mark = {MARK: False} if NEWER else {}
    known = {kind: {**mark, **entry} for kind, entry in object_info.items()}
    return {**known, **{kind: {**known[kind], "display_name": title} for kind, title in titles.items()}}


def as_saved(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> Mapping[str, Any]:
    """An export with the numbers that nodes have in the file, and without notes on packs.

    Newer editors give a node of a subgraph another number when they open a file in which two graphs use the same one,
    and write the pack of a node beside its title. Numbers are matched by the places of nodes, and only where the types
    and the depths agree.
    """
    if len(ours) != len(theirs):
        return theirs
    numbers = dict(zip(theirs, ours, strict=True))
    if any(theirs[its]["class_type"] != ours[our]["class_type"] for its, our in numbers.items()):
        return theirs
    if any(its.count(":") != our.count(":") or (":" not in its and its != our) for its, our in numbers.items()):
        return theirs

    def moved(value: Any) -> Any:
        return [numbers.get(value[0], value[0]), *value[1:]] if isinstance(value, list) else value

    return {
        numbers[number]: {
            **node,
            "inputs": {name: moved(value) for name, value in node["inputs"].items()},
            "_meta": {"title": node["_meta"]["title"]},
        }
        for number, node in theirs.items()
    }


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
