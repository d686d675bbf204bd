"""What nodes of the host change of a MODEL of classes: it works, or it is refused by name."""

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from failures import expect_failure
from safetensors.torch import save_file

from ldm_backend.pipeline import sample_latents
from ldm_headless import ComfyClient, PrivateHost

SIDE = 32  # pixels, of the training
LAYER = "down_blocks.1.attentions.0.transformer_blocks.0.attn2.to_v"
RUN: dict[str, Any] = {"steps": 4, "sampler": "ddim", "grid": "trailing"}


def drawn(graph: Any, loader: Any, model: Any, sampler: str = "KSampler") -> Any:
    """Class 4 with cfg 2 of a changed MODEL, by the host's sampler or ours."""
    positive, negative = graph.of_class(loader, "4"), graph.of_class(loader, "none")
    wires = {"model": model[0], "positive": positive[0], "negative": negative[0], "cfg": 2.0}
    size = {"width": SIDE, "height": SIDE, "batch_size": 1, "model": loader[0]}
    if sampler == "KSampler":
        latent = graph.add("LDMEmptyLatent", **size)
        settings = {"seed": 3, "steps": 4, "sampler_name": "ddim", "scheduler": "ddim_uniform", "denoise": 1.0}
        return graph.add("KSampler", latent_image=latent[0], **wires, **settings)
    return graph.add("LDMSampler", latent=graph.add("LDMLatentNoise", seed=3, **size)[0], **wires, **RUN)


PATCHES: dict[str, tuple[dict[str, Any], str]] = {
    "FreeU": ({"b1": 1.1, "b2": 1.2, "s1": 0.9, "s2": 0.2}, "as of FreeU.*output_block_patch"),
    "FreeU_V2": ({"b1": 1.3, "b2": 1.4, "s1": 0.9, "s2": 0.2}, "output_block_patch"),
    "HyperTile": ({"tile_size": 256, "swap_size": 2, "max_depth": 0, "scale_depth": False}, "HyperTile.*attn1_patch"),
    "TomePatchModel": ({"ratio": 0.3}, "attn1_patch"),
    "PerturbedAttentionGuidance": ({"scale": 3.0}, "Perturbed-Attention Guidance.*attn1"),
    "SelfAttentionGuidance": ({"scale": 0.5, "blur_sigma": 2.0}, "attn1"),
    "PatchModelAddDownscale": (
        {"block_number": 3, "downscale_factor": 2.0, "start_percent": 0.0, "end_percent": 0.35,
         "downscale_after_skip": True, "downscale_method": "bicubic", "upscale_method": "bicubic"},
        "Kohya Deep Shrink.*block_patch",
    ),
}  # fmt: skip


@pytest.mark.usefixtures("classes")
@pytest.mark.parametrize("sampler", ["KSampler", "LDMSampler"])
@pytest.mark.parametrize("node", PATCHES)
def test_patches_of_blocks_are_refused_by_name(graph, client: ComfyClient, node, sampler):
    settings, message = PATCHES[node]
    loader = graph.checkpoint("guided.safetensors")
    latent = drawn(graph, loader, graph.add(node, model=loader[0], **settings), sampler)
    graph.save(graph.add("LDMVQDecode", vae=loader[1], latent=latent[0]))
    found = expect_failure(client, graph, sampler)
    assert "does not look at them" in found
    assert re.search(message, found), found


@pytest.mark.parametrize("sampler", ["LDMSampler", "LDMDDIMSampler"])
def test_of_an_unconditional_model_too(graph, client: ComfyClient, sampler):
    """Our samplers evaluate the network themselves, and would not see them."""
    loader = graph.checkpoint()
    patched = graph.add("TomePatchModel", model=loader[0], ratio=0.3)
    if sampler == "LDMDDIMSampler":
        latent = graph.ddim(patched, graph.noise())
    else:
        latent = graph.add("LDMSampler", model=patched[0], latent=graph.noise()[0], **RUN)
    graph.save(graph.add("LDMVQDecode", vae=loader[1], latent=latent[0]))
    assert "attn1_patch" in expect_failure(client, graph, sampler)


@pytest.fixture
def lora(host: PrivateHost) -> tuple[str, torch.Tensor]:
    """A file with a change of one layer under its name in our UNet, and that change."""
    generator = torch.Generator().manual_seed(1)
    down, up = torch.randn(2, 12, generator=generator), torch.randn(16, 2, generator=generator)
    name = f"lora_unet_{LAYER.replace('.', '_')}"
    file: Path = host.base_directory / "models" / "loras" / "one.safetensors"
    file.parent.mkdir(parents=True, exist_ok=True)
    tensors = {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up, f"{name}.alpha": torch.tensor(2.0)}
    save_file(tensors, file)
    return file.name, up @ down


def test_a_lora(graph, save_latent: Callable[..., torch.Tensor], classes, lora):
    """As if its product had been added to the weights; half of it at half the strength."""
    name, change = lora
    loader = graph.checkpoint("guided.safetensors")
    changed = copy.deepcopy(classes["guided"])
    with torch.no_grad():
        changed.unet.get_submodule(LAYER).weight += 0.5 * change
    patched = graph.add("LoraLoaderModelOnly", model=loader[0], lora_name=name, strength_model=0.5)
    made = save_latent(graph, drawn(graph, loader, patched, "LDMSampler"))
    expected = sample_latents(changed, [3], classes=[4], cfg=2.0, **RUN)
    torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-4)
    plain = sample_latents(classes["guided"], [3], classes=[4], cfg=2.0, **RUN)
    assert float((made - plain).abs().max()) > 1e-2


@pytest.mark.usefixtures("classes")
def test_a_wrapper_of_the_network(graph, save_latent: Callable[..., torch.Tensor]):
    """EasyCache leaves evaluations out where they change little: none at a threshold of 0, most at the largest."""
    loader = graph.checkpoint("guided.safetensors")
    window = {"start_percent": 0.0, "end_percent": 1.0, "verbose": False}
    plain, exact, cached = (
        save_latent(graph, drawn(graph, loader, model))
        for model in (
            loader,
            graph.add("EasyCache", model=loader[0], reuse_threshold=0.0, **window),
            graph.add("EasyCache", model=loader[0], reuse_threshold=3.0, **window),
        )
    )
    assert torch.equal(plain, exact)
    assert not torch.allclose(plain, cached, atol=1e-3)


@pytest.fixture
def adapter(host: PrivateHost) -> str:
    """Name of the smallest T2I-Adapter that the host loads as a ControlNet."""
    file: Path = host.base_directory / "models" / "controlnet" / "adapter.safetensors"
    file.parent.mkdir(parents=True, exist_ok=True)
    widths = (4, 8, 16, 16)
    convolutions = {"conv_in": (widths[0], 192, 3)}
    for block in range(8):
        level = block // 2
        width, before = widths[level], widths[max(0, level - 1)]
        if block % 2 == 0 and width != before:
            convolutions[f"body.{block}.in_conv"] = (width, before, 1)
        convolutions |= {f"body.{block}.block1": (width, width, 3), f"body.{block}.block2": (width, width, 1)}
    tensors = {}
    for name, (out, inside, side) in convolutions.items():
        tensors |= {f"{name}.weight": torch.ones(out, inside, side, side), f"{name}.bias": torch.zeros(out)}
    save_file(tensors, file)
    return file.name


def controlled(graph: Any, conditioning: Any, adapter: str, strength: float) -> Any:
    net = graph.add("ControlNetLoader", control_net_name=adapter)
    image = graph.add("EmptyImage", width=64, height=64, batch_size=1, color=255)
    return graph.add(
        "ControlNetApply", conditioning=conditioning[0], control_net=net[0], image=image[0], strength=strength
    )


def controlled_run(graph: Any, loader: Any, adapter: str, sampler: str, strength: float) -> Any:
    """Class 4 whose conditioning went through Apply ControlNet."""
    positive = controlled(graph, graph.of_class(loader, "4"), adapter, strength)
    size = {"width": SIDE, "height": SIDE, "batch_size": 1, "model": loader[0]}
    wires = {"model": loader[0], "positive": positive[0], "negative": graph.of_class(loader, "none")[0], "cfg": 2.0}
    if sampler == "KSampler":
        settings = {"seed": 3, "steps": 4, "sampler_name": "ddim", "scheduler": "ddim_uniform", "denoise": 1.0}
        return graph.add(sampler, latent_image=graph.add("LDMEmptyLatent", **size)[0], **wires, **settings)
    settings = RUN if sampler == "LDMSampler" else {"steps": 4, "eta": 0.0, "grid": "trailing"}
    return graph.add(sampler, latent=graph.add("LDMLatentNoise", seed=3, **size)[0], **wires, **settings)


@pytest.mark.usefixtures("classes")
@pytest.mark.parametrize("sampler", ["KSampler", "LDMSampler", "LDMDDIMSampler"])
def test_a_control_net_is_refused_by_name(graph, client: ComfyClient, adapter, sampler):
    """Its hints would be passed over, and the picture drawn as if they were not there."""
    loader = graph.checkpoint("guided.safetensors")
    latent = controlled_run(graph, loader, adapter, sampler, 1.0)
    graph.save(graph.add("LDMVQDecode", vae=loader[1], latent=latent[0]))
    found = expect_failure(client, graph, sampler)
    assert "comes with a ControlNet (hints for the blocks " in found
    assert "input" in found.split("(")[1].split(")")[0]
    assert "without Apply ControlNet" in found


def test_one_of_no_strength_is_none(graph, save_latent: Callable[..., torch.Tensor], classes, adapter):
    """The host takes it out by itself."""
    loader = graph.checkpoint("guided.safetensors")
    made = save_latent(graph, controlled_run(graph, loader, adapter, "LDMSampler", 0.0))
    assert torch.equal(made, sample_latents(classes["guided"], [3], classes=[4], cfg=2.0, **RUN))
