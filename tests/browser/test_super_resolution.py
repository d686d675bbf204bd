"""Pictures four times as large: a graph built by hand, and the templates, on the demo weights."""

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

PICTURE = "example.png"  # what the template names
LOADER, LOAD, ENLARGE, SAVE = range(1, 5)
WIRES = [
    ((LOADER, "MODEL"), (ENLARGE, "model")),
    ((LOADER, "VAE"), (ENLARGE, "vae")),
    ((LOAD, "IMAGE"), (ENLARGE, "image")),
    ((ENLARGE, "IMAGE"), (SAVE, "images")),
]
_FIRST = "(type) => Number(app.graph.nodes.find((node) => node.type === type).id)"


@pytest.fixture(scope="module")
def small(host: PrivateHost) -> np.ndarray:
    """A portrait of 64 x 48 pixels among the inputs of the host."""
    portrait = Image.open(PACK_ROOT / "workflows" / "demo.jpg").convert("RGB").resize((64, 64)).crop((0, 8, 64, 56))
    file = io.BytesIO()
    portrait.save(file, "PNG")
    with ComfyClient(host.url) as client:
        client.upload(PICTURE, file.getvalue())
    return np.array(portrait)


def test_super_resolution_built_by_hand(small: np.ndarray, editor: Editor) -> None:
    """Placed, wired by dragging and run; the picture is that of the backend."""
    page = editor.page
    places = {
        "LDM Checkpoint Loader": (160, 200),
        "Load Image": (160, 500),
        "LDM Super-Resolution": (660, 250),
        "Save Image": (1160, 250),
    }
    place_nodes(page, places)
    choose(page, LOADER, "checkpoint", "upscaler-4x")
    choose(page, LOAD, "image", PICTURE)
    wire_all(page, WIRES)
    set_number(page, ENLARGE, "seed", 5)
    set_number(page, ENLARGE, "steps", 4)
    run(page)
    made = pixels(shown_image(page, SAVE))
    page.wait_for_timeout(300)  # the canvas draws at its own pace
    editor.screenshot("super-resolution-by-hand")
    model = ldm_backend.load(PACK_ROOT / "demo" / "upscaler-4x", device="cpu")
    difference = np.abs(made - ldm_backend.upscale(model, small[None], seeds=[5], steps=4)[0].astype(int))
    assert difference.max() <= 1
    assert (difference > 0).any(-1).mean() <= 1e-3


@pytest.mark.parametrize(
    ("template", "sampler", "shape"),
    [
        ("portrait-x4", "LDMSuperResolution", (512, 512, 3)),
        ("upscale-ksampler", "KSampler", (512, 512, 3)),
        ("upscale", "LDMSuperResolution", (192, 256, 3)),
    ],
)
def test_a_template_enlarges(
    small: np.ndarray, editor: Editor, template: str, sampler: str, shape: tuple[int, ...]
) -> None:
    page = editor.page
    browse_templates(page)
    choose_template(page, template)
    set_number(page, page.evaluate(_FIRST, sampler), "steps", 3)
    run(page)
    picture = pixels(shown_image(page, page.evaluate(_FIRST, "SaveImage")))
    page.wait_for_timeout(300)
    editor.screenshot(f"super-resolution-{template}")
    assert picture.shape == shape
    assert np.ptp(picture) > 128
    assert page.get_by_role("dialog").count() == 0
