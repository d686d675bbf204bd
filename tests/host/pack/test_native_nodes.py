"""The host's own nodes on our MODEL, VAE and LATENT."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from ldm_backend.images import from_uint8
from ldm_backend.noise import draw_noise
from ldm_backend.samplers import sample_ddim


def ksampler(graph: Any, loader: Any, latent: Any, **changes: Any) -> Any:
    """KSampler as a user would set it for a model without a prompt."""
    empty = graph.add("LDMEmptyConditioning")
    inputs = {
        "seed": 3, "steps": 4, "cfg": 1.0, "sampler_name": "euler", "scheduler": "simple", "denoise": 1.0,
        "model": loader[0], "positive": empty[0], "negative": empty[0], "latent_image": latent[0],
    }  # fmt: skip
    return graph.add("KSampler", **(inputs | changes))


def empty_latent(graph: Any, batch_size: int = 2) -> Any:
    """EmptyLatentImage of 0.3 divides by 8 and makes 4 channels: 128 are 64 pixels for us, the channels are mended."""
    return graph.add("EmptyLatentImage", width=128, height=128, batch_size=batch_size)


@pytest.mark.parametrize(
    ("sampler", "scheduler"),
    [("ddim", "ddim_uniform"), ("euler", "simple"), ("dpmpp_2m", "karras"), ("uni_pc", "normal"), ("lcm", "simple")],
)
def test_ksampler(graph, run, sampler, scheduler):
    """Native samplers and schedulers run and make different images from different noise."""
    loader = graph.checkpoint()
    sampled = ksampler(graph, loader, empty_latent(graph), sampler_name=sampler, scheduler=scheduler)
    shown = graph.add("PreviewImage", images=graph.add("VAEDecode", samples=sampled[0], vae=loader[1])[0])
    images = run(graph)[shown.id]
    assert images.shape == (2, 64, 64, 3)
    assert (images[0] != images[1]).any()


def test_native_ddim_is_our_ddim(graph, save_latent, tiny):
    """KSampler's ddim with ddim_uniform walks the compvis grid in its own sigma space.

    The last step differs: the host goes to a clean image, compvis to timestep 0; so pred_x0 of the last step is
    compared. What remains is the host's start, scaled by sigma instead of sqrt(1 + sigma^2), and rounding.
    """
    sampled = ksampler(
        graph, graph.checkpoint(), empty_latent(graph, 1), steps=10, sampler_name="ddim", scheduler="ddim_uniform"
    )
    found = save_latent(graph, sampled)
    last = []
    x_T = draw_noise([3], (3, 16, 16))  # noqa: N806 - the papers' name
    pairs = tiny.schedule.timesteps(10, "compvis")
    sample_ddim(tiny.unet, x_T, tiny.schedule, pairs, callback=lambda info: last.append(info.pred_x0))
    assert (found - last[-1]).abs().max() < 2e-3 * last[-1].std()


def test_cfg_makes_no_difference(graph, save_latent):
    """Both conditionings are ignored, so guidance between them changes nothing but rounding."""
    loader, latent = graph.checkpoint(), empty_latent(graph)
    plain = save_latent(graph, ksampler(graph, loader, latent))
    guided = save_latent(graph, ksampler(graph, loader, latent, cfg=7.0))
    torch.testing.assert_close(plain, guided, atol=1e-4, rtol=1e-4)


def test_sampler_custom_advanced(graph, run):
    """Guider, sigmas and sampler as separate nodes; VAEDecodeTiled and PreviewImage at the end."""
    loader = graph.checkpoint()
    guider = graph.add("BasicGuider", model=loader[0], conditioning=graph.add("LDMEmptyConditioning")[0])
    sampled = graph.add(
        "SamplerCustomAdvanced",
        noise=graph.add("RandomNoise", noise_seed=3)[0],
        guider=guider[0],
        sampler=graph.add("KSamplerSelect", sampler_name="euler_ancestral")[0],
        sigmas=graph.add("BasicScheduler", model=loader[0], scheduler="normal", steps=4, denoise=1.0)[0],
        latent_image=empty_latent(graph)[0],
    )
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
        expected = tiny.vq.encode(from_uint8(pixels[None]))
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
    assert load_file(file).keys() == tiny.vq.state_dict().keys()
