"""Semantic synthesis with native samplers: the pictures of `ldm_backend.synthesise`."""

from typing import Any

import numpy as np
import pytest

import ldm_backend
from ldm_backend.conditioning.coco_stuff import COCO_STUFF
from ldm_backend.conditioning.segmentation import colours_of_labels, default_palette

TASK = "semantic-synthesis"
LABELS = np.random.default_rng(10).integers(0, 5, (4, 6)).repeat(8, axis=0).repeat(4, axis=1)  # 32x24, of 5 labels
COLOURED = colours_of_labels(LABELS, default_palette(5))
GREY = np.repeat(LABELS[..., None], 3, axis=2).astype(np.uint8)


def drawn(graph: Any, image: Any, labels: str) -> Any:
    """The picture of a map through SamplerCustomAdvanced, by SaveImage."""
    loader = graph.checkpoint(TASK)
    made = graph.add("LDMSemanticLabels", model=loader[0], image=image[0], labels=labels)
    sampled = graph.conditioned(loader, made, eta=1.0)
    return graph.save(graph.add("LDMVQDecode", vae=loader[1], latent=sampled[0]))


@pytest.fixture
def expected(conditional) -> np.ndarray:
    settings = {"steps": 4, "sampler": "ddim", "eta": 1.0, "grid": "trailing"}
    return ldm_backend.synthesise(conditional[TASK], LABELS, [5], **settings)


@pytest.mark.parametrize(("kind", "pixels"), [("colours", COLOURED), ("numbers", GREY)])
def test_pictures_are_the_backends(graph, run, put_picture, assert_same_images, expected, kind, pixels):
    put_picture("map.png", pixels)
    node = drawn(graph, graph.add("LoadImage", image="map.png"), kind)
    assert_same_images(run(graph)[node.id], expected)


def test_regions_make_the_map(graph, run, put_picture, assert_same_images, expected):
    """Each over what came before; the first fills the whole."""
    painted = None
    for label in range(5):
        put_picture(f"region{label}.png", np.repeat(np.equal(LABELS, label)[..., None] * np.uint8(255), 3, axis=2))
        mask = graph.add("ImageToMask", image=graph.add("LoadImage", image=f"region{label}.png")[0], channel="red")
        before = {} if painted is None else {"map": painted[0]}
        painted = graph.add("LDMSemanticRegion", mask=mask[0], name=COCO_STUFF[label], **before)
    assert painted is not None
    shown, node = graph.save(painted), drawn(graph, painted, "colours")
    found = run(graph)
    assert np.array_equal(found[shown.id][0], COLOURED)
    assert_same_images(found[node.id], expected)


@pytest.mark.parametrize(
    ("kind", "pixels", "message"),
    [
        ("colours", np.zeros_like(COLOURED), r"image: 768 pixels have 1 colours that are none of the palette's 5"),
        ("numbers", GREY + np.uint8(1), "image: The labels hold 5; this model knows 0 to 4"),
        ("numbers", COLOURED, "image: The map is no grey picture"),
        ("colours", COLOURED[:31], "image: height is 31; this model needs a multiple of 8 pixels"),
        ("names", COLOURED, "labels|not in list"),
    ],
)
def test_what_is_no_map_is_refused(graph, refusal, put_picture, conditional, kind, pixels, message):
    put_picture("wrong.png", pixels)
    drawn(graph, graph.add("LoadImage", image="wrong.png"), kind)
    found = refusal(graph, "LDMSemanticLabels")
    assert any(words in found for words in message.split("|")), found


def test_a_region_of_another_size_is_refused(graph, refusal, put_picture):
    put_picture("map.png", COLOURED)
    mask = graph.add("SolidMask", value=1.0, width=16, height=16)
    graph.save(graph.add("LDMSemanticRegion", mask=mask[0], name="sea", map=graph.add("LoadImage", image="map.png")[0]))
    assert "Crop or resize images and masks in the same way" in refusal(graph, "LDMSemanticRegion")
