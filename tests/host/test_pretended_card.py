"""All workflows, and models of all tasks, on a real ComfyUI that believes in a card, with each way to use one.

The card is pretended (tests/support/devices/pretend_cuda): kernels are the CPU's, all around them is what a card would
see. On the CPU itself the networks take other ways to the same sums, so a value at the border between two levels of a
pixel may come out one lower or higher: measured in up to 2 of 10 000.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from class_models import write_class_file
from conditional_models import CONFIGS, write_conditional_folder
from model_folder import write_model_folder
from PIL import Image, ImageSequence
from prompts.parts import Prompt
from sample_picture import EXAMPLE, sample_picture
from text_models import write_text_folder
from watched_host import host_program

from ldm_backend.config.model import LDMConfig, UNetConfig, VQConfig
from ldm_headless import PACK_ROOT, ComfyClient, HostLocation, PrivateHost, find_host

WORKFLOWS = sorted((PACK_ROOT / "workflows" / "api").glob("*.json"))
MODES = {"normal": [], "gpu-only": ["--gpu-only"], "lowvram": ["--lowvram"], "novram": ["--novram"]}
HOOK = PACK_ROOT / "tests" / "support" / "devices" / "pretend_host"
TINY = LDMConfig(
    unet=UNetConfig(
        sample_size=16,
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        attention_head_dim=8,
        norm_num_groups=8,
    ),
    first_stage=VQConfig(
        sample_size=64, block_out_channels=(16, 16, 32), layers_per_block=1, num_vq_embeddings=64, norm_num_groups=8
    ),
)
# The same graphs, small: the most that an input is set to, and sizes that are halved.
SMALL = {"steps": 2, "batch_size": 2, "frames": 3, "variations": 2, "amount": 2}
SMALL |= {"jump_length": 1, "resamples": 2, "tile": 32}
HALVED = ("width", "height", "x", "y")
TOLD = {"classes": "classes.safetensors", "texts": "texts"}  # what draws from it -> the checkpoint
TRAINED = {
    "upscaler-4x": "super-resolution",
    "inpainter-128": "inpainting",
    "text-portraits-128": TOLD["texts"],
}  # checkpoints of workflows, and which stands for them; else `tiny`

Picture = tuple[str, np.ndarray]  # format of the file, (H, W, 3)
Pictures = dict[str, list[Picture]]


def trained(task: str) -> dict[str, Any]:
    """A prompt with a model of a task that sees a picture."""
    prompt = Prompt()
    loader = prompt.add("LDMCheckpointLoader", checkpoint=task)
    settings = {"seed": 3, "steps": 2, "sampler": "dpmpp_2m", "grid": "auto", "eta": 0.0}
    wires = {"model": loader(0), "vae": loader(1), "image": prompt.decoded(loader(1), prompt.noise(5, 2))}
    mask = prompt.add("SolidMask", value=1.0, width=64, height=64)(0)
    hole = prompt.add("SolidMask", value=1.0, width=32, height=24)(0)
    nothing = prompt.add("SolidMask", value=0.0, width=64, height=64)(0)
    hole = prompt.add("MaskComposite", destination=nothing, source=hole, x=8, y=16, operation="add")(0)
    if task == "super-resolution":
        made = prompt.add("LDMSuperResolution", **wires, **settings, tile=32)(0)
    elif task == "inpainting":
        made = prompt.add("LDMInpaintModel", **wires, **settings, mask=hole, mask_reduction="any", tile=32)(0)
    else:
        ground = prompt.add("LDMSemanticRegion", mask=mask, name="person")(0)
        labels = prompt.add("LDMSemanticRegion", mask=hole, name="car", map=ground)(0)
        seen = prompt.add("LDMSemanticLabels", model=loader(0), image=labels, labels="colours")
        latent = prompt.add(
            "KSampler", model=loader(0), positive=seen(0), negative=seen(0), latent_image=seen(1), seed=3, steps=2,
            cfg=1.0, sampler_name="euler", scheduler="simple", denoise=1.0,
        )(0)  # fmt: skip
        made = prompt.decoded(loader(1), latent)
    prompt.save(made)
    return prompt


def told(task: str) -> dict[str, Any]:
    """A prompt with a model of classes or texts: our sampler, and the host's."""
    prompt = Prompt()
    loader = prompt.add("LDMCheckpointLoader", checkpoint=TOLD[task])
    if task == "classes":
        wanted, none = (
            prompt.add("LDMClass", model=loader(0), class_name="none", classes=text)(0) for text in ("4", "none")
        )
    else:
        wanted, none = (prompt.add("CLIPTextEncode", clip=loader(2), text=text)(0) for text in ("a (woman:1.2)", ""))
    wires = {"model": loader(0), "positive": wanted, "negative": none, "cfg": 2.0}
    size = {"width": 32, "height": 32, "batch_size": 2, "model": loader(0)}
    noise = prompt.add("LDMLatentNoise", seed=3, **size)(0)
    ours = prompt.add("LDMSampler", latent=noise, **wires, sampler="dpmpp_2m", grid="auto", steps=3)(0)
    theirs = prompt.add(
        "KSampler", **wires, latent_image=prompt.add("LDMEmptyLatent", **size)(0), seed=3, steps=2,
        sampler_name="euler", scheduler="simple", denoise=1.0,
    )(0)  # fmt: skip
    for latent in (ours, theirs):
        prompt.save(prompt.decoded(loader(1), latent))
    return prompt


def small(path: Path) -> dict[str, Any]:
    """The prompt of a workflow."""
    prompt = json.loads(path.read_text())
    for node in prompt.values():
        for name, value in node["inputs"].items():
            if name in HALVED:
                node["inputs"][name] = value // 2
            elif name in SMALL:
                node["inputs"][name] = min(value, SMALL[name])
            elif name == "checkpoint":
                node["inputs"][name] = TRAINED.get(value, "tiny")
    return prompt


@contextmanager
def started(folder: Path, arguments: list[str], card: Path | None) -> Iterator[ComfyClient]:
    """A host with the tiny checkpoints.

    Args:
        folder: for everything of it.
        arguments: for ComfyUI.
        card: file for the log of a pretended card; None is the CPU.
    """
    location = find_host()
    if card is not None:
        command = f"exec env PYTHONPATH='{HOOK}' PRETENDED_CARD='{card}' '{location.python}' \"$@\""
        location = HostLocation(location.path, str(host_program(folder / "python", command)))
    base = folder / "base"
    write_model_folder(base / "models" / "ldm" / "tiny", TINY)
    for task, config in CONFIGS.items():
        write_conditional_folder(base / "models" / "ldm" / task, config)
    write_class_file(base / "models" / "ldm" / TOLD["classes"])
    write_text_folder(base / "models" / "ldm" / TOLD["texts"])
    packs = {"comfyui-ldm": PACK_ROOT}
    with (
        PrivateHost(location, packs, base, arguments=arguments, cpu=card is None, threads=1) as host,
        ComfyClient(host.url) as client,
    ):
        client.upload(EXAMPLE, sample_picture())
        yield client


def pictures_of(client: ComfyClient, prompt: dict[str, Any]) -> list[Picture]:
    """Run a prompt to its end, which must be a good one; every picture and frame that it saves or shows."""
    prompt_id = client.submit(prompt)
    client.follow(prompt_id)  # raises what the host reports
    # By node: in which order a host executes those that do not wait for each other is chance.
    refs = sorted(client.outputs(prompt_id), key=lambda ref: int(ref.node_id))
    files = [Image.open(io.BytesIO(client.fetch(ref))) for ref in refs]
    return [
        (str(file.format), np.asarray(frame.convert("RGB"))) for file in files for frame in ImageSequence.Iterator(file)
    ]


# torch's engine for gradients wants a real card: tests/gpu has these.
WITH_GRADIENTS = ("guided-colourise", "guided-style")
PROMPTS = {path.stem: small(path) for path in WORKFLOWS if path.stem not in WITH_GRADIENTS}
PROMPTS |= {task: trained(task) for task in CONFIGS} | {task: told(task) for task in TOLD}


@pytest.fixture(scope="module")
def of_the_cpu(tmp_path_factory: pytest.TempPathFactory) -> Pictures:
    with started(tmp_path_factory.mktemp("cpu"), [], None) as client:
        return {name: pictures_of(client, prompt) for name, prompt in PROMPTS.items()}


@pytest.fixture(scope="module", params=MODES)
def on_the_card(
    request: pytest.FixtureRequest, of_the_cpu: Pictures, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, ComfyClient, Callable[[], list[list[Any]]]]]:
    """The name of a mode, a client of a host with it, and what its card was asked for so far."""
    folder = tmp_path_factory.mktemp(request.param)
    log = folder / "card"
    with started(folder, MODES[request.param], log) as client:
        yield request.param, client, lambda: [json.loads(line) for line in log.read_text().splitlines()]


@pytest.mark.parametrize("name", PROMPTS)
def test_a_workflow_on_the_card_makes_the_pictures_of_the_cpu(name, on_the_card, of_the_cpu):
    mode, client, acts = on_the_card
    assert client.system_stats()["devices"][0]["type"] == "cuda"
    before = acts()
    found = pictures_of(client, PROMPTS[name])
    new = acts()[len(before) :]
    assert not [act for act in new if act[0] in ("mismatch", "race")]
    assert new[-1][3] - new[0][3] > 100, "the networks ran elsewhere"
    recorded = any(act[1] == "CUDAGraph.replay" for act in new)
    assert recorded == (mode != "novram")  # where the host hands weights over, nothing is recorded
    if mode == "novram":
        handed_over = [act for act in new if act[1] == "H2D" and act[2].startswith("comfy/")]
        assert len(handed_over) > 100, "the weights were on the card"
    for (kind, picture), (_, expected) in zip(found, of_the_cpu[name], strict=True):
        difference = np.abs(picture.astype(int) - expected.astype(int))
        assert np.ptp(picture) > 0
        if kind == "WEBP":  # with losses, which make more of a level
            assert difference.mean() < 0.2
        else:
            assert difference.max() <= 1
            assert (difference > 0).mean() < 0.001
