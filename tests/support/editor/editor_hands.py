"""What a user does in the editor with mouse and keyboard, and what is then to be seen."""

import base64
import io
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image
from playwright.sync_api import Page, TimeoutError

Wire = tuple[tuple[int, str], tuple[int, str]]  # from an output to an input: a node's id and the name of the slot

RUN_MS = 300_000
# Of frontend 1.32.9, and of 1.58.1.
_SEARCH = ".comfy-vue-node-search-container input, [role=search] input"
_FOUND = ".p-autocomplete-list li, #results-list [role=option]"
_IDS = "() => app.graph.nodes.map((node) => Number(node.id))"  # some editors have texts there
_POINT = """([id, x, y]) => {
  const {pos} = app.graph.getNodeById(id)
  return [...app.canvas.ds.convertOffsetToCanvas([pos[0] + x, pos[1] + y])]
}"""
_SLOT = """([id, isInput, name]) => {
  const node = app.graph.getNodeById(id)
  const slot = (isInput ? node.inputs : node.outputs).findIndex((one) => one.name === name)
  if (slot < 0) throw new Error(`node ${id} has no slot ${name}`)
  const [x, y] = node.getConnectionPos(isInput, slot)
  return [...app.canvas.ds.convertOffsetToCanvas([x, y])]
}"""
_WIDGET = """([id, name]) => {
  const node = app.graph.getNodeById(id)
  return [node.size[0] / 2, node.widgets.find((one) => one.name === name).y + 10]
}"""
_DROP = """([name, content]) => {
  const bytes = Uint8Array.from(atob(content), (one) => one.charCodeAt(0))
  const carried = new DataTransfer()
  carried.items.add(new File([bytes], name, {type: 'image/png'}))
  for (const kind of ['dragenter', 'dragover', 'drop'])
    app.canvas.canvas.dispatchEvent(new DragEvent(kind, {
      dataTransfer: carried, bubbles: true, cancelable: true, clientX: 800, clientY: 600
    }))
}"""


def new_workflow(page: Page) -> None:
    """An empty tab."""
    page.get_by_role("button", name="Create a new blank workflow").click()
    page.wait_for_function("() => app.graph.nodes.length === 0")


def add_node(page: Page, name: str, x: int, y: int) -> int:
    """Double-click the canvas, type a name, take the first node that is found; the new node's id."""
    before = page.evaluate(_IDS)
    for _ in range(5):  # a busy machine may take the two clicks for two
        page.mouse.dblclick(x, y)
        with suppress(TimeoutError):
            page.wait_for_selector(_SEARCH, timeout=5_000)
            break
    page.keyboard.type(name)
    page.wait_for_function(
        "([found, name]) => document.querySelector(found)?.innerText.split(/[\\xa0\\n]/)[0] === name",
        arg=[_FOUND, name],
    )
    page.locator(_FOUND).first.click()
    page.wait_for_function("(count) => app.graph.nodes.length === count + 1", arg=len(before))
    page.wait_for_selector(_SEARCH, state="detached")
    (added,) = (one for one in page.evaluate(_IDS) if one not in before)
    if page.evaluate("(id) => app.graph.getNodeById(id).flags.ghost", added):  # it hangs on the mouse, by its middle
        page.mouse.move(x + 120, y)
        page.mouse.click(x + 120, y)
        page.wait_for_function("(id) => !app.graph.getNodeById(id).flags.ghost", arg=added)
    return added


def wire(page: Page, source: tuple[int, str], target: tuple[int, str]) -> None:
    """Drag from an output to an input, each a node's id and the name of the slot."""
    start = page.evaluate(_SLOT, [source[0], False, source[1]])
    end = page.evaluate(_SLOT, [target[0], True, target[1]])
    page.mouse.move(*start)
    page.mouse.down()
    page.mouse.move(*end, steps=8)
    page.mouse.up()


def link_of(page: Page, node: int, name: str) -> list[Any] | None:
    """Node and output that an input gets its value from."""
    return page.evaluate(
        """([id, name]) => {
          const {link} = app.graph.getNodeById(id).inputs.find((one) => one.name === name)
          const found = link == null ? null : app.graph.links.get(link)
          const {name: output} = found ? app.graph.getNodeById(found.origin_id).outputs[found.origin_slot] : {}
          return found && [Number(found.origin_id), output]
        }""",
        [node, name],
    )


def set_number(page: Page, node: int, name: str, value: float) -> None:
    """Click a number, type another."""
    page.mouse.click(*page.evaluate(_POINT, [node, *page.evaluate(_WIDGET, [node, name])]))
    field = page.locator(".graphdialog input")
    field.fill(str(value))
    field.press("Enter")
    page.wait_for_function(
        "([id, name, value]) => app.graph.getNodeById(id).widgets.find((one) => one.name === name).value === value",
        arg=[node, name, value],
    )


def choose(page: Page, node: int, name: str, value: str) -> None:
    """Click a list, then what is in it."""
    page.mouse.click(*page.evaluate(_POINT, [node, *page.evaluate(_WIDGET, [node, name])]))
    page.locator(".litecontextmenu .litemenu-entry").get_by_text(value, exact=True).click()
    page.wait_for_function(
        "([id, name, value]) => app.graph.getNodeById(id).widgets.find((one) => one.name === name).value === value",
        arg=[node, name, value],
    )


def click_title(page: Page, node: int) -> None:
    """Select a node."""
    page.mouse.click(*page.evaluate(_POINT, [node, 60, -12]))


def press_run(page: Page) -> None:
    """Press the Run button."""
    page.get_by_role("button", name="Run", exact=True).first.click()  # newer editors call the menu beside it so, too


def wait_for_event(page: Page, kind: str, start: int = 0) -> None:
    """Wait for an event of the host, after the first `start` ones."""
    page.wait_for_function(
        "([kind, start]) => hostEvents.slice(start).some((event) => event.kind === kind)",
        arg=[kind, start],
        timeout=RUN_MS,
    )


def run(page: Page) -> None:
    """Press Run and wait until the host has done everything."""
    start = page.evaluate("() => hostEvents.length")
    press_run(page)
    page.wait_for_function(
        "(start) => hostEvents.slice(start).some((event) => event.kind !== 'progress')", arg=start, timeout=RUN_MS
    )
    last = page.evaluate("() => hostEvents.at(-1)")
    assert last["kind"] == "execution_success", last


def shown_image(page: Page, node: int) -> bytes:
    """The file of the picture that a node shows, once the browser has drawn it."""
    shown = page.wait_for_function(
        "(id) => {const img = app.graph.getNodeById(id).imgs?.[0]; return img?.naturalWidth && img.src}", arg=node
    )
    return httpx.get(shown.json_value(), trust_env=False).raise_for_status().content


def pixels(png: bytes | Path) -> np.ndarray:
    """The levels of a picture."""
    with Image.open(io.BytesIO(png) if isinstance(png, bytes) else png) as image:
        return np.asarray(image.convert("RGB")).astype(int)


def save_as(page: Page, name: str) -> None:
    """Ctrl+S, a name, Enter."""
    page.keyboard.press("Control+s")
    page.get_by_role("dialog").get_by_role("textbox").fill(name)
    page.keyboard.press("Enter")
    page.wait_for_function("() => !app.extensionManager.workflow.activeWorkflow.isModified")


def open_saved(page: Page, name: str) -> None:
    """Choose a workflow in the side bar."""
    page.keyboard.press("w")
    page.get_by_text(re.compile(rf"^{re.escape(name)}(\.json)?$")).click()  # newer editors leave the ending out
    page.wait_for_function(f"() => app.extensionManager.workflow.activeWorkflow.path === 'workflows/{name}.json'")


def export_api(page: Page, path: Path) -> None:
    """File > Export (API), to a file."""
    page.locator(".comfy-menu-button-wrapper, [data-testid=comfy-menu-button]").first.click()
    page.get_by_text("File", exact=True).hover()
    page.get_by_text("Export (API)", exact=True).click()
    page.get_by_role("dialog").get_by_role("textbox").fill(path.stem)
    with page.expect_download() as download:
        page.keyboard.press("Enter")
    assert download.value.suggested_filename == path.name
    download.value.save_as(path)


def drop_picture(page: Page, name: str, content: bytes) -> None:
    """Drop a picture onto the canvas."""
    page.evaluate(_DROP, [name, base64.b64encode(content).decode()])


def graph_of(page: Page) -> dict[str, Any]:
    """Nodes and links as a saved workflow holds them, without what only says where the user looks."""
    saved = page.evaluate("() => app.graph.serialize()")
    # Read from a file, a node without widgets has an empty list of values; made by hand, it has none.
    return {"nodes": [{"widgets_values": [], **node} for node in saved["nodes"]], "links": saved["links"]}


def place_nodes(page: Page, places: Mapping[str, tuple[int, int]]) -> None:
    """Nodes by their names, found by search, in a new workflow; they are numbered from 1 in this order."""
    new_workflow(page)
    numbers = [add_node(page, name, *place) for name, place in places.items()]
    assert numbers == list(range(1, len(places) + 1))


def wire_all(page: Page, wires: Sequence[Wire]) -> None:
    """Each by dragging."""
    for source, target in wires:
        wire(page, source, target)
        assert link_of(page, *target) == list(source)


def browse_templates(page: Page) -> None:
    """Open the template browser at the pack's templates."""
    page.get_by_role("button", name="Templates", exact=True).click()
    page.get_by_role("dialog").get_by_text("comfyui-ldm", exact=True).click()


def choose_template(page: Page, name: str) -> None:
    """Open a template, and wait until the browser of templates is gone."""
    template, shown = (
        page.get_by_test_id(f"template-workflow-{name}"),
        page.get_by_test_id("template-workflows-content"),
    )
    shown.locator("[data-testid^=template-workflow-]").first.wait_for()
    for _ in range(20):  # it shows 24, and more when one scrolls down
        if template.count():
            break
        shown.hover()
        page.mouse.wheel(0, 2000)
        page.wait_for_timeout(200)
    template.click()
    # The editor numbers the tabs of a template that is opened again.
    page.wait_for_function(
        "(name) => app.extensionManager.workflow.activeWorkflow.path.startsWith(`workflows/${name}`)", arg=name
    )
    page.get_by_test_id("template-workflows-content").wait_for(state="detached")
