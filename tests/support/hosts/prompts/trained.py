"""Prompts of models that see a picture: wired to the demos that do, and to the one that draws portraits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .parts import INPAINTER, PORTRAYER, UPSCALER, Case, Link, Prompt

Build = Callable[[Prompt, Callable[[int], Link], int], None]  # adds to a prompt, with a loader and a seed


def _enlarged_by(prompt: Prompt, loader: Callable[[int], Link], seed: int) -> None:
    image = prompt.decoded(prompt.loader()(1), prompt.noise(seed))
    large = prompt.add(
        "LDMSuperResolution", model=loader(0), vae=loader(1), image=image, seed=seed, steps=2, sampler="ddim",
        grid="auto", eta=0.0, tile=0,
    )(0)  # fmt: skip
    prompt.save(large)


def _natively(prompt: Prompt, loader: Callable[[int], Link], parts: Callable[[int], Link], seed: int) -> None:
    """Conditioning and latent that a node gives, through the host's sampler."""
    sampled = prompt.add(
        "KSampler", model=loader(0), positive=parts(0), negative=parts(0), latent_image=parts(1), seed=seed, steps=2,
        cfg=1.0, sampler_name="euler", scheduler="simple", denoise=1.0,
    )(0)  # fmt: skip
    prompt.save(prompt.decoded(loader(1), sampled))


def _enlarged_in_parts(prompt: Prompt, loader: Callable[[int], Link], seed: int) -> None:
    image = prompt.decoded(prompt.loader()(1), prompt.noise(seed))
    _natively(prompt, loader, prompt.add("LDMSuperResolutionConditioning", model=loader(0), image=image), seed)


def _with_a_hole(prompt: Prompt, loader: Callable[[int], Link], seed: int) -> dict[str, Any]:
    """What the nodes of trained inpainting take: a picture of noise, the right half of it to be filled."""
    image = prompt.decoded(prompt.loader()(1), prompt.noise(seed))
    mask = prompt.add("MaskComposite", x=0, y=0, operation="subtract",
                      destination=prompt.add("SolidMask", value=1.0, width=64, height=64)(0),
                      source=prompt.add("SolidMask", value=1.0, width=32, height=64)(0))(0)  # fmt: skip
    return {"model": loader(0), "vae": loader(1), "image": image, "mask": mask, "mask_reduction": "any"}


def _filled_by(prompt: Prompt, loader: Callable[[int], Link], seed: int) -> None:
    run = {"seed": seed, "steps": 2, "sampler": "ddim", "grid": "auto", "eta": 0.0}
    prompt.save(prompt.add("LDMInpaintModel", **_with_a_hole(prompt, loader, seed), **run)(0))


def _filled_in_parts(prompt: Prompt, loader: Callable[[int], Link], seed: int) -> None:
    parts = prompt.add("LDMInpaintConditioning", **_with_a_hole(prompt, loader, seed))
    _natively(prompt, loader, parts, seed)


def _semantic_map(seed: int) -> Case:
    prompt = Prompt()
    sky = prompt.add("SolidMask", value=1.0, width=64, height=64 + 16 * (seed % 7))(0)
    prompt.save(prompt.add("LDMSemanticRegion", mask=sky, name="sky-other")(0))
    return Case("a map of labels", prompt, images=1)


def _semantic_synthesis(prompt: Prompt, loader: Callable[[int], Link], seed: int) -> None:
    image = prompt.decoded(loader(1), prompt.noise(seed))
    latent = prompt.add("LDMSemanticLabels", model=loader(0), image=image, labels="colours")(1)
    prompt.save(prompt.decoded(loader(1), latent))


def _class(prompt: Prompt, loader: Callable[[int], Link], seed: int) -> None:
    wanted = prompt.add("LDMClass", model=loader(0), class_name="none", classes=str(seed % 1000))(0)
    latent = prompt.sampled(loader(0), prompt.noise(seed), positive=wanted, cfg=3.0)
    prompt.save(prompt.decoded(loader(1), latent))


def _vectors(prompt: Prompt, loader: Callable[[int], Link], seed: int) -> None:
    # No graph makes an output of CLIP without weights of it.
    wanted = prompt.add("LDMCLIPVectors", model=loader(0), clip_vision_output=None)
    latent = prompt.sampled(loader(0), prompt.noise(seed), positive=wanted(0), negative=wanted(1), cfg=5.0)
    prompt.save(prompt.decoded(loader(1), latent))


def _text(prompt: Prompt, loader: Callable[[int], Link], seed: int) -> None:
    clip = prompt.loader(PORTRAYER)(2)  # without one the host's node fails by itself, in words of its own
    wanted, none = (prompt.add("CLIPTextEncode", clip=clip, text=text)(0) for text in ("red hair, (bob:1.2)", ""))
    latent = prompt.sampled(loader(0), prompt.noise(seed), positive=wanted, negative=none, cfg=3.0)
    prompt.save(prompt.decoded(loader(1), latent))


def _with(checkpoint: str, name: str, build: Build) -> Callable[[int], Case]:
    """What makes a case that ends with a picture."""

    def make(seed: int) -> Case:
        prompt = Prompt()
        build(prompt, prompt.loader(checkpoint), seed)
        return Case(name, prompt, images=1)

    return make


def _without(name: str, build: Build) -> Callable[[int], Case]:
    """What makes a case with the model for portraits, which is refused."""

    def make(seed: int) -> Case:
        prompt = Prompt()
        build(prompt, prompt.loader(), seed)
        return Case(f"{name} with a model for portraits", prompt, "failed")

    return make


_TASKS: tuple[tuple[str, str, Build], ...] = (
    (UPSCALER, "super-resolution", _enlarged_by),
    (UPSCALER, "parts of super-resolution", _enlarged_in_parts),
    (INPAINTER, "trained inpainting", _filled_by),
    (INPAINTER, "parts of trained inpainting", _filled_in_parts),
    (PORTRAYER, "a text", _text),
)
CASES: tuple[Callable[[int], Case], ...] = (
    *(_with(*task) for task in _TASKS),
    *(_without(*task[1:]) for task in _TASKS),
    _without("semantic synthesis", _semantic_synthesis),
    _without("a class", _class),
    _without("vectors of CLIP", _vectors),
    _semantic_map,
)
