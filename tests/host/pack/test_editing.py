"""Image to image, inpainting and inversion in a real host."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from ldm_headless import Event, PrivateHost
from ldm_headless.errors import PromptInterruptedError


@pytest.fixture
def message_of(graph: Any, refusal: Callable[[Any, str], str]) -> Callable[[str], str]:
    """Runs the graph, expects one node to refuse it; returns its message."""
    return partial(refusal, graph)


@pytest.fixture
def picture(graph: Any, host: PrivateHost) -> Callable[..., Any]:
    """LoadImage of random pixels; output 1 is a mask, white where the picture is transparent: its right half."""

    def load(width: int = 64, height: int = 64, transparent: bool = True) -> Any:
        pixels = np.random.default_rng(0).integers(0, 256, (height, width, 4), dtype=np.uint8)
        pixels[..., 3] = 255
        pixels[:, width // 2 :, 3] = 0
        name = f"editing-{width}x{height}-{transparent}.png"
        Image.fromarray(pixels if transparent else pixels[..., :3]).save(host.base_directory / "input" / name)
        return graph.add("LoadImage", image=name)

    return load


def encode(graph: Any, loader: Any, image: Any) -> Any:
    return graph.add("LDMVQEncode", vae=loader[1], image=image[0])


def inpaint(graph: Any, loader: Any, latent: Any, mask: Any, **changes: Any) -> Any:
    inputs = {"seed": 3, "steps": 4, "grid": "trailing", "jump_length": 2, "resamples": 2} | changes
    return graph.add("LDMInpaint", model=loader[0], latent=latent[0], mask=mask, **inputs)


def to_image(graph: Any, loader: Any, latent: Any, **changes: Any) -> Any:
    inputs = {"seed": 3, "strength": 0.5, "sampler": "ddim", "steps": 4, "eta": 0.0, "grid": "trailing"} | changes
    return graph.add("LDMImageToImage", model=loader[0], latent=latent[0], **inputs)


def repeat(graph: Any, latent: Any, amount: int) -> Any:
    return graph.add("RepeatLatentBatch", samples=latent[0], amount=amount)


def test_vq_encode_is_vae_encode(graph, picture, save_latent):
    loader, image = graph.checkpoint(), picture()
    ours = save_latent(graph, encode(graph, loader, image))
    native = save_latent(graph, graph.add("VAEEncode", pixels=image[0], vae=loader[1]))
    assert torch.equal(ours, native)


def test_inpaint_leaves_unmasked_pixels_to_the_bit(graph, run, picture, host):
    """From a PNG to a PNG, three variants over one picture, with a feather."""
    loader, image = graph.checkpoint(), picture()
    painted = inpaint(graph, loader, repeat(graph, encode(graph, loader, image), 3), image[1])
    decoded = graph.add("LDMVQDecode", vae=loader[1], latent=painted[0])
    whole = graph.add("LDMInpaintComposite", image=image[0], inpainted=decoded[0], mask=image[1], feather=4)
    saved, plain = graph.save(whole), graph.save(decoded)
    result = run(graph)
    found = result[saved.id]
    original = np.asarray(Image.open(host.base_directory / "input" / "editing-64x64-True.png"))[..., :3]
    assert found.shape == (3, 64, 64, 3)
    for image_found, image_decoded in zip(found, result[plain.id], strict=True):
        np.testing.assert_array_equal(image_found[:, :32], original[:, :32])
        np.testing.assert_array_equal(image_found[:, 36:], image_decoded[:, 36:])
    assert (found[0] != found[1]).any()


def test_inpaint_keeps_unmasked_cells_and_seeds(graph, picture, save_latent):
    """Image 1 of the batch is the image of seed 4 alone."""
    loader, image = graph.checkpoint(), picture()
    latent = encode(graph, loader, image)
    clean = save_latent(graph, latent)
    batch = save_latent(graph, inpaint(graph, loader, repeat(graph, latent, 2), image[1]))
    single = save_latent(graph, inpaint(graph, loader, latent, image[1], seed=4))
    assert torch.equal(batch[..., :8], clean.expand(2, -1, -1, -1)[..., :8])
    assert (batch[..., 8:] != clean[..., 8:]).all()
    torch.testing.assert_close(batch[1:], single, rtol=1e-4, atol=1e-4)


def test_nothing_to_inpaint(graph, picture, save_latent):
    """An opaque picture of 64x64: the host's black mask fits, and the latent comes back."""
    loader, image = graph.checkpoint(), picture(transparent=False)
    latent = encode(graph, loader, image)
    assert torch.equal(save_latent(graph, inpaint(graph, loader, latent, image[1])), save_latent(graph, latent))


def test_image_to_image_changes_with_strength(graph, picture, save_latent):
    loader = graph.checkpoint()
    latent = encode(graph, loader, picture())
    clean = save_latent(graph, latent)
    changed = [
        (save_latent(graph, to_image(graph, loader, latent, strength=s, steps=2)) - clean).norm()
        for s in (0.02, 0.3, 1)
    ]
    assert 0 < changed[0] < 0.2 * changed[2]
    assert changed[0] < changed[1] < changed[2]


@pytest.mark.parametrize("sampler", [{"sampler": "ddim"}, {"sampler": "ddim", "eta": 1.0}])
def test_image_to_image_at_full_strength_starts_from_the_seed(graph, picture, save_latent, sampler):
    """What is left of the image is sqrt(alphas_cumprod[999]) = 0.01; the noise of the steps continues the seed's."""
    loader = graph.checkpoint()
    found = save_latent(graph, to_image(graph, loader, encode(graph, loader, picture()), strength=1.0, **sampler))
    noise = graph.noise(3)
    sampled = graph.ddim(loader, noise, steps=4, grid="trailing", eta=sampler.get("eta", 0.0))
    expected = save_latent(graph, sampled)
    assert (found - expected).norm() < 0.1 * expected.norm()


def test_saved_image_tells_seed_and_settings(graph, picture, client, host):
    loader, image = graph.checkpoint(), picture()
    latent = repeat(graph, encode(graph, loader, image), 2)
    for name, sampled in (
        ("edited", to_image(graph, loader, latent, seed=8)),
        ("filled", inpaint(graph, loader, latent, image[1], seed=8)),
    ):
        decoded = graph.add("LDMVQDecode", vae=loader[1], latent=sampled[0])
        graph.add("LDMSaveImage", images=decoded[0], latent=sampled[0], filename_prefix=name)
    client.follow(client.submit(graph.prompt))
    edited, filled = (
        [json.loads(Image.open(file).text["ldm"]) for file in sorted((host.base_directory / "output").glob(f"{name}*"))]  # pyright: ignore[reportAttributeAccessIssue]
        for name in ("edited", "filled")
    )
    assert [info["seed"] for info in edited + filled] == [8, 9, 8, 9]
    assert (edited[0]["sampler"], edited[0]["strength"], edited[0]["steps"]) == ("ddim", 0.5, 4)
    assert (filled[0]["sampler"], filled[0]["jump_length"], filled[0]["resamples"]) == ("repaint", 2, 2)


def test_inversion_and_back(graph, run, picture, save_latent):
    """DDIM makes the latent of a sampled image again."""
    loader = graph.checkpoint()
    start = graph.ddim(loader, graph.noise(7), steps=20)
    x_T = graph.add("LDMDDIMInversion", model=loader[0], latent=start[0], steps=20, grid="leading", iterations=3)  # noqa: N806 - the papers' name
    clean = save_latent(graph, start)
    again = save_latent(graph, graph.ddim(loader, x_T, steps=20))
    peak, error = (clean.max() - clean.min()).item(), (again - clean).pow(2).mean().sqrt().item()
    assert 20 * np.log10(peak / error) > 40


def test_inverted_latent_carries_no_seed(graph, message_of):
    """So eta above 0 asks for one."""
    loader = graph.checkpoint()
    start = graph.ddim(loader, graph.noise(7), steps=2)
    x_T = graph.add("LDMDDIMInversion", model=loader[0], latent=start[0], steps=2, grid="leading", iterations=1)  # noqa: N806 - the papers' name
    graph.save(graph.add("LDMVQDecode", vae=loader[1], latent=graph.ddim(loader, x_T, eta=0.5)[0]))
    assert "carries no seed" in message_of("LDMDDIMSampler")


@pytest.mark.parametrize("node_type", ["LDMInpaint", "LDMDDIMInversion"])
def test_progress_and_cancel_within_a_step(graph, client, picture, node_type):
    """The bar is as long as the evaluations are many; after the button nothing but the step under way is finished."""
    loader, image = graph.checkpoint(), picture()
    latent = repeat(graph, encode(graph, loader, image), 16)
    if node_type == "LDMInpaint":
        node, total = inpaint(graph, loader, latent, image[1], steps=500, resamples=3), 1500
    else:
        node = graph.add(node_type, model=loader[0], latent=latent[0], steps=500, grid="leading", iterations=3)
        total = 497 * 3 + 3 * 10
    graph.save(graph.add("LDMVQDecode", vae=loader[1], latent=node[0]))
    seen: list[tuple[int, int]] = []

    def cancel(event: Event) -> None:
        if event.type == "progress" and event.data.get("node") == node.id:
            if not seen:
                client.interrupt()
            seen.append((event.data["value"], event.data["max"]))

    started = time.monotonic()
    with pytest.raises(PromptInterruptedError):
        client.follow(client.submit(graph.prompt), cancel)
    assert time.monotonic() - started < 60
    assert seen[0][1] == total
    assert seen[-1][0] < 100


def test_mask_of_another_size(graph, picture, message_of):
    """Such as the host's own black mask for a picture without transparency."""
    loader, image = graph.checkpoint(), picture(96, 64, transparent=False)
    painted = inpaint(graph, loader, encode(graph, loader, image), image[1])
    graph.save(graph.add("LDMVQDecode", vae=loader[1], latent=painted[0]))
    message = message_of("LDMInpaint")
    assert all(words in message for words in ("(1, 64, 64)", "96 pixels wide and 64 high", "MaskEditor"))


def test_composite_of_other_sizes(graph, picture, message_of):
    large, small = picture(96, 64), picture()
    graph.save(graph.add("LDMInpaintComposite", image=large[0], inpainted=small[0], mask=large[1], feather=0))
    message = message_of("LDMInpaintComposite")
    assert all(words in message for words in ("(1, 64, 96, 3)", "(1, 64, 64, 3)"))


@pytest.mark.parametrize(("width", "height", "words"), [(66, 64, "width of the image is 66"), (64, 70, "height")])
def test_image_of_an_odd_size(graph, picture, message_of, width, height, words):
    graph.save(graph.add("LDMVQDecode", vae=(loader := graph.checkpoint())[1],
                         latent=encode(graph, loader, picture(width, height))[0]))  # fmt: skip
    message = message_of("LDMVQEncode")
    assert words in message
    assert "multiple of 4" in message


def test_vae_of_another_family(graph, picture, message_of, foreign_vae):
    graph.add("PreviewAny", source=graph.add(
        "LDMVQEncode", vae=graph.add("VAELoader", vae_name=foreign_vae)[0], image=picture()[0])[0])  # fmt: skip
    assert "LDM Checkpoint Loader" in message_of("LDMVQEncode")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"strength": 0.01, "steps": 50}, ["5000 steps", "at most 10 steps"]),
        ({"sampler": "euler"}, ["euler", "dpmpp_2m"]),
        ({"grid": "karras"}, ["karras", "leading"]),
    ],
)
def test_image_to_image_out_of_range(graph, picture, message_of, changes, words):
    loader = graph.checkpoint()
    sampled = to_image(graph, loader, encode(graph, loader, picture()), **changes)
    graph.save(graph.add("LDMVQDecode", vae=loader[1], latent=sampled[0]))
    message = message_of("LDMImageToImage")
    assert all(word in message for word in words)


@pytest.mark.parametrize("node_type", ["LDMInpaint", "LDMImageToImage", "LDMDDIMInversion"])
def test_latent_that_the_model_cannot_take(graph, message_of, node_type):
    loader = graph.checkpoint()
    latent = graph.add("EmptyLatentImage", width=128, height=128, batch_size=1)
    nodes = {
        "LDMInpaint": lambda: inpaint(
            graph, loader, latent, graph.add("SolidMask", value=1.0, width=64, height=64)[0]),
        "LDMImageToImage": lambda: to_image(graph, loader, latent),
        "LDMDDIMInversion": lambda: graph.add(
            node_type, model=loader[0], latent=latent[0], steps=2, grid="leading", iterations=1),
    }  # fmt: skip
    graph.save(graph.add("LDMVQDecode", vae=loader[1], latent=nodes[node_type]()[0]))
    assert "(1, 4, 16, 16)" in message_of(node_type)


@pytest.mark.parametrize("reseed", ["image to image", "inversion"])
def test_captions_of_the_noise_before_are_gone(graph, run, reseed):
    """A walk names its frames; new noise has its own seeds, and inverted noise is no draw of any."""
    loader = graph.checkpoint()
    walk = graph.add("LDMSeedWalk", seed_from=3, seed_to=4, frames=2, path="line", width=64, height=64)
    if reseed == "image to image":
        changed, named = to_image(graph, loader, walk, seed=5, steps=1), {"latent": graph.noise(5, 2)[0]}
    else:
        settings = {"steps": 1, "grid": "trailing", "iterations": 1}
        changed, named = graph.add("LDMDDIMInversion", model=loader[0], latent=walk[0], **settings), {}
    images = graph.add("LDMVQDecode", vae=loader[1], latent=changed[0])
    found = graph.save(graph.add("LDMContactSheet", images=images[0], columns=0, latent=changed[0]))
    expected = graph.save(graph.add("LDMContactSheet", images=images[0], columns=0, **named))
    result = run(graph)
    np.testing.assert_array_equal(result[found.id], result[expected.id])
