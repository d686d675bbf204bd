"""Requests that cannot fit are refused at once and for nothing; memory that runs out costs time, not the picture."""

import io
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from resident import MIB, forget_peak, resident

from ldm_headless import PACK_ROOT, ComfyClient, Event, PrivateHost, find_host
from ldm_headless.errors import ExecutionError, PromptRejectedError

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads and limits memory as Linux does")

# Beyond what any machine has. Of the smallest latents, and of the largest widgets, it is 550 GB.
LARGEST = {"width": 16384, "height": 16384}
WEIGHTS = "diffusion_pytorch_model.safetensors"


@contextmanager
def cheaply(host: PrivateHost) -> Iterator[None]:
    """Asserts that what happens here takes a second and next to no memory of the host."""
    forget_peak(host.pid)
    idle, start = resident(host.pid), time.monotonic()
    yield
    assert time.monotonic() - start < 1.0
    assert resident(host.pid, "VmHWM") < 1.1 * idle


@pytest.fixture
def idle(graph, run) -> None:
    """Everything that a first prompt imports and loads is there."""
    first = type(graph)()
    first.core(steps=1)
    run(first)


NOISES = {
    "LDMLatentNoise": {"seed": 1, "batch_size": 4096},
    "LDMEmptyLatent": {"batch_size": 4096},
    "LDMSeedWalk": {"seed_from": 1, "seed_to": 2, "frames": 4096, "path": "line"},
    "LDMSeedVariations": {"seed": 1, "variation_seed": 2, "variations": 4095, "strength": 0.1},
}


@pytest.mark.usefixtures("idle")
@pytest.mark.parametrize("node", NOISES)
def test_noise_that_no_machine_holds_is_refused_before_the_prompt_runs(graph, client: ComfyClient, host, node):
    graph.add("SaveLatent", samples=graph.add(node, **NOISES[node], **LARGEST)[0], filename_prefix="never")
    with cheaply(host), pytest.raises(PromptRejectedError, match=r"would take \d+\.\d GB of memory.*What fits: \d+ "):
        client.submit(graph.prompt)


RANGES = [("LDMEmptyLatent", "batch_size"), ("LDMSeedWalk", "frames"), ("LDMSeedVariations", "variations")]


@pytest.mark.parametrize(("node", "name"), RANGES)
@pytest.mark.parametrize("value", [0, 10**6, 10**30])
def test_ranges_of_noise_are_still_checked(graph, client: ComfyClient, node, name, value):
    """The host leaves them to a node that validates these inputs itself."""
    inputs = NOISES[node] | {"width": 64, "height": 64, name: value}
    graph.add("SaveLatent", samples=graph.add(node, **inputs)[0], filename_prefix="never")
    with pytest.raises(PromptRejectedError, match=f"{name} is {value}; expected "):
        client.submit(graph.prompt)


@pytest.mark.usefixtures("idle")
@pytest.mark.parametrize("node", NOISES)
def test_noise_whose_size_comes_by_a_wire_is_refused_when_it_runs(graph, client: ComfyClient, host, node):
    """Then no number is known before."""
    side = graph.add("PrimitiveInt", value=16384)
    inputs = NOISES[node] | {"width": side[0], "height": side[0]}
    graph.add("SaveLatent", samples=graph.add(node, **inputs)[0], filename_prefix="never")
    with cheaply(host), pytest.raises(ExecutionError, match=r"would take \d+\.\d GB of memory, and") as caught:
        client.follow(client.submit(graph.prompt))
    assert caught.value.node_type == node
    assert caught.value.exception_type.endswith(".TooLargeError")


@pytest.fixture
def vast(graph, client: ComfyClient) -> Any:
    """A latent of a picture of 16384x16384, 201 MB, which no network of the demo takes in 30 GB of memory.

    That of the device where the host computes, a card's or the machine's.
    """
    if max(device["vram_total"] for device in client.system_stats()["devices"]) > 30e9:
        pytest.skip("the device has the memory for it")
    return graph.noise(seed=1, **LARGEST)


LAST = {
    "LDMDDIMSampler": lambda graph, loader, latent: graph.ddim(loader, latent, steps=1),
    "LDMSampler": lambda graph, loader, latent: graph.add(
        "LDMSampler", model=loader[0], latent=latent[0], sampler="unipc", steps=2, grid="log_snr"
    ),
    "LDMImageToImage": lambda graph, loader, latent: graph.add(
        "LDMImageToImage", model=loader[0], latent=latent[0], seed=1, strength=0.5, sampler="ddim", steps=2, eta=0.0,
        grid="trailing",
    ),
    "LDMDDIMInversion": lambda graph, loader, latent: graph.add(
        "LDMDDIMInversion", model=loader[0], latent=latent[0], steps=2, grid="leading", iterations=1
    ),
    "LDMLatentWalk": lambda graph, loader, latent: graph.add(
        "LDMLatentWalk", latent_from=latent[0], latent_to=latent[0], frames=4096, path="line"
    ),
    "KSampler": lambda graph, loader, latent: graph.add(
        "KSampler", model=loader[0], positive=(empty := graph.add("LDMEmptyConditioning"))[0], negative=empty[0],
        latent_image=latent[0], seed=0, steps=2, cfg=1.0, sampler_name="euler", scheduler="simple", denoise=1.0,
    ),
    "LDMVQDecode": lambda graph, loader, latent: graph.add("LDMVQDecode", vae=loader[1], latent=latent[0]),
    "LDMVQDecodeTiled": lambda graph, loader, latent: graph.add(
        "LDMVQDecodeTiled", vae=loader[1], latent=latent[0], tile=64
    ),
}  # fmt: skip
DECODERS = ("LDMVQDecode", "LDMVQDecodeTiled")


def test_latents_that_no_network_takes(graph, client: ComfyClient, vast, host):
    """By all nodes that sample, by a native one too, and by the decoders; and the host works on.

    It keeps the latent for the next prompt, so that nothing but the refusal is measured. A native sampler draws its
    noise before it asks the model.
    """
    loader = graph.checkpoint("portraits-128")

    def refused(node: str) -> None:
        prompt = type(graph)()
        prompt.prompt = dict(graph.prompt)
        prompt.add("PreviewAny", source=LAST[node](prompt, loader, vast)[0])
        size = r"1 image of 16384x16384 pixels would take \d+\." if node in DECODERS else ""
        with pytest.raises(ExecutionError, match=rf"{size}\d GB of memory") as caught:
            client.follow(client.submit(prompt.prompt))
        assert caught.value.node_type == node
        assert caught.value.exception_type.endswith(".TooLargeError")

    refused("LDMDDIMSampler")
    for node in LAST:
        with cheaply(host) if node.startswith("LDM") else nullcontext():
            refused(node)
    client.free()
    good = type(graph)()
    good.core(steps=1)
    client.follow(client.submit(good.prompt))


# Memory that really runs out: the address space of a host is limited while it runs. How much is right depends on the
# machine, and oneDNN may end the host in the last megabytes, so that these are run on demand.
exhausts = pytest.mark.skipif("LDM_EXHAUST" not in os.environ, reason="takes a host's memory away; set LDM_EXHAUST=1")


@pytest.fixture(scope="module")
def tight(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateHost]:
    """A host of its own, with one thread: each takes address space."""
    base = tmp_path_factory.mktemp("tight")
    with PrivateHost(find_host(), {"comfyui-ldm": PACK_ROOT}, base, threads=1, cpu=True) as running:
        yield running


@contextmanager
def limited(host: PrivateHost, mebibytes: int) -> Iterator[None]:
    """No more than that much memory for a host beyond what it has mapped now."""
    before = resource.prlimit(host.pid, resource.RLIMIT_AS)
    limit = resident(host.pid, "VmSize") + mebibytes * MIB
    resource.prlimit(host.pid, resource.RLIMIT_AS, (limit, before[1]))
    try:
        yield
    finally:
        resource.prlimit(host.pid, resource.RLIMIT_AS, before)


def sampled_graph(graph: Any, images: int, side: int, tag: int) -> Any:
    """A prompt and its SaveImage; `tag` changes nothing but what the host has in its cache."""
    made = type(graph)()
    loader = made.checkpoint("portraits-128")
    sampled = made.ddim(loader, made.noise(seed=5, batch_size=images, width=side, height=side), steps=1)
    made.prompt[sampled.id]["inputs"] |= {"cache_interval": 1, "cache_depth": tag}
    return made, made.save(made.add("LDMVQDecode", vae=loader[1], latent=sampled[0]))


def pictures(host: PrivateHost, graph: Any, saved: Any) -> np.ndarray:
    """(N, H, W, 3) of the SaveImage `saved`."""
    with ComfyClient(host.url) as client:
        prompt_id = client.submit(graph.prompt)
        client.follow(prompt_id)
        refs = [ref for ref in client.outputs(prompt_id) if ref.node_id == saved.id]
        return np.stack([np.asarray(Image.open(io.BytesIO(client.fetch(ref)))) for ref in refs])


@exhausts
def test_a_decoder_that_runs_out_goes_on_in_tiles(graph, tight, assert_same_images):
    expected = pictures(tight, *sampled_graph(graph, 1, 640, tag=1))
    with limited(tight, 45):
        made = pictures(tight, *sampled_graph(graph, 1, 640, tag=2))
    assert_same_images(made, expected)
    assert "Trying tiles, which show the same picture." in tight.log()


@exhausts
def test_where_nothing_helps_a_message_says_what_to_do(graph, tight):
    """And the host works on once there is memory again."""
    prompt, _ = sampled_graph(graph, 1, 2048, tag=3)
    with ComfyClient(tight.url) as client, limited(tight, 60), pytest.raises(ExecutionError) as caught:
        client.follow(client.submit(prompt.prompt))
    assert "Make the image smaller, or close other programs" in caught.value.exception_message
    assert len(pictures(tight, *sampled_graph(graph, 1, 128, tag=1))) == 1


@exhausts
def test_a_unet_that_runs_out_goes_on_in_parts(graph, tight, assert_same_images):
    """64 latents of 64x64 want some 700 MB; the pictures are the same, and the log says it once."""
    expected = pictures(tight, *sampled_graph(graph, 64, 256, tag=1))
    with limited(tight, 300):
        made = pictures(tight, *sampled_graph(graph, 64, 256, tag=2))
    assert_same_images(made, expected)
    assert tight.log().count("UNet: out of memory with 64 images at once; going on with 32") == 1


# Files that change.


@pytest.fixture
def own(models: Path, write_checkpoint: Callable[[Path], Path], tmp_path: Path) -> Path:
    """A checkpoint that a test may spoil."""
    return write_checkpoint(models / f"own-{tmp_path.name}")


def test_a_checkpoint_that_is_replaced_is_loaded_anew(graph, run, own: Path, models: Path):
    """Other weights under its name: another picture, and the first one's again when they are back."""
    saved = graph.core(own.name, steps=2)
    before = run(graph)[saved.id]
    file, kept = own / "unet" / WEIGHTS, own / "kept"
    data = bytearray(file.read_bytes())
    data[-40000:] = bytes(40000)
    file.rename(kept)
    file.write_bytes(data)
    assert (run(graph)[saved.id] != before).any()
    kept.replace(file)
    graph.prompt[saved.id]["inputs"]["filename_prefix"] = "again"
    assert (run(graph)[saved.id] == before).all()


def test_a_checkpoint_that_is_truncated_is_refused_and_the_host_works_on(graph, run, client: ComfyClient, own: Path):
    """In place, under weights that are mapped: the loader sees it before anything reads them."""
    graph.core(own.name, steps=2)
    run(graph)
    os.truncate(own / "unet" / WEIGHTS, 5000)
    graph.prompt["2"]["inputs"]["seed"] = 4
    with pytest.raises(ExecutionError, match="It is cut short or damaged") as caught:
        client.follow(client.submit(graph.prompt))
    assert caught.value.node_type == "LDMCheckpointLoader"
    good = type(graph)()
    good.core(steps=1)
    run(good)


def touching(file: Path, node: str) -> Callable[[Event], None]:
    """For `follow`: makes a file newer at each step of a node."""

    def touch(event: Event) -> None:
        if event.type == "progress" and event.data.get("node") == node:
            os.utime(file)

    return touch


@pytest.mark.parametrize("node", ["LDMDDIMSampler", "KSampler"])
def test_a_checkpoint_that_changes_during_a_run_ends_it(graph, client: ComfyClient, own: Path, node):
    """At the next step, with a message, before the weights are read again."""
    loader = graph.checkpoint(own.name)
    if node == "KSampler":
        empty = graph.add("LDMEmptyConditioning")
        sampled = graph.add(
            "KSampler", model=loader[0], positive=empty[0], negative=empty[0], latent_image=graph.noise()[0], seed=0,
            steps=1000, cfg=1.0, sampler_name="euler", scheduler="simple", denoise=1.0,
        )  # fmt: skip
    else:
        sampled = graph.ddim(loader, graph.noise(), steps=1000)
    graph.save(graph.add("LDMVQDecode", vae=loader[1], latent=sampled[0]))

    with pytest.raises(ExecutionError, match="the file was changed while its weights were in use") as caught:
        client.follow(client.submit(graph.prompt), touching(own / "unet" / WEIGHTS, sampled.id))
    assert caught.value.node_type == node


def test_a_first_stage_that_changes_is_noticed_before_decoding(graph, client: ComfyClient, own: Path):
    loader = graph.checkpoint(own.name)
    sampled = graph.ddim(loader, graph.noise(), steps=200)
    graph.save(graph.add("VAEDecode", vae=loader[1], samples=sampled[0]))

    with pytest.raises(ExecutionError, match="vqvae.*was changed while its weights were in use") as caught:
        client.follow(client.submit(graph.prompt), touching(own / "vqvae" / WEIGHTS, sampled.id))
    assert caught.value.node_type == "VAEDecode"
