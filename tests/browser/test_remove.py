"""Something taken out of a picture in the editor: built by hand, and the template, on the demo weights."""

import io

import numpy as np
import pytest
from editor_hands import (
    browse_templates,
    choose,
    choose_template,
    pixels,
    place_nodes,
    run,
    set_number,
    shown_image,
    wire_all,
)
from editor_page import Editor
from PIL import Image

import ldm_backend
from ldm_headless import PACK_ROOT, ComfyClient, PrivateHost

PICTURE = "removal.png"  # not that of other tests: the host keeps both
HOLE = np.zeros((128, 128), bool)
HOLE[48:82, 32:100] = True
LOADER, LOAD, REMOVE, SAVE = range(1, 5)
WIRES = [
    ((LOADER, "MODEL"), (REMOVE, "model")),
    ((LOADER, "VAE"), (REMOVE, "vae")),
    ((LOAD, "IMAGE"), (REMOVE, "image")),
    ((LOAD, "MASK"), (REMOVE, "mask")),
    ((REMOVE, "IMAGE"), (SAVE, "images")),
]
_TITLED = "(title) => Number(app.graph.nodes.find((node) => node.title === title).id)"


@pytest.fixture(scope="module")
def portrait(host: PrivateHost) -> np.ndarray:
    """A portrait among the inputs of the host, transparent where the hole is, as the mask editor leaves it."""
    picture = np.array(Image.open(PACK_ROOT / "workflows" / "demo.jpg").convert("RGB").resize((128, 128)))
    file = io.BytesIO()
    Image.fromarray(np.dstack([picture, np.where(HOLE, 0, 255).astype(np.uint8)])).save(file, "PNG")
    with ComfyClient(host.url) as client:
        client.upload(PICTURE, file.getvalue())
    return picture


def test_removal_built_by_hand(portrait: np.ndarray, editor: Editor) -> None:
    """Placed, wired by dragging and run; what is kept is kept to the bit, and the hole is that of the backend."""
    page = editor.page
    places = {
        "LDM Checkpoint Loader": (160, 200),
        "Load Image": (160, 500),
        "LDM Inpaint Model": (660, 250),
        "Save Image": (1160, 250),
    }
    place_nodes(page, places)
    choose(page, LOADER, "checkpoint", "inpainter-128")
    choose(page, LOAD, "image", PICTURE)
    wire_all(page, WIRES)
    set_number(page, REMOVE, "seed", 5)
    set_number(page, REMOVE, "steps", 4)
    run(page)
    made = pixels(shown_image(page, SAVE)).astype(int)
    page.wait_for_timeout(300)  # the canvas draws at its own pace
    editor.screenshot("remove-by-hand")
    model = ldm_backend.load(PACK_ROOT / "demo" / "inpainter-128", device="cpu")
    expected = ldm_backend.inpaint(model, portrait[None], HOLE, seeds=[5], steps=4)[0]
    assert np.array_equal(made[~HOLE], portrait[~HOLE])
    assert np.abs(made - expected.astype(int)).max() <= 1


@pytest.mark.parametrize(
    ("template", "sampler"), [("remove", "Remove it"), ("remove-ksampler", "Noise to latent of the whole")]
)
def test_the_templates_remove_the_glasses(editor: Editor, template: str, sampler: str) -> None:
    page = editor.page
    browse_templates(page)
    choose_template(page, template)
    set_number(page, page.evaluate(_TITLED, sampler), "steps", 4)
    run(page)
    before, after = (
        pixels(shown_image(page, page.evaluate(_TITLED, title))).astype(int) for title in ("Portrait", "Save portrait")
    )
    page.wait_for_timeout(300)
    editor.screenshot(f"{template}-template")
    changed = np.abs(after - before).max(-1) > 0
    rows, columns = np.nonzero(changed)
    assert rows.min() >= 48
    assert rows.max() < 82
    assert columns.min() >= 32
    assert columns.max() < 100
    assert changed[48:82, 32:100].mean() > 0.8
    assert page.get_by_role("dialog").count() == 0
