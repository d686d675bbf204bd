"""Whatever layers the host builds models from: checkpoints load and draw the same, or the message says what it is.

The newest hosts give layers without weights while DynamicVRAM is on. The host at hand is made to do so, and worse, by
a pack that exists for these tests.
"""

import itertools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from text_models import load_texts

import ldm_backend
from ldm_headless import PACK_ROOT, ComfyClient, PrivateHost, find_host
from ldm_headless.errors import ExecutionError

NUMBERS = itertools.count()
LOADABLE = ["dynamic vram", "none", "uninitialised", "cast"]


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateHost]:
    """A host of its own, since the pack changes it for good."""
    packs = {"comfyui-ldm": PACK_ROOT, "layers": Path(__file__).parent / "layers_pack"}
    with PrivateHost(find_host(), packs, tmp_path_factory.mktemp("layers")) as running:
        yield running


@pytest.fixture(scope="module")
def models(host: PrivateHost) -> Path:
    return host.base_directory / "models" / "ldm"


@pytest.fixture(scope="module")
def tiny(models: Path, write_checkpoint: Callable[[Path], Path]) -> ldm_backend.LatentDiffusion:
    return ldm_backend.load(write_checkpoint(models / "tiny"), device="cpu")


@pytest.fixture
def choose(client: ComfyClient, graph, models: Path, tiny) -> Iterator[Callable[[str], str]]:
    """Makes the host give such layers, and returns the name of a checkpoint that it has not loaded before."""

    def layers(kind: str) -> str:
        client.follow(client.submit({"1": {"class_type": "TestLayers", "inputs": {"layers": kind}}}))
        name = f"{kind} {next(NUMBERS)}"
        shutil.copytree(models / "tiny", models / name)
        return name

    yield layers
    layers("plain")


@pytest.mark.parametrize("kind", LOADABLE)
def test_the_picture_is_the_same(graph, run, client, choose, tiny, assert_same_images, kind: str) -> None:
    """And again after the host has let the models go."""
    expected = ldm_backend.generate(tiny, seeds=[4], steps=5)
    saved = graph.core(choose(kind), seed=4)
    assert_same_images(run(graph)[saved.id], expected)
    client.free()
    graph.prompt[saved.id]["inputs"]["filename_prefix"] = "after"
    assert_same_images(run(graph)[saved.id], expected)


@pytest.mark.parametrize("kind", LOADABLE)
def test_a_model_of_texts_draws_the_same(
    graph, run, client, choose, models: Path, assert_same_images, kind: str
) -> None:
    """Its UNet and its text encoder have layers that others do not have; again after the host has let them go."""
    choose(kind)
    model = load_texts(models / f"texts of {kind}")
    expected = ldm_backend.generate(model, [4], prompts="a smiling woman", cfg=3.0, steps=3)
    loader = graph.checkpoint(f"texts of {kind}")
    noise = graph.add("LDMLatentNoise", seed=4, width=32, height=32, batch_size=1, model=loader[0])
    texts = [graph.add("CLIPTextEncode", clip=loader[2], text=text) for text in ("a smiling woman", "")]
    sampled = graph.add(
        "LDMSampler", model=loader[0], latent=noise[0], sampler="ddim", steps=3, grid="leading", cfg=3.0,
        positive=texts[0][0], negative=texts[1][0],
    )  # fmt: skip
    saved = graph.save(graph.add("LDMVQDecode", vae=loader[1], latent=sampled[0]))
    assert_same_images(run(graph)[saved.id], expected)
    client.free()
    graph.prompt[saved.id]["inputs"]["filename_prefix"] = "after"
    graph.prompt[texts[0].id]["inputs"]["text"] = "a  smiling woman"  # the same words, encoded anew
    assert_same_images(run(graph)[saved.id], expected)


@pytest.mark.parametrize("kind", LOADABLE)
def test_native_nodes_draw_the_same_too(graph, run, choose, assert_same_images, kind: str) -> None:
    """KSampler and VAE Decode with these layers and with the host's usual ones."""
    pictures = []
    for name in (choose("plain"), choose(kind)):
        loader, empty = graph.checkpoint(name), graph.add("LDMEmptyConditioning")
        sampled = graph.add(
            "KSampler", model=loader[0], positive=empty[0], negative=empty[0], latent_image=graph.noise()[0], seed=3,
            steps=3, cfg=1.0, sampler_name="dpmpp_2m", scheduler="karras", denoise=1.0,
        )  # fmt: skip
        saved = graph.save(graph.add("VAEDecode", vae=loader[1], samples=sampled[0]))
        pictures.append(run(graph)[saved.id])
    assert_same_images(*pictures)


@pytest.mark.parametrize("kind", LOADABLE)
@pytest.mark.parametrize("part", ["unet", "vqvae"])
def test_weights_that_do_not_fit_are_still_refused(graph, run, choose, models: Path, kind: str, part: str) -> None:
    """These layers themselves would take any shape, and leave out what is missing."""
    name = choose(kind)
    file = models / name / part / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    key = next(key for key in tensors if key.endswith(("to_q.weight", "time_embedding.linear_1.weight")))
    save_file(tensors | {key: torch.zeros(4, 4)}, file)
    graph.core(name)
    with pytest.raises(ExecutionError, match=rf"other shapes: {key}; {key} is \(4, 4\), expected"):
        run(graph)
    del tensors[key]
    save_file(tensors, file)
    with pytest.raises(ExecutionError, match=f"missing keys: {key}"):
        run(graph)


def test_layers_without_plain_weights_are_named(graph, run, choose) -> None:
    graph.core(choose("quantised"))
    with pytest.raises(ExecutionError, match=r"QuantisedLinear, which is no torch Linear with plain weights"):
        run(graph)
