"""A help page for each node, as the editor shows it."""

import re
from pathlib import Path

import pytest
from editor_hands import click_title
from editor_page import NEWER, Editor
from playwright.sync_api import Browser

from ldm_headless import PACK_ROOT, PrivateHost

PAGES = sorted((PACK_ROOT / "web" / "docs").glob("*.md"))


def test_faults_are_noted(browser: Browser, host: PrivateHost, tmp_path: Path) -> None:
    """What every other test relies on."""
    editor = Editor(browser, host.url, tmp_path)
    editor.page.evaluate("() => fetch('/extensions/comfyui-ldm/docs/images/absent.jpg')")
    error = "ldm is wrong" if NEWER else "wrong"
    editor.page.evaluate("(error) => console.error(error)", error)
    with pytest.raises(AssertionError, match=rf"404 for .*/absent\.jpg\nconsole: {error}"):
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
