"""What a user sees when a run goes wrong, or is cancelled."""

import json
from typing import Any

from editor_hands import press_run, run, set_number, shown_image, wait_for_event
from editor_page import NEWER, Editor
from playwright.sync_api import Page

from ldm_headless import PACK_ROOT

LOADER, SAMPLER, SAVE = 1, 3, 5  # ids in the demo


def load_demo(editor: Editor, checkpoint: str = "portraits-128") -> None:
    """The demo with another checkpoint in its loader."""
    graph: dict[str, Any] = json.loads((PACK_ROOT / "workflows" / "demo.json").read_text())
    (loader,) = (node for node in graph["nodes"] if node["id"] == LOADER)
    loader["widgets_values"][0] = checkpoint
    editor.page.evaluate("(graph) => app.loadGraphData(graph)", graph)


def shown_error(page: Page) -> str:
    """What the editor tells of a failure: in a dialog, newer ones in a panel that a button opens."""
    button = page.get_by_test_id("error-overlay-see-errors")
    report = page.get_by_role("dialog").or_(page.get_by_test_id("runtime-error-panel"))
    button.or_(report).first.wait_for()
    if button.is_visible():
        button.click()
    report.get_by_text("No checkpoint named 'nowhere'").first.wait_for()
    return report.inner_text()


def test_a_missing_model_is_named_and_its_node_marked(editor: Editor) -> None:
    page = editor.page
    load_demo(editor, "nowhere")
    press_run(page)
    wait_for_event(page, "execution_error")
    text = shown_error(page)
    editor.screenshot("missing-model")
    assert "LDMCheckpointLoader" in text
    assert "portraits-128" in text  # what there is instead
    marked = """(color) => app.graph.nodes.filter((node) =>
      Object.values(node.strokeStyles ?? {}).some((style) => style.call(node)?.color === color)
    ).map((node) => Number(node.id))"""
    assert page.evaluate(marked, "#E00" if NEWER else "#f0f") == [LOADER]
    page.keyboard.press("Escape")
    page.get_by_role("dialog").wait_for(state="detached")

    set_number(page, SAMPLER, "steps", 3)
    page.evaluate(f"() => app.graph.getNodeById({LOADER}).widgets[0].value = 'portraits-128'")
    run(page)
    assert shown_image(page, SAVE)


def test_cancel_stops_within_a_step(editor: Editor) -> None:
    page = editor.page
    load_demo(editor)
    set_number(page, SAMPLER, "steps", 1000)
    press_run(page)
    page.wait_for_function("() => hostEvents.at(-1)?.detail.value >= 3", timeout=60_000)
    page.evaluate("() => performance.clearResourceTimings()")  # the browser keeps the first 250 only
    page.get_by_role("button", name="Cancel current run").click()
    wait_for_event(page, "execution_interrupted")
    answered = page.evaluate(
        "() => performance.getEntriesByType('resource').find(({name}) => name.endsWith('/interrupt')).responseEnd"
    )
    events = page.evaluate("() => hostEvents")
    assert events[-1]["kind"] == "execution_interrupted"
    assert sum(event["kind"] == "progress" and event["at"] > answered for event in events) <= 1
    assert max(event["detail"]["value"] for event in events if event["kind"] == "progress") < 500
    editor.screenshot("cancelled")
    assert page.get_by_role("dialog").count() == 0

    set_number(page, SAMPLER, "steps", 3)
    run(page)
    assert shown_image(page, SAVE)
