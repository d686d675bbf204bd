"""A model of grey pictures on the real host, whose IMAGE has three channels."""

from __future__ import annotations

import shutil
from dataclasses import replace

import numpy as np
import pytest
from model_folder import write_model_folder

import ldm_backend


@pytest.fixture(scope="module")
def grey(models, tiny):
    stage = replace(tiny.config.first_stage, in_channels=1, out_channels=1, decoder_attention=(2,))
    folder = write_model_folder(models / "grey", replace(tiny.config, first_stage=stage))
    yield ldm_backend.load(folder, device="cpu")
    shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("decoder", "inputs"),
    [("LDMVQDecode", {}), ("LDMVQDecodeTiled", {"tile": 16}), ("VAEDecode", {}), ("VAEDecodeTiled", None)],
)
def test_grey_out_in_three_equal_channels(graph, run, assert_same_images, grey, decoder, inputs):
    loader = graph.checkpoint("grey")
    sampled = graph.ddim(loader, graph.noise())
    latent = {"latent" if decoder.startswith("LDM") else "samples": sampled[0]}
    if inputs is None:
        inputs = {"tile_size": 512, "overlap": 64, "temporal_size": 64, "temporal_overlap": 8}
    node = graph.save(graph.add(decoder, vae=loader[1], **latent, **inputs))
    found = run(graph)[node.id][0]
    assert np.array_equal(found[..., 0], found[..., 1])
    expected = ldm_backend.generate(grey, [3], steps=5)[0]
    assert_same_images(found, np.repeat(expected, 3, axis=2))


@pytest.mark.parametrize("encoder", ["LDMVQEncode", "VAEEncode", "VAEEncodeTiled"])
def test_grey_in(graph, run, grey, encoder):
    """A picture in colours goes in as its grey, and comes out grey."""
    loader = graph.checkpoint("grey")
    source = graph.add("EmptyImage", width=64, height=64, batch_size=1, color=0x336699)
    pixels = {"image" if encoder == "LDMVQEncode" else "pixels": source[0]}
    if encoder == "VAEEncodeTiled":
        pixels |= {"tile_size": 512, "overlap": 64, "temporal_size": 64, "temporal_overlap": 8}
    encoded = graph.add(encoder, vae=loader[1], **pixels)
    node = graph.save(graph.add("VAEDecode", samples=encoded[0], vae=loader[1]))
    found = run(graph)[node.id][0]
    assert found.shape == (64, 64, 3)
    assert np.array_equal(found[..., 0], found[..., 2])
