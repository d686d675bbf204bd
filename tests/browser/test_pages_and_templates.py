"""What the pack shows of itself: a help page for each node, and its templates."""

import re
from pathlib import Path

import pytest
from editor_hands import browse_templates, choose_template, click_title
from editor_page import Editor
from playwright.sync_api import Browser

from ldm_headless import PACK_ROOT, PrivateHost

PAGES = sorted((PACK_ROOT / "web" / "docs").glob("*.md"))
TEMPLATES = sorted(path.stem for path in (PACK_ROOT / "workflows").glob("*.json"))
# What is ugly: nodes that lie on each other or are too small, links to the left, nodes below the editor's own bars.
_LAYOUT = """() => {
  const nodes = app.graph.nodes.map(({title, pos, size}) => ({
    title, left: pos[0], top: pos[1] - LiteGraph.NODE_TITLE_HEIGHT, right: pos[0] + size[0], bottom: pos[1] + size[1]
  }))
  const overlapping = nodes.flatMap((a, index) => nodes.slice(index + 1)
    .filter((b) => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom)
    .map((b) => [a.title, b.title]))
  const backward = [...app.graph.links.values()]
    .map((link) => [app.graph.getNodeById(link.origin_id), app.graph.getNodeById(link.target_id)])
    .filter(([from, to]) => from.pos[0] + from.size[0] > to.pos[0])
    .map(([from, to]) => [from.title, to.title])
  const clipped = app.graph.nodes
    .filter((node) => node.computeSize().some((least, axis) => node.size[axis] < least))
    .map((node) => [node.title, [...node.size], [...node.computeSize()]])
  const place = app.canvas.canvas.getBoundingClientRect()
  const covered = nodes.filter(({left, top}) => {
    const [x, y] = app.canvas.ds.convertOffsetToCanvas([left, top])
    return document.elementFromPoint(place.left + x, place.top + y) !== app.canvas.canvas
  }).map(({title}) => title)
  return {overlapping, backward, clipped, covered}
}"""


def test_faults_are_noted(browser: Browser, host: PrivateHost, tmp_path: Path) -> None:
    """What every other test relies on."""
    editor = Editor(browser, host.url, tmp_path)
    editor.page.evaluate("() => fetch('/extensions/comfyui-ldm/docs/images/absent.jpg')")
    editor.page.evaluate("() => console.error('LDM is wrong')")
    with pytest.raises(AssertionError, match=r"404 for .*/absent\.jpg\nconsole: LDM is wrong"):
        editor.close()


def test_every_node_has_a_page(object_info: dict[str, dict[str, str]]) -> None:
    ours = {name for name, node in object_info.items() if node["python_module"] == "custom_nodes.comfyui-ldm"}
    assert ours == {path.stem for path in PAGES}


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_help_page(shared_editor: Editor, path: Path) -> None:
    page = shared_editor.page
    button = page.get_by_test_id("info-button")
    page.evaluate("() => {app.canvas.deselectAll(); app.graph.clear()}")
    button.wait_for(state="hidden")  # that of the node before would close the panel
    # Each elsewhere: two clicks at one place within a moment are a double click, which edits the title.
    place = [500 + 40 * (PAGES.index(path) % 5), 250 + 40 * (PAGES.index(path) // 5)]
    node = page.evaluate(
        """([type, pos]) => {
          const node = LiteGraph.createNode(type)
          node.pos = pos
          app.graph.add(node)
          app.canvas.draw(true, true)  // only what has been drawn can be clicked
          return node.id
        }""",
        [path.stem, place],
    )
    click_title(page, node)
    button.click()
    source = path.read_text()
    title = source.splitlines()[0].removeprefix("# ")
    content = page.locator(".node-help-content")
    content.locator("h1", has_text=re.compile(f"^{re.escape(title)}$")).wait_for()
    assert content.locator("table").count() == len(re.findall(r"^\|(?: ?:?-+:? ?\|)+$", source, re.M))
    pictures = content.locator("img")
    assert pictures.count() == len(re.findall(r"!\[|<img", source))
    for picture in pictures.all():
        assert picture.evaluate("async (img) => {await img.decode(); return img.naturalWidth}") > 0
    shared_editor.screenshot(f"help-{path.stem}")


@pytest.mark.parametrize("name", TEMPLATES)
def test_template(shared_editor: Editor, name: str) -> None:
    """Opens without a warning, with its thumbnail; nodes beside each other, links from left to right."""
    page = shared_editor.page
    for setting in ("Comfy.Workflow.ShowMissingNodesWarning", "Comfy.Workflow.ShowMissingModelsWarning"):
        page.evaluate("(id) => app.extensionManager.setting.set(id, true)", setting)
    browse_templates(page)
    choose_template(page, name)
    page.wait_for_timeout(300)  # a warning would come after the graph
    shared_editor.screenshot(f"template-{name}")
    assert page.get_by_role("dialog").count() == 0
    layout = page.evaluate(_LAYOUT)
    assert layout == {"overlapping": [], "backward": [], "clipped": [], "covered": []}
