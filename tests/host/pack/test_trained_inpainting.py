"""Inpainting with a model that was trained for it, in one node and in parts: the pictures of `ldm_backend.inpaint`."""

from typing import Any

import numpy as np
import pytest

import ldm_backend
from ldm_headless import ComfyClient

TASK = "inpainting"
RNG = np.random.default_rng(9)
PIXELS = RNG.integers(0, 256, (22, 13, 3), dtype=np.uint8)  # no sides that the networks can halve
HOLE = np.zeros((22, 13), bool)
HOLE[4:15, 5:11] = True
STROKE = np.zeros((22, 13), bool)
STROKE[9, 1:12] = True  # no multiple of a cell: the original does not see it
SETTINGS = {"seed": 5, "steps": 3, "sampler": "dpmpp_2m", "grid": "auto", "eta": 0.0, "mask_reduction": "any"}


@pytest.fixture
def picture(graph, put_picture) -> Any:
    """The picture as an IMAGE."""
    put_picture("holed.png", PIXELS)
    return graph.add("LoadImage", image="holed.png")


def mask_of(graph: Any, put_picture: Any, hole: np.ndarray, name: str = "hole") -> Any:
    """A MASK, by way of a PNG."""
    put_picture(f"{name}.png", np.repeat(hole[..., None] * np.uint8(255), 3, axis=2))
    return graph.add("ImageToMask", image=graph.add("LoadImage", image=f"{name}.png")[0], channel="red")


def filled(graph: Any, image: Any, mask: Any, **settings: Any) -> Any:
    loader = graph.checkpoint(TASK)
    wires = {"model": loader[0], "vae": loader[1], "image": image[0], "mask": mask[0]}
    return graph.save(graph.add("LDMInpaintModel", **wires, **(SETTINGS | settings)))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"sampler": "ddim", "grid": "compvis", "mask_reduction": "nearest", "steps": 4},
        {"sampler": "ddim", "eta": 1.0},
    ],
)
def test_pictures_are_the_backends(graph, run, picture, put_picture, conditional, settings):
    """To the bit, and outside of the mask to that of the picture."""
    node = filled(graph, picture, mask_of(graph, put_picture, HOLE), **settings)
    given = {"steps": 3, "sampler": "dpmpp_2m", **settings}
    expected = ldm_backend.inpaint(conditional[TASK], PIXELS[None], HOLE, [5], **given)
    found = run(graph)[node.id]
    assert np.array_equal(found, expected)
    assert np.array_equal(found[0][~HOLE], PIXELS[~HOLE])
    assert not np.array_equal(found[0][HOLE], PIXELS[HOLE])


def test_tiles_are_the_backends(graph, run, put_picture, conditional):
    """To the bit, another picture than the whole one, and outside of the mask that which came in."""
    pixels, hole = np.tile(PIXELS, (2, 4, 1)), np.tile(HOLE, (2, 4))
    put_picture("wide.png", pixels)
    image, mask = graph.add("LoadImage", image="wide.png"), mask_of(graph, put_picture, hole, "wide-hole")
    whole, tiled = (filled(graph, image, mask, **more) for more in ({}, {"tile": 8}))
    expected = ldm_backend.inpaint(conditional[TASK], pixels[None], hole, [5], steps=3, tile=8)
    found = run(graph)
    assert np.array_equal(found[tiled.id], expected)
    assert not np.array_equal(found[whole.id], expected)
    assert np.array_equal(found[tiled.id][0][~hole], pixels[~hole])


def test_a_tile_that_cannot_be_one_is_refused(graph, refusal, picture, put_picture, conditional):
    filled(graph, picture, mask_of(graph, put_picture, HOLE), tile=6)
    assert "tile is 6; expected a multiple of 2 latent cells, at least 8" in refusal(graph, "LDMInpaintModel")


@pytest.mark.parametrize("hole", [np.zeros_like(HOLE), np.ones_like(HOLE), STROKE], ids=["nothing", "all", "stroke"])
def test_masks_at_the_ends(graph, run, picture, put_picture, conditional, hole):
    node = filled(graph, picture, mask_of(graph, put_picture, hole))
    expected = ldm_backend.inpaint(conditional[TASK], PIXELS[None], hole, [5], steps=3, sampler="dpmpp_2m")
    found = run(graph)[node.id]
    assert np.array_equal(found, expected)
    assert np.array_equal(found[0][~hole], PIXELS[~hole])


def test_a_picture_of_a_batch_depends_on_no_other(graph, run, picture, put_picture, conditional, assert_same_images):
    """The second of two, of which the first has nothing to fill, has the second seed."""
    batch = graph.add("RepeatImageBatch", image=picture[0], amount=2)
    empty = mask_of(graph, put_picture, np.zeros_like(HOLE), "nothing")
    images = graph.add(
        "ImageBatch",
        image1=graph.add("MaskToImage", mask=empty[0])[0],
        image2=graph.add("MaskToImage", mask=mask_of(graph, put_picture, HOLE)[0])[0],
    )
    node = filled(graph, batch, graph.add("ImageToMask", image=images[0], channel="red"))
    found = run(graph)[node.id]
    assert np.array_equal(found[0], PIXELS)
    expected = ldm_backend.inpaint(conditional[TASK], PIXELS[None], HOLE, [6], steps=3, sampler="dpmpp_2m")
    assert_same_images(found[1:], expected)


def conditioned(graph: Any, picture: Any, mask: Any) -> tuple[Any, Any]:
    loader = graph.checkpoint(TASK)
    wires = {"model": loader[0], "vae": loader[1], "image": picture[0], "mask": mask[0]}
    return loader, graph.add("LDMInpaintConditioning", **wires, mask_reduction="any")


def test_parts_give_the_same_picture(graph, run, picture, put_picture, conditional, assert_same_images):
    """With the pack's sampler, sigmas and noise in SamplerCustomAdvanced, cropped and composited."""
    mask = mask_of(graph, put_picture, HOLE)
    loader, made = conditioned(graph, picture, mask)
    sampled = graph.conditioned(loader, made)
    large = graph.add("LDMVQDecode", vae=loader[1], latent=sampled[0])
    image = graph.add("ImageCrop", image=large[0], width=made[2], height=made[3], x=0, y=0)
    wires = {"image": picture[0], "inpainted": image[0], "mask": mask[0]}
    node = graph.save(graph.add("LDMInpaintComposite", **wires, feather=0))
    settings = {"steps": 4, "sampler": "ddim", "grid": "trailing"}
    expected = ldm_backend.inpaint(conditional[TASK], PIXELS[None], HOLE, [5], **settings)
    found = run(graph)[node.id]
    assert np.array_equal(found[0][~HOLE], PIXELS[~HOLE])
    assert_same_images(found, expected)


def test_the_hosts_own_conditioning_is_refused(graph, refusal, picture, put_picture, conditional):
    """It has a grey hole, a mask of 0 and 1, and the mask first: another picture without a word."""
    mask = mask_of(graph, put_picture, HOLE)
    loader, made = conditioned(graph, picture, mask)
    empty = graph.add("LDMEmptyConditioning")
    wires = {"positive": empty[0], "negative": empty[0], "vae": loader[1], "pixels": picture[0], "mask": mask[0]}
    theirs = graph.add("InpaintModelConditioning", **wires, noise_mask=False)
    latent = graph.add(
        "KSampler", model=loader[0], positive=theirs[0], negative=theirs[1], latent_image=made[1], seed=1, steps=2,
        cfg=1.0, sampler_name="euler", scheduler="simple", denoise=1.0,
    )  # fmt: skip
    graph.save(graph.add("LDMVQDecode", vae=loader[1], latent=latent[0]))
    assert "Connect LDM Inpaint Conditioning to positive and negative" in refusal(graph, "KSampler")


def test_a_mask_of_another_size_is_refused(graph, refusal, picture, conditional):
    filled(graph, picture, graph.add("SolidMask", value=1.0, width=64, height=64))
    assert "Crop or resize images and masks in the same way" in refusal(graph, "LDMInpaintModel")


def test_cancel_stops_the_run(graph, client: ComfyClient, picture, put_picture, conditional, progress_until_cancelled):
    node = filled(graph, picture, mask_of(graph, put_picture, HOLE), steps=1000, seed=78)
    assert progress_until_cancelled(graph, graph.prompt[node.id]["inputs"]["images"][0])[-1] < 900
    good = type(graph)()
    good.core(seed=201, steps=1)
    client.follow(client.submit(good.prompt))
