"""The template of texts in the editor: it is found, another text is typed over its own, and the portrait is of that."""

import numpy as np
from editor_hands import browse_templates, choose_template, pixels, run, set_number, shown_image
from editor_page import Editor

import ldm_backend
from ldm_headless import PACK_ROOT

_TITLED = "(title) => app.graph.nodes.find((node) => node.title === title).id"
_TEXT = "(id) => app.graph.getNodeById(id).widgets[0].value"
TEXT = "bald, full beard, glasses, yellow top"


def test_another_text_gives_another_portrait(editor: Editor) -> None:
    page = editor.page
    browse_templates(page)
    choose_template(page, "text-portrait")
    ids = {
        title: page.evaluate(_TITLED, title)
        for title in ("What to draw", "Noise for each seed", "Noise to latent", "Save portraits")
    }
    old = page.evaluate(_TEXT, ids["What to draw"])
    written = [area for area in page.locator("textarea").all() if area.is_visible() and area.input_value() == old]
    written[0].fill(TEXT)
    assert page.evaluate(_TEXT, ids["What to draw"]) == TEXT
    set_number(page, ids["Noise for each seed"], "batch_size", 1)
    set_number(page, ids["Noise to latent"], "steps", 6)
    run(page)
    made = pixels(shown_image(page, ids["Save portraits"])).astype(int)
    page.wait_for_timeout(300)  # the canvas draws at its own pace
    editor.screenshot("text-portrait-template")
    model = ldm_backend.load(PACK_ROOT / "demo" / "text-portraits-128", device="cpu")
    settings = {"sampler": "dpmpp_2m", "prompts": TEXT, "negative": "glasses", "cfg": 3.0}
    expected = ldm_backend.generate(model, seeds=[6], steps=6, grid="log_snr", **settings)[0]
    assert np.abs(made - expected.astype(int)).max() <= 1
