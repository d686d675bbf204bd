"""Guidance in the editor: the templates, and a guide put into a chain by hand, on the demo weights."""

import numpy as np
import pytest
from editor_hands import (
    add_node,
    browse_templates,
    choose_template,
    link_of,
    pixels,
    run,
    set_number,
    shown_image,
    wire,
)
from editor_page import Editor

_TITLED = "(title) => Number(app.graph.nodes.find((node) => node.title === title).id)"
_FIRST = "(type) => Number(app.graph.nodes.find((node) => node.type === type).id)"


def opened(editor: Editor, template: str) -> None:
    """The template with fewer steps."""
    page = editor.page
    browse_templates(page)
    choose_template(page, template)
    set_number(page, page.evaluate(_FIRST, "LDMSigmas"), "steps", 6)


@pytest.mark.parametrize("template", ["guided-restore", "guided-colourise", "guided-repair", "guided-style"])
def test_a_template_draws(editor: Editor, template: str) -> None:
    page = editor.page
    opened(editor, template)
    run(page)
    picture = pixels(shown_image(page, page.evaluate(_FIRST, "SaveImage")))
    page.wait_for_timeout(300)  # the canvas draws at its own pace
    editor.screenshot(template)
    assert picture.shape == (128, 128, 3)
    assert np.ptp(picture) > 128
    assert page.get_by_role("dialog").count() == 0


def test_a_guide_joined_to_the_chain_by_hand(editor: Editor) -> None:
    """The restored picture agrees with what its guide shows; with a colour wired in before it, it is another one."""
    page = editor.page
    opened(editor, "guided-restore")
    run(page)
    saver = page.evaluate(_FIRST, "SaveImage")
    before = pixels(shown_image(page, saver)).astype(int)
    seen = pixels(shown_image(page, page.evaluate(_TITLED, "Seen by the guide"))).astype(int)
    assert np.abs(before.reshape(32, 4, 32, 4, 3).mean((1, 3)) - seen[::4, ::4]).mean() < 6.0
    colour = add_node(page, "LDM Guide: Colour", 160, 620)
    known = page.evaluate(_FIRST, "LDMGuideLowResolution")
    wire(page, (colour, "LDM_GUIDES"), (known, "guides"))
    assert link_of(page, known, "guides") == [colour, "LDM_GUIDES"]
    old = page.evaluate("(id) => app.graph.getNodeById(id).imgs[0].src", saver)
    run(page)
    page.wait_for_function(
        "([id, old]) => ![undefined, old].includes(app.graph.getNodeById(id).imgs?.[0]?.src)", arg=[saver, old]
    )
    assert np.abs(pixels(shown_image(page, saver)).astype(int) - before).max() > 1
