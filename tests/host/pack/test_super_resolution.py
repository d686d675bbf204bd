"""Super-resolution in one node and in parts: the pictures of `ldm_backend.upscale`."""

import inspect
from typing import Any

import numpy as np
import pytest

import ldm_backend
from ldm_backend.sampling.samplers import eta_of
from ldm_headless import ComfyClient, Event

TASK = "super-resolution"
PIXELS = np.random.default_rng(8).integers(0, 256, (14, 9, 3), dtype=np.uint8)  # no sides that the network can halve


@pytest.fixture
def small(graph, put_picture) -> Any:
    """The small picture as an IMAGE."""
    put_picture("small.png", PIXELS)
    return graph.add("LoadImage", image="small.png")


def enlarged(graph: Any, image: Any, **settings: Any) -> Any:
    """LDM Super-Resolution and SaveImage, which is returned."""
    loader = graph.checkpoint(TASK)
    usual = {"seed": 5, "steps": 3, "sampler": "ddim", "grid": "auto", "eta": 1.0, "tile": 0}
    return graph.save(
        graph.add("LDMSuperResolution", model=loader[0], vae=loader[1], image=image[0], **(usual | settings))
    )


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"eta": 0.0, "grid": "compvis", "steps": 4},
        {"sampler": "plms", "eta": 0.0, "grid": "leading"},
        {"sampler": "dpmpp_2m", "eta": 0.0},
        {"tile": 8},
        {"keep_colours": True},
        {"keep_colours": True, "tile": 8, "sampler": "dpmpp_2m_sde", "eta": 0.0},
    ],
)
def test_pictures_are_the_backends(graph, run, small, conditional, settings):
    """To the bit, of a size that is continued by reflection and cut off again."""
    node = enlarged(graph, small, **settings)
    expected = ldm_backend.upscale(conditional[TASK], PIXELS[None], [5], **({"steps": 3} | settings))
    assert expected.shape == (1, 56, 36, 3)
    assert np.array_equal(run(graph)[node.id], expected)


def test_the_defaults_are_those_of_the_backend(client: ComfyClient):
    """Of which an eta of None takes 1 with ddim."""
    node = client.object_info()["LDMSuperResolution"]["input"]["required"]
    expected = inspect.signature(ldm_backend.upscale).parameters
    assert {name: node[name][1]["default"] for name in ("steps", "sampler", "grid")} == {
        name: expected[name].default for name in ("steps", "sampler", "grid")
    }
    assert node["eta"][1]["default"] == eta_of(expected["sampler"].default, None) == 1.0


def test_image_i_of_a_batch_has_seed_plus_i(graph, run, small, conditional, assert_same_images):
    """The decoder takes both at once, where the backend takes them one by one: sums are rounded otherwise."""
    batch = graph.add("RepeatImageBatch", image=small[0], amount=2)
    node = enlarged(graph, batch, steps=2, seed=2**64 - 1)
    expected = ldm_backend.upscale(conditional[TASK], np.stack([PIXELS] * 2), [2**64 - 1, 0], steps=2)
    assert_same_images(run(graph)[node.id], expected)


def parts(graph: Any, image: Any) -> tuple[Any, Any]:
    """The loader and the conditioning with its latent."""
    loader = graph.checkpoint(TASK)
    return loader, graph.add("LDMSuperResolutionConditioning", model=loader[0], image=image[0])


def cropped(graph: Any, loader: Any, latent: Any, made: Any) -> Any:
    image = graph.add("LDMVQDecode", vae=loader[1], latent=latent[0])
    return graph.save(graph.add("ImageCrop", image=image[0], width=made[2], height=made[3], x=0, y=0))


def ksampler(graph: Any, loader: Any, positive: Any, negative: Any, latent: Any, **settings: Any) -> Any:
    usual = {"seed": 5, "steps": 4, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0}
    wires = {"model": loader[0], "positive": positive, "negative": negative, "latent_image": latent}
    return graph.add("KSampler", **wires, **(usual | settings))


def test_parts_give_the_same_picture(graph, run, small, conditional, assert_same_images):
    """With the pack's sampler, sigmas and noise in the host's SamplerCustomAdvanced."""
    loader, made = parts(graph, small)
    sampled = graph.conditioned(loader, made)
    node = cropped(graph, loader, sampled, made)
    expected = ldm_backend.upscale(conditional[TASK], PIXELS[None], [5], steps=4, eta=0.0, grid="trailing")
    assert_same_images(run(graph)[node.id], expected)


def test_ksampler_sees_the_picture(graph, run, small, put_picture):
    """Of the right size, another one for another picture, and no matter what cfg is."""
    put_picture("other.png", 255 - PIXELS)
    loader, made = parts(graph, small)
    negative = graph.add("LoadImage", image="other.png")
    other = graph.add("LDMSuperResolutionConditioning", model=loader[0], image=negative[0])
    nodes = [
        cropped(graph, loader, ksampler(graph, loader, *wires, made[1], cfg=cfg), made)
        for wires, cfg in (((made[0], made[0]), 1.0), ((other[0], other[0]), 1.0), ((made[0], made[0]), 4.0))
    ]
    found = run(graph)
    one, another, guided = (found[node.id].astype(int) for node in nodes)
    assert one.shape == (1, 56, 36, 3)
    assert np.abs(one - another).mean() > 1
    assert np.abs(one - guided).max() <= 1


def test_an_empty_conditioning_is_refused(graph, refusal, small):
    loader, made = parts(graph, small)
    empty = graph.add("LDMEmptyConditioning")
    graph.save(graph.add("LDMVQDecode", vae=loader[1], latent=ksampler(graph, loader, empty[0], empty[0], made[1])[0]))
    message = refusal(graph, "KSampler")
    assert "The conditioning is empty, and the MODEL is for super-resolution" in message
    assert "Connect LDM Super-Resolution Conditioning to positive and negative" in message


def test_a_latent_of_another_size_is_refused(graph, refusal, small):
    loader, made = parts(graph, small)
    latent = ksampler(graph, loader, made[0], made[0], graph.empty()[0])
    graph.save(graph.add("LDMVQDecode", vae=loader[1], latent=latent[0]))
    assert "Connect the LATENT of LDM Super-Resolution Conditioning too" in refusal(graph, "KSampler")


def test_a_conditioning_for_another_model_is_refused(graph, refusal, small, conditional):
    """Of a model with as many channels, and of one that takes none."""
    for name in ("semantic-synthesis", "tiny"):
        wrong = type(graph)()
        wrong.prompt = dict(graph.prompt)
        _, made = parts(wrong, small)
        loader = wrong.checkpoint(name)
        latent = ksampler(wrong, loader, made[0], made[0], made[1])
        wrong.save(wrong.add("LDMVQDecode", vae=loader[1], latent=latent[0]))
        assert "The conditioning is one for super-resolution, and the MODEL is for" in refusal(wrong, "KSampler")


def test_what_does_not_fit_is_said(graph, refusal, small, conditional):
    for settings, message in (
        ({"tile": 6}, "tile is 6; expected a multiple of 2 latent cells, at least 8"),
        ({"sampler": "unipc"}, "eta is 1.0 but unipc has no eta; set it to 0, or take ddim"),
        ({"steps": 1000, "grid": "linspace_open", "sampler": "nothing"}, "sampler|not in list"),
    ):
        wrong = type(graph)()
        wrong.prompt = dict(graph.prompt)
        enlarged(wrong, small, **settings)
        found = refusal(wrong, "LDMSuperResolution")
        assert any(words in found for words in message.split("|")), found


def test_a_vae_of_another_model_is_refused(graph, refusal, small, conditional):
    node = enlarged(graph, small)
    other = graph.checkpoint("tiny")
    source = graph.prompt[node.id]["inputs"]["images"][0]
    graph.prompt[source]["inputs"]["vae"] = other[1]
    assert "vae: the VAE is not the one that this MODEL was trained with" in refusal(graph, "LDMSuperResolution")


def test_progress_counts_steps_and_tiles(graph, run, small, conditional):
    """9x14 pixels become 10x14 cells: three rows of two tiles, which overlap by four cells."""
    enlarged(graph, small, tile=8, steps=3, seed=77)
    values = []

    def remember(event: Event) -> None:
        if event.type == "progress":
            values.append((event.data["value"], event.data["max"]))

    run(graph, remember)
    assert values == sorted(values)
    assert values[-1] == (3 * 6, 3 * 6)


def test_cancel_stops_the_run(graph, client: ComfyClient, small, conditional, progress_until_cancelled):
    node = enlarged(graph, small, steps=1000, seed=78)
    sampler = graph.prompt[node.id]["inputs"]["images"][0]
    assert progress_until_cancelled(graph, sampler)[-1] < 900
    good = type(graph)()
    good.core(seed=201, steps=1)
    client.follow(client.submit(good.prompt))
