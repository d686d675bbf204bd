"""LDM Sampler on the real host: every sampler gives the pictures of the backend, image by image."""

from typing import Any

import numpy as np
import pytest

import ldm_backend
from ldm_backend.sampling.samplers import SAMPLERS
from ldm_headless import ComfyClient
from ldm_headless.errors import ExecutionError


def sampled(graph: Any, sampler: str, seed: int, batch_size: int, grid: str = "log_snr", steps: int = 6) -> Any:
    """Loader, noise, LDM Sampler, decoder and SaveImage, which is returned."""
    loader = graph.checkpoint()
    latent = graph.add(
        "LDMSampler", model=loader[0], latent=graph.noise(seed, batch_size)[0], sampler=sampler, steps=steps, grid=grid
    )
    return graph.save(graph.add("LDMVQDecode", vae=loader[1], latent=latent[0]))


@pytest.mark.parametrize("grid", ["trailing", "log_snr"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_pictures_of_the_backend(graph, run, tiny, assert_same_images, sampler, grid):
    """Also for timesteps that are no whole numbers, and for noise in each step."""
    saved = sampled(graph, sampler, 11, 2, grid)
    expected = ldm_backend.generate(tiny, seeds=[11, 12], steps=6, sampler=sampler, grid=grid)
    assert_same_images(run(graph)[saved.id], expected)


@pytest.mark.parametrize("sampler", ["dpmpp_2m_sde", "unipc"])
def test_batch_equals_single_images(graph, run, assert_same_images, sampler):
    batch, singles = sampled(graph, sampler, 40, 3), [sampled(graph, sampler, 40 + index, 1) for index in range(3)]
    result = run(graph)
    assert_same_images(result[batch.id], np.concatenate([result[single.id] for single in singles]))


def test_defaults_of_the_node(client: ComfyClient):
    """What benchmarks/convergence.py speaks for."""
    inputs = client.object_info()["LDMSampler"]["input"]["required"]
    assert {name: inputs[name][1]["default"] for name in ("sampler", "steps", "grid")} == {
        "sampler": "unipc",
        "steps": 20,
        "grid": "auto",  # log_snr with unipc
    }


def test_noise_without_a_seed(graph, client: ComfyClient):
    """A latent of other nodes has no seed, so the noise of the steps would be undefined."""
    loader = graph.checkpoint()
    latent = graph.add(
        "LDMSampler", model=loader[0], latent=graph.empty()[0], sampler="ddpm", steps=2, grid="trailing"
    )  # fmt: skip
    graph.save(graph.add("LDMVQDecode", vae=loader[1], latent=latent[0]))
    with pytest.raises(ExecutionError) as caught:
        client.follow(client.submit(graph.prompt))
    assert caught.value.node_type == "LDMSampler"
    assert "ddpm adds noise at each step here, but the latent carries no seed" in caught.value.exception_message
