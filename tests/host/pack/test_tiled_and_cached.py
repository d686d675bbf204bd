"""LDM VQ Decode (Tiled), and the cache of LDM DDIM Sampler, on the real host."""

import io
import json

import numpy as np
import pytest
from PIL import Image

import ldm_backend
from ldm_headless import ComfyClient
from ldm_headless.errors import ExecutionError, PromptRejectedError


def test_tiles_show_the_picture_of_the_plain_decode(graph, run, assert_same_images):
    """Several tiles in both directions, a batch of two, a size that is no multiple of the tile."""
    loader = graph.checkpoint()
    latent = graph.ddim(loader, graph.noise(seed=5, batch_size=2, width=192, height=96), steps=2)
    plain = graph.save(graph.add("LDMVQDecode", vae=loader[1], latent=latent[0]))
    tiled = graph.save(graph.add("LDMVQDecodeTiled", vae=loader[1], latent=latent[0], tile=16))
    result = run(graph)
    assert result[tiled.id].shape == (2, 96, 192, 3)
    assert_same_images(result[tiled.id], result[plain.id])


def test_a_latent_of_one_tile(graph, run):
    """Decoded at once: the same bytes."""
    loader = graph.checkpoint()
    latent = graph.ddim(loader, graph.noise(seed=6), steps=2)
    plain = graph.save(graph.add("LDMVQDecode", vae=loader[1], latent=latent[0]))
    tiled = graph.save(graph.add("LDMVQDecodeTiled", vae=loader[1], latent=latent[0], tile=64))
    result = run(graph)
    assert np.array_equal(result[tiled.id], result[plain.id])


def test_progress_of_tiles(graph, client: ComfyClient):
    """The host hears of every tile, up to the last."""
    loader = graph.checkpoint()
    tiled = graph.add("LDMVQDecodeTiled", vae=loader[1], latent=graph.noise(seed=7, width=160)[0], tile=16)
    graph.save(tiled)
    seen: list[tuple[int, int]] = []

    def watch(event) -> None:
        if event.type == "progress" and event.data.get("node") == tiled.id:
            seen.append((event.data["value"], event.data["max"]))

    client.follow(client.submit(graph.prompt), watch)
    assert len(seen) > 1
    assert seen[-1][0] == seen[-1][1]


@pytest.mark.parametrize(("foreign", "words"), [(True, "LDM Checkpoint Loader"), (False, r"\(1, 4, 16, 16\)")])
def test_tiled_decode_refuses_what_does_not_fit(graph, client: ComfyClient, foreign_vae, foreign, words):
    """A foreign VAE, and a latent of 4 channels."""
    source = graph.add("VAELoader", vae_name=foreign_vae)[0] if foreign else graph.checkpoint()[1]
    latent = graph.add("EmptyLatentImage", width=128, height=128, batch_size=1)
    graph.save(graph.add("LDMVQDecodeTiled", vae=source, latent=latent[0], tile=64))
    with pytest.raises(ExecutionError, match=words) as caught:
        client.follow(client.submit(graph.prompt))
    assert caught.value.node_type == "LDMVQDecodeTiled"


def test_a_tile_that_is_too_small_is_refused(graph, client: ComfyClient):
    """By the host's own validation, which knows the range."""
    graph.save(graph.add("LDMVQDecodeTiled", vae=graph.checkpoint()[1], latent=graph.noise()[0], tile=8))
    with pytest.raises(PromptRejectedError, match="tile"):
        client.submit(graph.prompt)


def cached(graph, seed: int = 11, batch_size: int = 2, **cache: int):
    """The pack's own nodes and LDM Save Image, which is returned; the sampler with a cache."""
    loader = graph.checkpoint()
    sampled = graph.ddim(loader, graph.noise(seed, batch_size), steps=6)
    graph.prompt[sampled.id]["inputs"] |= cache
    image = graph.add("LDMVQDecode", vae=loader[1], latent=sampled[0])
    return graph.add("LDMSaveImage", images=image[0], latent=sampled[0], filename_prefix="cache")


@pytest.mark.parametrize("cache", [{"cache_interval": 3, "cache_depth": 2}, {"cache_interval": 2}])
def test_cached_picture_of_the_backend(graph, run, tiny, assert_same_images, cache):
    """The graph and `ldm_backend.generate` are the same calculation with a cache too."""
    saved = cached(graph, **cache)
    assert_same_images(run(graph)[saved.id], ldm_backend.generate(tiny, seeds=[11, 12], steps=6, **cache))


def test_interval_1_is_off(graph, run, tiny):
    """With any depth, even one that the network does not have: bit for bit the picture without the inputs."""
    saved = cached(graph, cache_interval=1, cache_depth=9), cached(graph)
    result = run(graph)
    assert np.array_equal(result[saved[0].id], result[saved[1].id])


def test_the_file_tells_of_the_cache(graph, client: ComfyClient):
    """A cache changes the picture, so its settings belong to it; without one nothing is written."""
    texts = []
    for cache in ({"cache_interval": 2, "cache_depth": 1}, {"cache_interval": 1, "cache_depth": 1}):
        other = type(graph)()
        cached(other, batch_size=1, seed=30, **cache)
        prompt_id = client.submit(other.prompt)
        client.follow(prompt_id)
        picture = Image.open(io.BytesIO(client.fetch(client.outputs(prompt_id)[0])))
        texts.append(json.loads(picture.info["ldm"]))
    assert (texts[0]["cache_interval"], texts[0]["cache_depth"]) == (2, 1)
    assert not {"cache_interval", "cache_depth"} & set(texts[1])


def test_a_depth_that_the_network_does_not_have(graph, client: ComfyClient):
    """The message says how many levels there are."""
    cached(graph, cache_interval=2, cache_depth=4)
    with pytest.raises(ExecutionError, match="has 3 levels"):
        client.follow(client.submit(graph.prompt))
