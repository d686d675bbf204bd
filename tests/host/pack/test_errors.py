"""Every mistake gives one readable error through the host's own channel, and the host goes on working."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from ldm_headless import ComfyClient, PrivateHost
from ldm_headless.errors import PromptRejectedError

WEIGHTS = "diffusion_pytorch_model.safetensors"
Break = Callable[[Path], None]


@pytest.fixture
def fails(graph, client: ComfyClient, refusal) -> Any:
    """Runs the graph, expects one node to fail, checks that the next good prompt works; returns the message."""

    def run(node_type: str) -> str:
        message = refusal(graph, node_type)
        good = type(graph)()
        good.core(steps=1)
        client.follow(client.submit(good.prompt))
        return message

    return run


def set_config(part: str, **changes: Any) -> Break:
    def change(folder: Path) -> None:
        file = folder / part / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | changes))

    return change


def remove(name: str) -> Break:
    return lambda folder: (folder / name).unlink()


def truncate(folder: Path) -> None:
    file = folder / "unet" / WEIGHTS
    file.write_bytes(file.read_bytes()[:5000])


def drop_key(folder: Path) -> None:
    tensors = load_file(folder / "vqvae" / WEIGHTS)
    del tensors["quantize.embedding.weight"]
    save_file(tensors, folder / "vqvae" / WEIGHTS)


def spoil_weight(value: float) -> Break:
    def change(folder: Path) -> None:
        tensors = load_file(folder / "unet" / WEIGHTS)
        tensors["conv_in.weight"][0, 0, 0, 0] = value
        save_file(tensors, folder / "unet" / WEIGHTS)

    return change


class Foreign:
    """Unpickling this would run a command."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch SHOULD_NOT_EXIST",)


def foreign_pickle(folder: Path) -> None:
    (folder / "unet" / WEIGHTS).unlink()
    torch.save({"conv_in.weight": Foreign()}, folder / "unet" / "diffusion_pytorch_model.bin")


@pytest.mark.parametrize(
    ("damage", "named"),
    [
        (remove("unet/config.json"), ["unet/config.json", "layout"]),
        (remove("vqvae/config.json"), ["vqvae/config.json", "missing"]),
        (remove("scheduler/scheduler_config.json"), ["scheduler_config.json", "missing"]),
        (remove(f"vqvae/{WEIGHTS}"), ["vqvae", WEIGHTS]),
        (truncate, [f"unet/{WEIGHTS}", "5000 bytes", "download it again"]),
        (set_config("unet", block_out_channels=[32, 64, 64]), ["unet", "shapes", "expected"]),
        (set_config("vqvae", num_vq_embeddings=128), ["vqvae", "quantize.embedding.weight"]),
        (set_config("unet", class_embed_type="timestep"), ["unet/config.json", "class_embed_type"]),
        (drop_key, ["vqvae", "quantize.embedding.weight", "missing"]),
        (spoil_weight(torch.nan), ["unet", "conv_in.weight holds NaN or infinite values", "download it again"]),
        (spoil_weight(-torch.inf), ["unet", "conv_in.weight holds NaN or infinite values", "download it again"]),
        (foreign_pickle, ["diffusion_pytorch_model.bin", "system", "safetensors"]),
    ],
    ids=lambda value: getattr(value, "__name__", None) if callable(value) else str(value[0]),
)
def test_bad_checkpoint(graph, fails, models, tmp_path, write_checkpoint, damage, named):
    """Missing, damaged, refused or unfitting files: the message names the file and the way out."""
    folder = write_checkpoint(models / f"bad-{tmp_path.name}")
    try:
        damage(folder)
        graph.core(folder.name)
        message = fails("LDMCheckpointLoader")
    finally:
        shutil.rmtree(folder)
    for words in named:
        assert words in message
    assert not list(Path.cwd().glob("**/SHOULD_NOT_EXIST"))


def test_pickle_that_would_run_code_is_real(tmp_path):
    """The file of the test above does name a foreign function."""
    (tmp_path / "unet").mkdir()
    (tmp_path / "unet" / WEIGHTS).touch()
    foreign_pickle(tmp_path)
    with pytest.raises(pickle.UnpicklingError, match="system"):
        torch.load(tmp_path / "unet" / "diffusion_pytorch_model.bin", weights_only=True)


@pytest.mark.parametrize(
    "name",
    ["nothing-here", None, 5, "", ".", "..", "../ldm/tiny", "tiny/../tiny", "/tiny", "./tiny", "tiny/", "..\\ldm\\tiny",
     "C:\\tiny", "tiny/unet", "a/b/c", "tiny\0", "ABSOLUTE"],
)  # fmt: skip
def test_unknown_checkpoint(graph, fails, models, name):
    """A workflow from elsewhere names a model that is not here, or tries to lead out of the folders."""
    name = str(models / "tiny") if name == "ABSOLUTE" else name
    graph.core(name)
    message = fails("LDMCheckpointLoader")
    assert repr(name) in message or str(name) in message
    assert "tiny" in message  # what is there
    assert str(models) in message  # where it looked


def test_latent_of_another_family(graph, fails):
    """A 4-channel latent cannot enter our sampler."""
    latent = graph.add("EmptyLatentImage", width=128, height=128, batch_size=1)
    graph.save(graph.add("VAEDecode", samples=graph.ddim(graph.checkpoint(), latent)[0], vae=graph.checkpoint()[1]))
    assert "(1, 4, 16, 16)" in fails("LDMDDIMSampler")


@pytest.mark.parametrize("node", ["LDMVQDecode", "VAEDecode", "VAEDecodeTiled"])
def test_latent_of_another_family_decoded(graph, fails, node):
    """Nor can it be decoded, by our node or the host's."""
    latent = graph.add("EmptyLatentImage", width=128, height=128, batch_size=1)
    name = "latent" if node == "LDMVQDecode" else "samples"
    tiles = {"tile_size": 64, "overlap": 0, "temporal_size": 64, "temporal_overlap": 8} if "Tiled" in node else {}
    graph.save(graph.add(node, **{name: latent[0], "vae": graph.checkpoint()[1], **tiles}))
    message = fails(node)
    assert "(1, 4, 16, 16)" in message
    assert "(N, 3, H, W)" in message


def native(graph: Any, latent: Any) -> None:
    empty, loader = graph.add("LDMEmptyConditioning"), graph.checkpoint()
    sampled = graph.add(
        "KSampler", model=loader[0], positive=empty[0], negative=empty[0], latent_image=latent[0], seed=0, steps=2,
        cfg=1.0, sampler_name="euler", scheduler="simple", denoise=1.0,
    )  # fmt: skip
    graph.save(graph.add("VAEDecode", samples=sampled[0], vae=loader[1]))


def test_latent_of_another_family_in_a_native_sampler(graph, fails, host: PrivateHost):
    """The host mends empty latents; a real one of 4 channels must be refused."""
    file = host.base_directory / "input" / "foreign.latent"
    save_file({"latent_tensor": torch.ones(1, 4, 16, 16), "latent_format_version_0": torch.tensor([])}, file)
    native(graph, graph.add("LoadLatent", latent=file.name))
    message = fails("KSampler")
    assert "(1, 4, 16, 16)" in message


def test_odd_latent_in_a_native_sampler(graph, fails):
    """17 latent cells cannot be halved twice; the message names the nearest size that can."""
    native(graph, graph.odd())
    message = fails("KSampler")
    assert "16x17" in message
    assert "16x16" in message


@pytest.mark.parametrize("side", ["width", "height"])
@pytest.mark.parametrize("node", ["LDMLatentNoise", "LDMEmptyLatent"])
def test_odd_size(graph, fails, side, node):
    """The widget steps by 32, but a workflow may hold anything."""
    latent = graph.noise() if node == "LDMLatentNoise" else graph.empty()
    graph.prompt[latent.id]["inputs"][side] = 130
    native(graph, latent)
    message = fails(node)
    assert f"{side} is 130" in message
    assert "128 or 160" in message


def test_odd_latent_in_our_sampler(graph, fails):
    """A latent node may have cut the noise to a size that the model cannot take."""
    cut = graph.add("LatentUpscale", samples=graph.noise()[0], upscale_method="nearest-exact", width=136, height=128,
                    crop="disabled")  # fmt: skip
    loader = graph.checkpoint()
    graph.save(graph.add("LDMVQDecode", latent=graph.ddim(loader, cut)[0], vae=loader[1]))
    assert "16x17" in fails("LDMDDIMSampler")


@pytest.mark.parametrize("node", ["LDMDDIMSampler", "LDMSampler"])
def test_empty_latent_in_our_sampler(graph, fails, node):
    """It fits in shape, and zeros have no picture in them; the message names both ways out."""
    loader, latent = graph.checkpoint(), graph.empty(2)
    more = {"eta": 0.0, "grid": "leading"} if node == "LDMDDIMSampler" else {"sampler": "unipc", "grid": "log_snr"}
    sampled = graph.add(node, model=loader[0], latent=latent[0], steps=2, **more)
    graph.save(graph.add("LDMVQDecode", latent=sampled[0], vae=loader[1]))
    message = fails(node)
    assert all(words in message for words in ("The latent is empty", "LDM Latent Noise", "KSampler"))


def test_eta_without_a_seed(graph, fails, host: PrivateHost):
    """A latent from a file carries no seed; the message names the three ways out."""
    file = host.base_directory / "input" / "noise-without-seed.latent"
    save_file({"latent_tensor": torch.ones(1, 3, 16, 16), "latent_format_version_0": torch.tensor([])}, file)
    loader = graph.checkpoint()
    sampled = graph.ddim(loader, graph.add("LoadLatent", latent=file.name), eta=0.5)
    graph.save(graph.add("LDMVQDecode", latent=sampled[0], vae=loader[1]))
    message = fails("LDMDDIMSampler")
    assert all(words in message for words in ("seed", "LDM Latent Noise", "eta to 0"))


def test_vae_of_another_family(graph, fails, foreign_vae):
    foreign = graph.add("VAELoader", vae_name=foreign_vae)
    graph.save(graph.add("LDMVQDecode", latent=graph.noise()[0], vae=foreign[0]))
    assert "LDM Checkpoint Loader" in fails("LDMVQDecode")


@pytest.mark.parametrize(
    ("sampler", "words"),
    [({"grid": "karras"}, ["karras", "leading"]), ({"grid": "compvis", "steps": 300}, ["300", "steps"])],
)
def test_steps_that_the_grid_does_not_have(graph, fails, sampler, words):
    """Hosts of 0.3 do not check a V3 choice themselves."""
    graph.core(**sampler)
    message = fails("LDMDDIMSampler")
    assert all(word in message for word in words)


@pytest.mark.parametrize(
    ("node", "name", "value"),
    [("3", "steps", 0), ("3", "steps", 1001), ("3", "eta", 1.5), ("2", "seed", -1), ("2", "batch_size", 0)],
)
def test_out_of_range_is_refused_before_anything_runs(graph, client, node, name, value):
    """The host's own validation knows our ranges."""
    graph.core()
    graph.prompt[node]["inputs"][name] = value
    with pytest.raises(PromptRejectedError, match=name):
        client.submit(graph.prompt)
