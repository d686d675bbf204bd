"""The pack's own nodes on the real host: the same pictures as the backend, whatever the batch."""

import io
import json
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import ldm_backend
from ldm_headless import ComfyClient, Event


@pytest.mark.parametrize("sampler", [{}, {"grid": "compvis", "steps": 4}, {"eta": 1.0}, {"eta": 0.3, "steps": 1}])
def test_picture_of_the_backend(graph, run, tiny, assert_same_images, sampler):
    """The graph and `ldm_backend.generate` are the same calculation."""
    saved = graph.core(seed=11, batch_size=2, **sampler)
    expected = ldm_backend.generate(tiny, seeds=[11, 12], **{"steps": 5, **sampler})
    assert_same_images(run(graph)[saved.id], expected)


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_batch_equals_single_images(graph, run, assert_same_images, eta):
    """Image i of a batch is the image of seed + i, alone."""
    loader = graph.checkpoint()

    def images(seed: int, batch_size: int):
        sampled = graph.ddim(loader, graph.noise(seed, batch_size), eta=eta)
        return graph.save(graph.add("LDMVQDecode", vae=loader[1], latent=sampled[0]))

    batch, singles = images(40, 4), [images(40 + index, 1) for index in range(4)]
    result = run(graph)
    assert_same_images(result[batch.id], np.concatenate([result[single.id] for single in singles]))
    assert len({image.tobytes() for image in result[batch.id]}) == 4


def test_part_of_a_batch_keeps_its_seeds(graph, run, assert_same_images):
    """Images taken out of a batch before sampling get the step noise of their own seeds."""
    loader = graph.checkpoint()
    part = graph.add("LatentFromBatch", samples=graph.noise(7, 4)[0], batch_index=2, length=1)
    whole = graph.ddim(loader, graph.noise(7, 4), eta=1.0)
    saved = [
        graph.save(graph.add("LDMVQDecode", vae=loader[1], latent=latent[0]))
        for latent in (graph.ddim(loader, part, eta=1.0), whole)
    ]
    result = run(graph)
    assert_same_images(result[saved[0].id], result[saved[1].id][2:3])


def test_seed_input_replaces_the_seed_of_the_latent(graph, run, assert_same_images, tiny):
    """For latents without a seed of their own; here the seed is the same, so the picture must be."""
    loader = graph.checkpoint()
    sampled = graph.ddim(loader, graph.noise(5), eta=1.0)
    graph.prompt[sampled.id]["inputs"]["seed"] = graph.add("PrimitiveInt", value=5)[0]
    saved = graph.save(graph.add("LDMVQDecode", vae=loader[1], latent=sampled[0]))
    assert_same_images(run(graph)[saved.id], ldm_backend.generate(tiny, seeds=[5], steps=5, eta=1.0))


def test_largest_seed(graph, run):
    """The seed after the largest one is 0."""
    saved = graph.core(seed=2**64 - 1, batch_size=2, steps=1)
    assert run(graph)[saved.id].shape == (2, 64, 64, 3)


def test_other_sizes(graph, run):
    """Sizes other than the training size work when they are divisible; width and height are not mixed up."""
    loader = graph.checkpoint()
    sampled = graph.ddim(loader, graph.noise(width=96, height=32), steps=2)
    saved = graph.save(graph.add("LDMVQDecode", vae=loader[1], latent=sampled[0]))
    assert run(graph)[saved.id].shape == (1, 32, 96, 3)


def test_inputs_are_left_alone(graph, run, assert_same_images):
    """One latent feeds three samplers in turn; the third still gives the picture of the first."""
    loader, noise = graph.checkpoint(), graph.noise(21)
    first = graph.ddim(loader, noise, steps=3)
    empty = graph.add("LDMEmptyConditioning")
    native = graph.add(
        "KSampler", model=loader[0], positive=empty[0], negative=empty[0], latent_image=noise[0], seed=0, steps=2,
        cfg=1.0, sampler_name="euler", scheduler="simple", denoise=1.0,
    )  # fmt: skip
    # Not identical to `first`, or the host would answer from its cache.
    third = graph.add("LDMDDIMSampler", model=loader[0], latent=noise[0], steps=3, eta=0.0, grid="leading", seed=1)
    saved = [graph.save(graph.add("LDMVQDecode", vae=loader[1], latent=latent[0])) for latent in (first, native, third)]
    result = run(graph)
    assert_same_images(result[saved[0].id], result[saved[2].id])


def test_cache_follows_the_files(graph, run, models, write_checkpoint):
    """The same prompt again runs nothing; a changed file loads again."""
    folder: Path = write_checkpoint(models / "group" / "cached")  # one level further down, as hub names are
    graph.core("group/cached", steps=1)
    ran: list[str] = []

    def remember(event: Event) -> None:
        if event.type == "executing" and event.data.get("node"):
            ran.append(event.data["node"])

    run(graph, remember)
    assert "1" in ran
    ran.clear()
    run(graph, remember)
    assert ran == []
    os.utime(folder / "unet" / "config.json", ns=(1, 1))
    run(graph, remember)
    assert ran[0] == "1"


def test_models_survive_being_unloaded(graph, run, client: ComfyClient, assert_same_images):
    """The host may drop all models between two runs."""
    saved = graph.core(seed=6)
    before = run(graph)[saved.id]
    client.free()
    graph.prompt[saved.id]["inputs"]["filename_prefix"] = "after"
    assert_same_images(run(graph)[saved.id], before)


def test_saved_image_carries_its_graph(graph, client: ComfyClient):
    """Dropping the PNG onto ComfyUI restores what made it."""
    graph.core(seed=8, steps=1)
    workflow = {"nodes": [], "version": 0.4}
    prompt_id = client.submit(graph.prompt, {"extra_pnginfo": {"workflow": workflow}})
    client.follow(prompt_id)
    text = Image.open(io.BytesIO(client.fetch(client.outputs(prompt_id)[0]))).info
    assert json.loads(text["prompt"])["2"]["inputs"]["seed"] == 8
    assert json.loads(text["workflow"]) == workflow


def test_demo_picture(graph, run, root, assert_same_images):
    """The demo that comes with the pack is found without any set-up, and gives the backend's picture.

    Seed 6, since a latent of seed 3 lies within rounding of the border between two codes.
    """
    loader = graph.checkpoint("portraits-128")
    sampled = graph.ddim(loader, graph.noise(6, width=128, height=128), steps=20)
    saved = graph.save(graph.add("LDMVQDecode", vae=loader[1], latent=sampled[0]))
    model = ldm_backend.load(root / "demo" / "portraits-128", device="cpu")
    assert_same_images(run(graph)[saved.id], ldm_backend.generate(model, seeds=[6], steps=20))
