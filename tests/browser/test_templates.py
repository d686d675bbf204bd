"""Templates open as they should look."""

import pytest
from editor_hands import browse_templates, choose_template
from editor_page import NEWER, Editor

from ldm_headless import PACK_ROOT

TEMPLATES = sorted(path.stem for path in (PACK_ROOT / "workflows").glob("*.json"))
_BARS = 100 if NEWER else 130  # pixels from the top
# What is ugly: nodes that lie on each other or are too small, links to the left, nodes below the editor's own bars.
_LAYOUT = """(bars) => {
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
  const covered = nodes
    .filter(({left, top}) => ((x, y) => x < 70 || y < bars)(...app.canvas.ds.convertOffsetToCanvas([left, top])))
    .map(({title}) => title)
  return {overlapping, backward, clipped, covered}
}"""


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
    layout = page.evaluate(_LAYOUT, _BARS)
    assert layout == {"overlapping": [], "backward": [], "clipped": [], "covered": []}
