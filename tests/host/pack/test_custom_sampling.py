"""Sampler, sigmas, guider and noise as single nodes: the pictures of LDM Sampler, also among the host's own parts."""

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from failures import expect_failure
from PIL import Image
from safetensors.torch import load_file, save_file

from ldm_backend.sampling.noise import draw_noise
from ldm_backend.sampling.samplers import SAMPLERS, sample
from ldm_backend.views.images import from_uint8, to_uint8
from ldm_headless import PACK_ROOT, ComfyClient, PrivateHost, find_host

SCHEDULERS = ["simple", "sgm_uniform", "karras", "exponential", "ddim_uniform", "beta", "normal", "linear_quadratic",
              "kl_optimal"]  # fmt: skip


def ldm_sigmas(graph: Any, loader: Any, steps: int = 5, grid: str = "trailing", strength: float = 1.0) -> Any:
    return graph.add("LDMSigmas", model=loader[0], steps=steps, grid=grid, strength=strength)


def ldm_sampler(graph: Any, sampler: str = "ddim", eta: float = 0.0) -> Any:
    return graph.add("LDMSamplerSelect", sampler=sampler, eta=eta)


def advanced(graph: Any, loader: Any, latent: Any, **parts: Any) -> Any:
    """SamplerCustomAdvanced with our four nodes, or others in their place."""
    given = {
        "noise": parts.get("noise") or graph.add("LDMNoise", seed=3),
        "guider": parts.get("guider") or graph.add("LDMGuider", model=loader[0]),
        "sampler": parts.get("sampler") or ldm_sampler(graph),
        "sigmas": parts.get("sigmas") or ldm_sigmas(graph, loader),
    }
    return graph.add("SamplerCustomAdvanced", latent_image=latent[0], **{name: node[0] for name, node in given.items()})


def decode(graph: Any, loader: Any, latent: Any, output: int = 0) -> Any:
    return graph.save(graph.add("LDMVQDecode", vae=loader[1], latent=latent[output]))


def euler(graph: Any) -> Any:
    return graph.add("KSamplerSelect", sampler_name="euler")


def picture(graph: Any, host: PrivateHost, loader: Any) -> tuple[np.ndarray, Any]:
    """An image in the host's input folder and its encoded latent. Noise: a plain colour would amplify rounding."""
    pixels = np.random.default_rng(5).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(host.base_directory / "input" / "custom.png")
    image = graph.add("LoadImage", image="custom.png")
    return pixels, graph.add("VAEEncode", pixels=image[0], vae=loader[1])


def latents(graph: Any, client: ComfyClient, host: PrivateHost, nodes: list[Any]) -> list[torch.Tensor]:
    """Runs the graph; the latent of each node, through SaveLatent."""
    savers = [graph.add("SaveLatent", samples=node[0], filename_prefix="custom") for node in nodes]
    prompt_id = client.submit(graph.prompt)
    client.follow(prompt_id)
    entry = client.history(prompt_id)
    assert entry is not None
    files = [entry["outputs"][saver.id]["latents"][0] for saver in savers]
    return [
        load_file(host.base_directory / "output" / file["subfolder"] / file["filename"])["latent_tensor"]
        for file in files
    ]


@pytest.mark.parametrize("grid", ["leading", "trailing", "log_snr"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_picture_of_the_single_node(graph, run, assert_same_images, sampler, grid):
    """Every sampler, through the host's guider and sigma space, draws what LDM Sampler draws."""
    loader = graph.checkpoint()
    single = graph.add("LDMSampler", model=loader[0], latent=graph.noise(3, 2)[0], sampler=sampler, steps=6, grid=grid)
    parts = advanced(
        graph, loader, graph.empty(2), sampler=ldm_sampler(graph, sampler),
        sigmas=ldm_sigmas(graph, loader, 6, grid),
    )  # fmt: skip
    saved = [decode(graph, loader, single), decode(graph, loader, parts), decode(graph, loader, parts, 1)]
    result = run(graph)
    assert_same_images(result[saved[0].id], result[saved[1].id])
    # The second output is x_0 as last predicted, which these grids, ending at a clean image, make the result itself.
    if sampler == "ddim":
        assert_same_images(result[saved[1].id], result[saved[2].id])


def test_fractions_of_a_timestep_reach_the_network(graph, run, assert_same_images):
    """On the trained demo model, whose pictures change when timesteps are rounded, as the host does by itself."""
    loader = graph.checkpoint("portraits-128")
    noise = graph.noise(3, width=128, height=128)
    single = graph.add("LDMSampler", model=loader[0], latent=noise[0], sampler="ddim", steps=8, grid="log_snr")
    latent = graph.empty(width=128, height=128)
    parts = advanced(graph, loader, latent, sigmas=ldm_sigmas(graph, loader, 8, "log_snr"))
    saved = [decode(graph, loader, node) for node in (single, parts)]
    result = run(graph)
    assert_same_images(result[saved[0].id], result[saved[1].id])


@pytest.mark.parametrize("first", ["uni_pc", "uni_pc_bh2", "euler", "heun"])
def test_sigmas_are_the_same_after_a_sampler_of_the_host(graph, client, host, first):
    """The host's uni_pc writes into what it is given, which stays on the wire of LDM Sigmas for all that follow."""
    loader = graph.checkpoint()
    native = graph.add("KSamplerSelect", sampler_name=first)
    shared = ldm_sigmas(graph, loader)
    before = advanced(graph, loader, graph.empty(), sampler=native, sigmas=shared)
    after = [advanced(graph, loader, before, sigmas=sigmas) for sigmas in (shared, ldm_sigmas(graph, loader, 5))]
    assert torch.equal(*latents(graph, client, host, after))


def test_noise_of_the_steps(graph, run, assert_same_images):
    """Each image goes on with the random numbers of its own seed, past the largest one too, as in LDM DDIM Sampler."""
    loader, seed = graph.checkpoint(), 2**64 - 2
    single = graph.ddim(loader, graph.noise(seed, 3), eta=1.0, grid="trailing")
    parts = advanced(
        graph,
        loader,
        graph.empty(3),
        noise=graph.add("LDMNoise", seed=seed),
        sampler=ldm_sampler(graph, eta=1.0),
    )
    saved = [decode(graph, loader, single), decode(graph, loader, parts)]
    result = run(graph)
    assert_same_images(result[saved[0].id], result[saved[1].id])
    assert len({image.tobytes() for image in result[saved[1].id]}) == 3


def test_part_of_a_batch_keeps_its_seeds(graph, run, assert_same_images):
    """One LDM Noise for a batch and for its third image alone: the same picture, noise of the steps included."""
    loader, noise, sampler = graph.checkpoint(), graph.add("LDMNoise", seed=8), ldm_sampler(graph, eta=1.0)
    batch = graph.empty(4)
    third = graph.add("LatentFromBatch", samples=batch[0], batch_index=2, length=1)
    saved = [
        decode(graph, loader, advanced(graph, loader, latent, noise=noise, sampler=sampler))
        for latent in (batch, third)
    ]
    result = run(graph)
    assert_same_images(result[saved[0].id][2:3], result[saved[1].id])


def test_random_noise_and_sampler_custom(graph, run, assert_same_images):
    """The first image of the host's own noise is that of the seed, with our guider, and in SamplerCustom with cfg."""
    loader, empty = graph.checkpoint(), graph.add("LDMEmptyConditioning")
    sampler, sigmas = ldm_sampler(graph, eta=0.5), ldm_sigmas(graph, loader)
    single = graph.ddim(loader, graph.noise(12), eta=0.5, grid="trailing")
    random = advanced(
        graph,
        loader,
        graph.empty(),
        noise=graph.add("RandomNoise", noise_seed=12),
        sampler=sampler,
        sigmas=sigmas,
    )
    custom = graph.add(
        "SamplerCustom", model=loader[0], add_noise=True, noise_seed=12, cfg=4.0, positive=empty[0], negative=empty[0],
        sampler=sampler[0], sigmas=sigmas[0], latent_image=graph.empty()[0],
    )  # fmt: skip
    saved = [decode(graph, loader, latent) for latent in (single, random, custom)]
    result = run(graph)
    assert_same_images(result[saved[0].id], result[saved[1].id])
    assert_same_images(result[saved[0].id], result[saved[2].id])


@pytest.mark.parametrize("grid", ["trailing", "log_snr"])
def test_two_halves_are_the_whole(graph, run, assert_same_images, grid):
    """SplitSigmas; the second half starts from the latent of the first, without noise."""
    loader = graph.checkpoint()
    sigmas = ldm_sigmas(graph, loader, 8, grid)
    split = graph.add("SplitSigmas", sigmas=sigmas[0], step=3)
    latent = graph.empty(2)
    whole = advanced(graph, loader, latent, sigmas=sigmas)
    first = advanced(graph, loader, latent, sigmas=split)
    second = graph.add(
        "SamplerCustomAdvanced", noise=graph.add("DisableNoise")[0], guider=graph.add("LDMGuider", model=loader[0])[0],
        sampler=ldm_sampler(graph)[0], sigmas=split[1], latent_image=first[0],
    )  # fmt: skip
    saved = [decode(graph, loader, node) for node in (whole, second)]
    result = run(graph)
    assert_same_images(result[saved[0].id], result[saved[1].id])


@pytest.mark.parametrize("scheduler", ["LDMSigmas", *SCHEDULERS])
def test_native_euler_is_ddim(graph, run, assert_same_images, scheduler):
    """Euler in sigma space is DDIM with eta 0, on our sigmas and on those of every native scheduler.

    Ours names a timestep where Euler names a sigma, so this also shows that both mean the same between two timesteps.
    """
    loader = graph.checkpoint()
    sigmas = (
        ldm_sigmas(graph, loader, 8)
        if scheduler == "LDMSigmas"
        else graph.add("BasicScheduler", model=loader[0], scheduler=scheduler, steps=8, denoise=1.0)
    )
    latent = graph.empty(2)
    ours = advanced(graph, loader, latent, sigmas=sigmas)
    native = advanced(graph, loader, latent, sigmas=sigmas, sampler=euler(graph))
    saved = [decode(graph, loader, node) for node in (ours, native)]
    result = run(graph)
    assert_same_images(result[saved[0].id], result[saved[1].id])


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_samplers_on_karras_sigmas(graph, run, sampler):
    """Sigmas between the timesteps of the training suit every sampler."""
    loader = graph.checkpoint()
    sigmas = graph.add("BasicScheduler", model=loader[0], scheduler="karras", steps=10, denoise=1.0)
    saved = decode(
        graph, loader, advanced(graph, loader, graph.empty(), sigmas=sigmas, sampler=ldm_sampler(graph, sampler))
    )
    assert run(graph)[saved.id].std() > 0


def test_part_of_the_way_on_an_image(graph, run, host, tiny, assert_same_images):
    """Strength 0.5: the encoded image, noised for the timestep in the middle, and the last half of the grid."""
    loader = graph.checkpoint()
    pixels, latent = picture(graph, host, loader)
    sigmas = ldm_sigmas(graph, loader, 4, strength=0.5)
    saved = decode(graph, loader, advanced(graph, loader, latent, sigmas=sigmas))
    with torch.no_grad():
        x_0, pairs = tiny.first_stage.encode(from_uint8(pixels[None])), tiny.schedule.last_timesteps(4, 0.5, "trailing")
        a = tiny.schedule.alpha_cumprod(pairs[0][0])
        x_t = a**0.5 * x_0 + (1 - a) ** 0.5 * draw_noise([3], (3, 16, 16))
        expected = to_uint8(tiny.first_stage.decode(sample("ddim", tiny.unet, x_t, tiny.schedule, pairs)))
    assert_same_images(run(graph)[saved.id], expected)


@pytest.mark.parametrize("mask_value", [1.0, 0.5])
def test_noise_mask(graph, client, host, mask_value):
    """Where the mask is black the latent stays; the rest is what native euler, that is DDIM, draws with this mask.

    DifferentialDiffusion turns a grey mask into one that changes from step to step.
    """
    loader = graph.checkpoint()
    _, latent = picture(graph, host, loader)
    white = graph.add("SolidMask", value=mask_value, width=32, height=64)
    black = graph.add("SolidMask", value=0.0, width=64, height=64)
    mask = graph.add("MaskComposite", destination=black[0], source=white[0], x=0, y=0, operation="add")
    masked = graph.add("SetLatentNoiseMask", samples=latent[0], mask=mask[0])
    guider = graph.add("LDMGuider", model=graph.add("DifferentialDiffusion", model=loader[0])[0])
    nodes = [advanced(graph, loader, masked, guider=guider, sampler=s) for s in (ldm_sampler(graph), euler(graph))]
    ours, native, kept = latents(graph, client, host, [*nodes, latent])
    torch.testing.assert_close(ours, native, atol=2e-3 * float(native.std()), rtol=0)
    torch.testing.assert_close(ours[..., 8:], kept[..., 8:], atol=1e-5, rtol=1e-5)
    assert (ours - kept)[..., :8].abs().mean() > 0.1 * kept.std()


def test_one_noise_for_two_batches(graph, run, assert_same_images):
    """A node that feeds two samplers does not remember the first of them."""
    loader, noise, sampler = graph.checkpoint(), graph.add("LDMNoise", seed=20), ldm_sampler(graph, eta=1.0)
    saved = [
        decode(graph, loader, advanced(graph, loader, graph.empty(size), noise=noise, sampler=sampler))
        for size in (1, 3)
    ]
    result = run(graph)
    assert_same_images(result[saved[0].id], result[saved[1].id][:1])


def test_sigmas_that_rise_are_refused(graph, client):
    loader = graph.checkpoint()
    flipped = graph.add("FlipSigmas", sigmas=ldm_sigmas(graph, loader)[0])
    decode(graph, loader, advanced(graph, loader, graph.empty(), sigmas=flipped))
    message = expect_failure(client, graph, "SamplerCustomAdvanced")
    assert "sigmas[1]" in message
    assert "FlipSigmas" in message


def test_sigmas_that_the_model_does_not_know_are_refused(graph, client):
    """KarrasScheduler's own defaults belong to another model and end below the least noise of ours."""
    loader = graph.checkpoint()
    karras = graph.add("KarrasScheduler", steps=5, sigma_max=14.614642, sigma_min=0.0291675, rho=7.0)
    decode(graph, loader, advanced(graph, loader, graph.empty(), sigmas=karras))
    message = expect_failure(client, graph, "SamplerCustomAdvanced")
    assert "0.0291675" in message
    assert "0.0387" in message
    assert "sigma_min" in message


def test_strength_of_nothing_is_refused(graph, client):
    loader = graph.checkpoint()
    decode(graph, loader, advanced(graph, loader, graph.empty(), sigmas=ldm_sigmas(graph, loader, strength=0.0)))
    assert "strength is 0" in expect_failure(client, graph, "LDMSigmas")


@pytest.mark.parametrize("sampler", [name for name in SAMPLERS if name != "ddim"])
def test_eta_of_a_sampler_without_one_is_refused(graph, client, sampler):
    loader = graph.checkpoint()
    decode(graph, loader, advanced(graph, loader, graph.empty(), sampler=ldm_sampler(graph, sampler, 0.5)))
    assert f"{sampler} has no eta" in expect_failure(client, graph, "LDMSamplerSelect")


def test_nan_names_the_step(graph, client, host):
    """A latent with NaN ends in a message that says so, not in a black picture."""
    file = host.base_directory / "input" / "nan.latent"
    save_file(
        {"latent_tensor": torch.full((1, 3, 16, 16), torch.nan), "latent_format_version_0": torch.tensor([])}, file
    )
    loader, latent = graph.checkpoint(), graph.add("LoadLatent", latent=file.name)
    before = type(graph)()
    before.prompt = dict(graph.prompt)
    decode(before, loader, advanced(before, loader, latent))
    assert "latent_image holds NaN" in expect_failure(client, before, "SamplerCustomAdvanced")  # says LDM Noise
    noise = graph.add("RandomNoise", noise_seed=3)  # looks at no numbers
    decode(graph, loader, advanced(graph, loader, latent, noise=noise))
    message = expect_failure(client, graph, "SamplerCustomAdvanced")
    assert "step 1 of 5" in message
    assert "already not finite" in message


def test_latent_of_another_size_is_refused(graph, client):
    """17 latent cells cannot be halved twice."""
    loader = graph.checkpoint()
    decode(graph, loader, advanced(graph, loader, graph.odd()))
    assert "16x17" in expect_failure(client, graph, "SamplerCustomAdvanced")


def test_cancel_stops_within_a_step(graph, client: ComfyClient, progress_until_cancelled):
    """Cancelled at the first step of a run of 1000, the host is free at once and the next prompt works."""
    loader = graph.checkpoint()
    sampled = advanced(graph, loader, graph.empty(16), sigmas=ldm_sigmas(graph, loader, 1000))
    decode(graph, loader, sampled)
    assert progress_until_cancelled(graph, sampled.id)[-1] < 100
    good = type(graph)()
    loader = good.checkpoint()
    decode(good, loader, advanced(good, loader, good.empty(), sigmas=ldm_sigmas(good, loader, 1)))
    client.follow(client.submit(good.prompt))


@pytest.fixture(scope="module")
def foreign_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateHost]:
    """A host that also has a MODEL of another family."""
    packs = {"comfyui-ldm": PACK_ROOT, "foreign": Path(__file__).parent / "foreign_pack"}
    base = tmp_path_factory.mktemp("foreign")
    with PrivateHost(find_host(), packs, base, required_nodes=["LDMGuider", "TestForeignModel"]) as running:
        yield running


@pytest.mark.parametrize("node", ["LDMGuider", "LDMSigmas"])
def test_foreign_model_is_refused(foreign_host, graph, node):
    """Both name the loader that they need."""
    foreign, ours = graph.add("TestForeignModel"), graph.checkpoint("portraits-128")
    parts = {"guider": foreign if node == "LDMGuider" else ours, "sigmas": foreign if node == "LDMSigmas" else ours}
    sampled = advanced(
        graph, ours, graph.empty(), guider=graph.add("LDMGuider", model=parts["guider"][0]),
        sigmas=ldm_sigmas(graph, parts["sigmas"], 1),
    )  # fmt: skip
    graph.add("SaveLatent", samples=sampled[0], filename_prefix="never")
    with ComfyClient(foreign_host.url) as client:
        assert "LDM Checkpoint Loader" in expect_failure(client, graph, node)


def test_timesteps_of_the_model(tmp_path):
    """At the table's sigmas the host's own whole timesteps, between them the inverse of its interpolation.

    In a process of its own with the host's modules; a running host has no window into them.
    """
    location = find_host()
    code = tmp_path / "check.py"
    code.write_text(
        "import importlib.util, sys; sys.path.insert(0, sys.argv[1])\n"
        "from comfy.cli_args import args; args.cpu = True\n"
        "import torch, comfy.model_sampling as native\n"
        "spec = importlib.util.spec_from_file_location('ours', sys.argv[2] + '/nodes/host/sigma_table.py')\n"
        "ours = importlib.util.module_from_spec(spec); spec.loader.exec_module(ours)\n"
        "class Config: sampling_settings = {'linear_start': 0.0015, 'linear_end': 0.0195, 'timesteps': 1000}\n"
        "old = native.ModelSamplingDiscrete(Config())\n"
        "betas = native.make_beta_schedule('linear', 1000, 0.0015, 0.0195)\n"
        "new = ours.make_model_sampling('epsilon', (1 - betas).cumprod(0))\n"
        "assert torch.equal(new.sigmas, old.sigmas)\n"
        "assert torch.equal(new.timestep(new.sigmas), old.timestep(old.sigmas).float())\n"
        "assert torch.equal(new.timestep(new.sigmas), torch.arange(1000.0))\n"
        "t = torch.linspace(0.0, 999.0, 3001)\n"
        "assert (new.timestep(new.sigma(t)) - t).abs().max() < 1e-3\n"
        "assert (new.timestep(new.sigma(t)) - old.timestep(new.sigma(t))).abs().max() <= 0.501\n"
        "assert new.timestep(torch.tensor([1e-9, 1e9])).tolist() == [0.0, 999.0]\n"
        "assert new.timestep(torch.tensor(1.0)).shape == () and new.timestep(torch.ones(2, 1)).shape == (2, 1)\n"
    )
    subprocess.run([location.python, "-P", code, location.path, PACK_ROOT], check=True, cwd=location.path)
