"""Layouts, the choice of weights, saving and describing, on the real host."""

import io
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from class_models import GUIDED, write_class_file
from compvis_writer import compvis_state_dict
from conditional_models import CONFIGS, compvis_tensors
from PIL import Image

import ldm_backend
from ldm_backend.checkpoints.checkpoint import read_checkpoint
from ldm_backend.checkpoints.conversion import convert_to_single_file
from ldm_backend.checkpoints.single_file import fill_single_file
from ldm_backend.config.model import KLConfig, LDMConfig
from ldm_backend.config.presets import LSUN_CHURCHES_256
from ldm_backend.networks.first_stage import build_first_stage
from ldm_backend.networks.unet import UNet
from ldm_headless import ComfyClient, PrivateHost
from ldm_headless.errors import ExecutionError


@pytest.fixture(scope="module")
def formats(models: Path, tiny: ldm_backend.LatentDiffusion) -> Path:
    """The tiny model as an original checkpoint whose averaged weights differ, and as files that know themselves."""
    unet = tiny.unet.state_dict()
    ema = {key: 0.5 * tensor for key, tensor in unet.items()}
    state = compvis_state_dict(tiny.config, unet, tiny.first_stage.state_dict(), ema)
    torch.save({"state_dict": state, "global_step": 1}, models / "original.ckpt")
    for weights in ("ema", "raw"):
        checkpoint = read_checkpoint(models / "original.ckpt", weights, tiny.config)
        convert_to_single_file(checkpoint, models / f"{weights}.safetensors")
    return models


def picture(graph: Any, run: Callable[..., dict[str, np.ndarray]], **inputs: Any) -> np.ndarray:
    loader = graph.add("LDMCheckpointLoader", **inputs)
    sampled = graph.ddim(loader, graph.noise())
    node = graph.save(graph.add("LDMVQDecode", vae=loader[1], latent=sampled[0]))
    return run(graph)[node.id][0]


@pytest.mark.parametrize("weights", ["ema", "raw"])
def test_single_file_gives_the_backends_picture(graph, run, formats, assert_same_images, weights):
    model = ldm_backend.load(formats / f"{weights}.safetensors", device="cpu")
    expected = ldm_backend.generate(model, [3], steps=5)[0]
    assert_same_images(picture(graph, run, checkpoint=f"{weights}.safetensors"), expected)


def test_a_vae_in_bf16_gives_the_backends_picture(graph, run, formats, assert_same_images):
    model = ldm_backend.load(formats / "ema.safetensors", device="cpu", first_stage_precision="bf16")
    expected = ldm_backend.generate(model, [3], steps=5)[0]
    found = picture(graph, run, checkpoint="ema.safetensors", vae_precision="bf16")
    assert_same_images(found, expected)
    assert not np.array_equal(found, picture(type(graph)(), run, checkpoint="ema.safetensors"))


def test_averaged_and_raw_weights_differ(graph, run, formats):
    raw = picture(graph, run, checkpoint="raw.safetensors")
    ema = picture(type(graph)(), run, checkpoint="ema.safetensors")
    assert not np.array_equal(raw, ema)


def test_a_file_without_configuration_asks_for_it(graph, client: ComfyClient, formats):
    graph.core("original.ckpt")
    with pytest.raises(ExecutionError, match=r"original\.ckpt: no configuration.*celebahq-256"):
        client.follow(client.submit(graph.prompt))


def test_a_wrong_answer_is_named(graph, refusal, formats):
    """The preset of another model, and a path in its place, which must not be read."""
    no_path = "choose auto or one of|not in .'auto', "
    for config, message in (("celebahq-256", "do not fit|missing keys"), ("/etc/passwd", no_path)):
        wrong = type(graph)()
        loader = wrong.add("LDMCheckpointLoader", checkpoint="original.ckpt", weights="raw", config=config)
        wrong.save(wrong.add("LDMVQDecode", vae=loader[1], latent=wrong.noise()[0]))
        assert re.search(message, refusal(wrong, "LDMCheckpointLoader"))


def test_a_model_of_classes_is_refused_by_what_edits(graph, client: ComfyClient, refusal, models: Path):
    """And by what was made for other tasks; what draws from it is named."""
    write_class_file(models / "classes.safetensors", GUIDED)
    info = client.object_info()
    for name in ("LDMGuider", "LDMImageToImage", "LDMInpaint", "LDMDDIMInversion", "LDMSuperResolution"):
        wrong = type(graph)()
        wired(wrong, info, name, wrong.checkpoint("classes.safetensors"))
        message = refusal(wrong, name)
        assert "model: the MODEL is for classes: it draws pictures of classes" in message
        assert "Connect LDM Class with LDM Sampler, or choose another checkpoint" in message


WORDS = {"super-resolution": "LDM Super-Resolution", "inpainting": "LDM Inpaint Model",
         "semantic-synthesis": "LDM Semantic Labels with KSampler"}  # fmt: skip


@pytest.mark.parametrize("task", CONFIGS)
def test_a_model_of_another_task_is_refused_in_words(graph, client: ComfyClient, refusal, models: Path, task):
    """By every node that draws from noise alone, by what the model is for and with the node that takes it."""
    state, config = compvis_tensors(CONFIGS[task]), CONFIGS[task]
    torch.save(state, models / f"{task}.ckpt")
    convert_to_single_file(read_checkpoint(models / f"{task}.ckpt", config=config), models / f"{task}.safetensors")
    info = client.object_info()
    takers = {name for name, node in info.items() if name.startswith("LDM") and "model" in node["input"]["required"]}
    trained = {name for name in takers if node_task(info[name])}
    for name in sorted(takers - trained - {"LDMModelInfo", "LDMCheckpointSave", "LDMSigmas", "LDMGuided"}):  # any task
        wrong = type(graph)()
        wired(wrong, info, name, wrong.checkpoint(f"{task}.safetensors"))
        message = refusal(wrong, name)
        shown = task.replace("-synthesis", " synthesis")
        assert f"model: the MODEL is for {shown}: it" in message
        assert "This node takes one for pictures without a conditioning" in message
        assert f"Connect {WORDS[task]}, or choose another checkpoint" in message


def test_an_unconditional_model_is_refused_in_words(graph, client: ComfyClient, refusal, tiny):
    """By every node that was made for another task."""
    info = client.object_info()
    trained = {name: task for name, node in info.items() if name.startswith("LDM") and (task := node_task(node))}
    assert len(trained) >= 5
    known = {"super-resolution", "inpainting", "semantic synthesis", "classes", "vectors of CLIP"}
    assert set(trained.values()) == known
    del trained["LDMCLIPVectors"]  # no graph gives what CLIP Vision saw without its weights: see test_node_doors.py
    for name, task in trained.items():
        wrong = type(graph)()
        wired(wrong, info, name, wrong.checkpoint("tiny"))
        assert f"This node takes one for {task}" in refusal(wrong, name)


def node_task(node: dict[str, Any]) -> str:
    """What the tooltip of its MODEL says that it is for; nothing for other nodes."""
    settings = node["input"]["required"].get("model", [None, {}])[1]
    return settings.get("tooltip", "").partition(", of one for ")[2].partition(" (")[0].rstrip(".")


def wired(graph: Any, info: dict[str, Any], name: str, loader: Any) -> None:
    """A node with something fitting at each input, and a node behind it that asks for its result."""
    sources = {
        "MODEL": lambda: loader[0], "VAE": lambda: loader[1], "LATENT": lambda: graph.noise()[0],
        "IMAGE": lambda: graph.add("EmptyImage", width=64, height=64, batch_size=1, color=0)[0],
        "MASK": lambda: graph.add("SolidMask", value=1.0, width=64, height=64)[0],
    }  # fmt: skip
    inputs = {}
    for key, (kind, *settings) in info[name]["input"]["required"].items():
        choices = kind if isinstance(kind, list) else (settings[0].get("options") if settings else None)
        inputs[key] = sources[kind]() if kind in sources else settings[0].get("default", choices and choices[0])
    node = graph.add(name, **inputs)
    graph.add("PreviewAny", source=node[0])


@pytest.mark.parametrize("task", CONFIGS)
def test_a_model_of_every_task_is_loaded_told_and_saved(
    graph, client: ComfyClient, host: PrivateHost, models: Path, conditional, task
):
    """As it is, with what makes its conditioning."""
    loader = graph.checkpoint(task)
    info = graph.add("LDMModelInfo", model=loader[0])
    save = {"filename_prefix": f"checkpoints/{task}", "dtype": "fp32"}
    graph.add("LDMCheckpointSave", model=loader[0], vae=loader[1], **save)
    prompt_id = client.submit(graph.prompt)
    client.follow(prompt_id)
    entry = client.history(prompt_id)
    assert entry is not None
    assert json.loads(entry["outputs"][info.id]["text"][0])["task"] == task
    (file,) = (host.base_directory / "output" / "checkpoints").glob(f"{task}_*.safetensors")
    saved, original = read_checkpoint(file), read_checkpoint(models / task)
    assert saved.config == original.config
    pairs = ((saved.unet, original.unet), (saved.first_stage, original.first_stage))
    for ours, theirs in (*pairs, (saved.conditioner, original.conditioner)):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_saved_checkpoint_is_the_loaded_one(graph, client: ComfyClient, host: PrivateHost, formats):
    """To the last bit, with the choice of weights and the workflow in the file."""
    loader = graph.add("LDMCheckpointLoader", checkpoint="ema.safetensors", weights="auto")
    save = {"model": loader[0], "vae": loader[1], "filename_prefix": "checkpoints/kept", "dtype": "fp32"}
    graph.add("LDMCheckpointSave", **save)
    client.follow(client.submit(graph.prompt))
    (file,) = (host.base_directory / "output" / "checkpoints").glob("kept_*.safetensors")
    saved, original = read_checkpoint(file), read_checkpoint(formats / "ema.safetensors")
    assert saved.config == original.config
    assert saved.weights == "ema"
    for ours, theirs in ((saved.unet, original.unet), (saved.first_stage, original.first_stage)):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_model_info_says_what_was_taken(graph, client: ComfyClient, formats):
    loader = graph.add("LDMCheckpointLoader", checkpoint="raw.safetensors", vae_precision="bf16")
    node = graph.add("LDMModelInfo", model=loader[0])
    prompt_id = client.submit(graph.prompt)
    client.follow(prompt_id)
    entry = client.history(prompt_id)
    assert entry is not None
    info = json.loads(entry["outputs"][node.id]["text"][0])
    assert info["weights"] == "raw"
    assert info["task"] == "unconditional"
    assert info["layout"] == "single-file"
    assert (info["precision"], info["vae_precision"]) == ("fp32", "bf16")
    assert info["unet"]["block_out_channels"] == [32, 32, 64]


def test_images_carry_their_own_seed_and_settings(graph, client: ComfyClient, formats):
    """Three images of one batch; the texts of the host are there too."""
    loader = graph.add("LDMCheckpointLoader", checkpoint="ema.safetensors")
    sampled = graph.ddim(loader, graph.noise(seed=40, batch_size=3), steps=2, eta=0.5)
    decoded = graph.add("LDMVQDecode", vae=loader[1], latent=sampled[0])
    graph.add("LDMSaveImage", images=decoded[0], latent=sampled[0], filename_prefix="seeds/own")
    prompt_id = client.submit(graph.prompt, {"extra_pnginfo": {"workflow": {"nodes": []}}})
    client.follow(prompt_id)
    refs = client.outputs(prompt_id)
    texts = [getattr(Image.open(io.BytesIO(client.fetch(ref))), "text", {}) for ref in refs]
    infos = [json.loads(text["ldm"]) for text in texts]
    assert [info["seed"] for info in infos] == [40, 41, 42]
    assert {info["weights"] for info in infos} == {"ema"}
    assert infos[0]["sampler"] == "ddim"
    assert (infos[0]["steps"], infos[0]["eta"], infos[0]["grid"]) == (2, 0.5, "leading")
    for text in texts:
        assert json.loads(text["prompt"]).keys() == graph.prompt.keys()
        assert json.loads(text["workflow"]) == {"nodes": []}


def test_image_names_stay_in_the_output_folder(graph, client: ComfyClient, host: PrivateHost, formats):
    loader = graph.add("LDMCheckpointLoader", checkpoint="ema.safetensors")
    noise = graph.noise()
    decoded = graph.add("LDMVQDecode", vae=loader[1], latent=noise[0])
    graph.add("LDMSaveImage", images=decoded[0], latent=noise[0], filename_prefix="../../escaped")
    with pytest.raises(ExecutionError):
        client.follow(client.submit(graph.prompt))
    assert not list(host.base_directory.parent.glob("escaped*"))


@pytest.fixture(scope="module")
def churches(models: Path) -> ldm_backend.LatentDiffusion:
    """A tiny model of the LSUN-Churches kind: KL first stage, 4 channels, scale factor, scale-shift norm."""
    config = LDMConfig(
        unet=replace(
            LSUN_CHURCHES_256.unet,
            sample_size=8,
            block_out_channels=(32, 64),
            down_block_types=("AttnDownBlock2D", "DownBlock2D"),
            up_block_types=("UpBlock2D", "AttnUpBlock2D"),
            layers_per_block=1,
        ),
        first_stage=KLConfig(sample_size=64, block_out_channels=(32, 32, 32, 64), layers_per_block=1, scale_factor=0.5),
        schedule=LSUN_CHURCHES_256.schedule,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        unet, first_stage = UNet(config.unet).state_dict(), build_first_stage(config.first_stage).state_dict()
    fill_single_file(models / "churches.safetensors", config, unet, first_stage, "fp32", None)
    return ldm_backend.load(models / "churches.safetensors", device="cpu")


def test_model_of_the_churches_kind(graph, run, churches, assert_same_images):
    """Noise takes its shape from the model; our sampler, KSampler, decoder and core's encoder work on four channels."""
    loader = graph.checkpoint("churches.safetensors")
    noise = graph.add("LDMLatentNoise", seed=3, width=64, height=64, batch_size=1, model=loader[0])
    sampled = graph.ddim(loader, noise)
    ours = graph.save(graph.add("LDMVQDecode", vae=loader[1], latent=sampled[0]))
    conditioning = graph.add("LDMEmptyConditioning")
    native = graph.add(
        "KSampler",
        model=loader[0],
        seed=3,
        steps=2,
        cfg=1.0,
        sampler_name="euler",
        scheduler="simple",
        positive=conditioning[0],
        negative=conditioning[0],
        latent_image=noise[0],
        denoise=1.0,
    )
    decoded = graph.add("VAEDecode", vae=loader[1], samples=native[0])
    encoded = graph.add("VAEEncode", vae=loader[1], pixels=decoded[0])
    again = graph.save(graph.add("VAEDecode", vae=loader[1], samples=encoded[0]))
    images = run(graph)
    assert_same_images(images[ours.id], ldm_backend.generate(churches, [3], steps=5))
    assert images[again.id].shape == (1, 64, 64, 3)


def drawn(graph: Any, loader: Any, latent: Any) -> Any:
    """By KSampler from an empty latent, and saved."""
    empty = graph.add("LDMEmptyConditioning")
    sampled = graph.add(
        "KSampler", model=loader[0], positive=empty[0], negative=empty[0], latent_image=latent[0], seed=3, steps=2,
        cfg=1.0, sampler_name="euler", scheduler="simple", denoise=1.0,
    )  # fmt: skip
    return graph.save(graph.add("VAEDecode", vae=loader[1], samples=sampled[0]))


@pytest.mark.usefixtures("churches")
def test_an_empty_latent_for_a_model_of_the_churches_kind(graph, run, save_latent):
    """Four channels at an eighth, from the model."""
    loader = graph.checkpoint("churches.safetensors")
    latent = graph.empty(width=96, model=loader[0])
    saved = drawn(graph, loader, latent)
    assert run(graph)[saved.id].shape == (1, 64, 96, 3)
    assert save_latent(graph, latent).shape == (1, 4, 8, 12)


@pytest.mark.usefixtures("churches")
@pytest.mark.parametrize(("made_for", "drawn_by"), [(None, "churches.safetensors"), ("churches.safetensors", "tiny")])
def test_an_empty_latent_for_a_model_of_another_kind(graph, run, made_for, drawn_by):
    """The host mends the channels of what is empty; the size too since 0.11.0.

    Before, its cells are taken as they are, which no node of ours can notice: cells of 4 pixels are drawn as such of 8,
    and the reverse. The help page says so.
    """
    model = {"model": graph.checkpoint(made_for)[0]} if made_for else {}
    saved = drawn(graph, graph.checkpoint(drawn_by), graph.empty(**model))
    wrong = 32 if made_for else 128
    assert run(graph)[saved.id].shape in ((1, 64, 64, 3), (1, wrong, wrong, 3))


def test_noise_of_another_kind_is_refused(graph, client: ComfyClient, churches):
    loader = graph.checkpoint("churches.safetensors")
    graph.save(graph.add("LDMVQDecode", vae=loader[1], latent=graph.ddim(loader, graph.noise())[0]))
    with pytest.raises(ExecutionError, match=r"expects \(N, 4, H, W\)"):
        client.follow(client.submit(graph.prompt))
