"""The host's own nodes on our MODEL, VAE and LATENT."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from ldm_backend.sampling.noise import draw_noise
from ldm_backend.sampling.samplers import sample_ddim
from ldm_backend.views.images import from_uint8


def ksampler(graph: Any, loader: Any, latent: Any, **changes: Any) -> Any:
    """KSampler as a user would set it for a model without a prompt."""
    empty = graph.add("LDMEmptyConditioning")
    inputs = {
        "seed": 3, "steps": 4, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0,
        "model": loader[0], "positive": empty[0], "negative": empty[0], "latent_image": latent[0],
    }  # fmt: skip
    return graph.add("KSampler", **(inputs | changes))


def advanced(graph: Any, loader: Any, latent: Any) -> Any:
    """SamplerCustomAdvanced with the host's own parts."""
    guider = graph.add("BasicGuider", model=loader[0], conditioning=graph.add("LDMEmptyConditioning")[0])
    return graph.add(
        "SamplerCustomAdvanced",
        noise=graph.add("RandomNoise", noise_seed=3)[0],
        guider=guider[0],
        sampler=graph.add("KSamplerSelect", sampler_name="euler_ancestral")[0],
        sigmas=graph.add("BasicScheduler", model=loader[0], scheduler="normal", steps=4, denoise=1.0)[0],
        latent_image=latent[0],
    )


@pytest.mark.parametrize(
    ("sampler", "scheduler"),
    [("ddim", "ddim_uniform"), ("euler", "simple"), ("dpmpp_2m", "karras"), ("uni_pc", "normal"), ("lcm", "simple")],
)
def test_ksampler(graph, run, sampler, scheduler):
    """Native samplers and schedulers run and make different images from different noise."""
    loader = graph.checkpoint()
    sampled = ksampler(graph, loader, graph.empty(2), sampler_name=sampler, scheduler=scheduler)
    shown = graph.add("PreviewImage", images=graph.add("VAEDecode", samples=sampled[0], vae=loader[1])[0])
    images = run(graph)[shown.id]
    assert images.shape == (2, 64, 64, 3)
    assert (images[0] != images[1]).any()


@pytest.mark.parametrize("custom", [False, True])
def test_an_empty_latent_has_the_size_that_was_entered(graph, run, custom):
    """Each side for itself, in both of the host's ways to sample, for every image of the batch."""
    loader, latent = graph.checkpoint(), graph.empty(3, width=96, height=64)
    sampled = advanced(graph, loader, latent) if custom else ksampler(graph, loader, latent)
    saved = graph.save(graph.add("VAEDecode", samples=sampled[0], vae=loader[1]))
    assert run(graph)[saved.id].shape == (3, 64, 96, 3)


def test_an_empty_latent_is_zeros(graph, save_latent):
    """Of the model's channels and ratio, which are those without a model too."""
    for latent in (graph.empty(2, width=96), graph.empty(2, width=96, model=graph.checkpoint()[0])):
        found = save_latent(graph, latent)
        assert (found.shape, found.dtype) == ((2, 3, 16, 24), torch.float32)
        assert not found.any()


def test_an_empty_latent_adds_nothing_to_the_seed(graph, save_latent):
    """The picture is that of the host's own zeros of this shape, for each image of a batch."""
    loader, drawn = graph.checkpoint(), graph.noise(1, 2)
    zeros = graph.add("LatentSubtract", samples1=drawn[0], samples2=drawn[0])
    found, expected = (save_latent(graph, ksampler(graph, loader, latent)) for latent in (graph.empty(2), zeros))
    assert torch.equal(found, expected)


def test_the_empty_latent_of_the_host(graph, run):
    """256 are 32 cells for it, of eight pixels, and a cell of ours has four.

    Before 0.11.0 the host takes the cells as they are: a picture of 128 pixels. Since then the latent carries its
    ratio, and the host makes 64 cells of it. This is why there is LDM Empty Latent, and why all other tests use it.
    """
    loader = graph.checkpoint()
    latent = graph.add("EmptyLatentImage", width=256, height=256, batch_size=1)
    sampled = ksampler(graph, loader, latent)
    saved = graph.save(graph.add("VAEDecode", samples=sampled[0], vae=loader[1]))
    assert run(graph)[saved.id].shape in ((1, 128, 128, 3), (1, 256, 256, 3))


def test_native_ddim_is_our_ddim(graph, save_latent, tiny):
    """KSampler's ddim with ddim_uniform walks the compvis grid in its own sigma space.

    The last step differs: the host goes to a clean image, compvis to timestep 0; so pred_x0 of the last step is
    compared. What remains is the host's start, scaled by sigma instead of sqrt(1 + sigma^2), and rounding.
    """
    sampled = ksampler(
        graph, graph.checkpoint(), graph.empty(), steps=10, sampler_name="ddim", scheduler="ddim_uniform"
    )
    found = save_latent(graph, sampled)
    last = []
    x_T = draw_noise([3], (3, 16, 16))  # noqa: N806 - the papers' name
    pairs = tiny.schedule.timesteps(10, "compvis")
    sample_ddim(tiny.unet, x_T, tiny.schedule, pairs, callback=lambda info: last.append(info.pred_x0))
    assert (found - last[-1]).abs().max() < 2e-3 * last[-1].std()


def test_cfg_makes_no_difference(graph, save_latent):
    """Both conditionings are ignored, so guidance between them changes nothing but rounding."""
    loader, latent = graph.checkpoint(), graph.empty(2)
    plain = save_latent(graph, ksampler(graph, loader, latent))
    guided = save_latent(graph, ksampler(graph, loader, latent, cfg=7.0))
    torch.testing.assert_close(plain, guided, atol=1e-4, rtol=1e-4)


def test_sampler_custom_advanced(graph, run):
    """Guider, sigmas and sampler as separate nodes; VAEDecodeTiled and PreviewImage at the end."""
    loader = graph.checkpoint()
    sampled = advanced(graph, loader, graph.empty(2))
    tiled = graph.add(
        "VAEDecodeTiled", samples=sampled[0], vae=loader[1], tile_size=64, overlap=0, temporal_size=64,
        temporal_overlap=8,
    )  # fmt: skip
    shown = graph.add("PreviewImage", images=tiled[0])
    assert run(graph)[shown.id].shape == (2, 64, 64, 3)


def test_vae_decode_is_our_decode(graph, run):
    """VAEDecode and LDMVQDecode: the same bytes."""
    loader = graph.checkpoint()
    sampled = graph.ddim(loader, graph.noise(3, 3))
    native = graph.save(graph.add("VAEDecode", samples=sampled[0], vae=loader[1]))
    ours = graph.save(graph.add("LDMVQDecode", latent=sampled[0], vae=loader[1]))
    result = run(graph)
    np.testing.assert_array_equal(result[native.id], result[ours.id])


def test_tiled_decode_covers_the_image(graph, run):
    """Tiles that fit the whole image at once give the plain decode."""
    loader = graph.checkpoint()
    sampled = graph.ddim(loader, graph.noise())
    plain = graph.save(graph.add("VAEDecode", samples=sampled[0], vae=loader[1]))
    tiled = graph.save(
        graph.add(
            "VAEDecodeTiled",
            samples=sampled[0],
            vae=loader[1],
            tile_size=256,
            overlap=64,
            temporal_size=64,
            temporal_overlap=8,
        )  # fmt: skip
    )
    result = run(graph)
    assert np.abs(result[plain.id].astype(int) - result[tiled.id]).max() <= 1


def test_vae_encode(graph, save_latent, host, tiny):
    """VAEEncode gives the backend's un-quantised latent. Noise, since a plain colour would only amplify rounding."""
    pixels = np.random.default_rng(0).integers(0, 256, (96, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(host.base_directory / "input" / "noise.png")
    picture = graph.add("LoadImage", image="noise.png")
    found = save_latent(graph, graph.add("VAEEncode", pixels=picture[0], vae=graph.checkpoint()[1]))
    with torch.no_grad():
        expected = tiny.first_stage.encode(from_uint8(pixels[None]))
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_image_to_image_and_inpainting(graph, run):
    """VAEEncode -> KSampler at half strength, and the masked kind, keep size and batch."""
    loader = graph.checkpoint()
    grey = graph.add("EmptyImage", width=64, height=64, batch_size=1, color=0x336699)
    mask = graph.add("SolidMask", value=1.0, width=64, height=64)
    plain = graph.add("VAEEncode", pixels=grey[0], vae=loader[1])
    masked = graph.add("VAEEncodeForInpaint", pixels=grey[0], vae=loader[1], mask=mask[0], grow_mask_by=6)
    saved = [
        graph.save(graph.add("VAEDecode", samples=ksampler(graph, loader, latent, denoise=d)[0], vae=loader[1]))
        for latent, d in ((plain, 0.5), (masked, 1.0))
    ]
    result = run(graph)
    assert [result[node.id].shape for node in saved] == [(1, 64, 64, 3)] * 2


def test_latent_blend(graph, save_latent):
    """LatentBlend mixes two of our latents."""
    loader = graph.checkpoint()
    left, right = (graph.ddim(loader, graph.noise(seed)) for seed in (1, 2))
    mixed = graph.add("LatentBlend", samples1=left[0], samples2=right[0], blend_factor=0.25)
    a, b, found = (save_latent(graph, node) for node in (left, right, mixed))
    torch.testing.assert_close(found, 0.25 * a + 0.75 * b)


def test_save_and_load_latent(graph, run, save_latent, client, host, assert_same_images):
    """A latent saved to disk and loaded again makes the same picture, and starts a sampler."""
    loader = graph.checkpoint()
    noise = graph.noise(9)
    expected = graph.save(graph.add("LDMVQDecode", latent=graph.ddim(loader, noise)[0], vae=loader[1]))
    save_latent(graph, noise)
    output: Path = max((host.base_directory / "output").glob("test_*.latent"), key=lambda path: path.stat().st_mtime_ns)
    shutil.copy(output, host.base_directory / "input" / "noise.latent")
    loaded = graph.add("LoadLatent", latent="noise.latent")
    again = graph.save(graph.add("LDMVQDecode", latent=graph.ddim(loader, loaded)[0], vae=loader[1]))
    graph.prompt[again.id]["inputs"]["filename_prefix"] = "again"
    result = run(graph)
    assert_same_images(result[expected.id], result[again.id])


def test_weights_can_be_saved(graph, client, host, tiny):
    """VAESave writes the first stage under its own key names."""
    graph.add("VAESave", vae=graph.checkpoint()[1], filename_prefix="first-stage")
    client.follow(client.submit(graph.prompt))
    (file,) = (host.base_directory / "output").glob("first-stage*.safetensors")
    assert load_file(file).keys() == tiny.first_stage.state_dict().keys()
