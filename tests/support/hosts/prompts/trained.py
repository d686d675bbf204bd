"""Prompts of models that see a picture: wired to the demos that do, and to the one that draws portraits."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .parts import INPAINTER, UPSCALER, Case, Link, Prompt


def _enlarged_by(prompt: Prompt, loader: Callable[[int], Link], seed: int) -> None:
    image = prompt.decoded(prompt.loader()(1), prompt.noise(seed))
    large = prompt.add(
        "LDMSuperResolution", model=loader(0), vae=loader(1), image=image, seed=seed, steps=2, sampler="ddim",
        grid="auto", eta=0.0, tile=0,
    )(0)  # fmt: skip
    prompt.save(large)


def _super_resolution(seed: int) -> Case:
    prompt = Prompt()
    _enlarged_by(prompt, prompt.loader(UPSCALER), seed)
    return Case("super-resolution", prompt, images=1)


def _wrong_super_resolution(seed: int) -> Case:
    prompt = Prompt()
    _enlarged_by(prompt, prompt.loader(), seed)
    return Case("super-resolution with a model for portraits", prompt, "failed")


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


def _super_resolution_parts(seed: int) -> Case:
    prompt = Prompt()
    _enlarged_in_parts(prompt, prompt.loader(UPSCALER), seed)
    return Case("parts of super-resolution", prompt, images=1)


def _wrong_super_resolution_parts(seed: int) -> Case:
    prompt = Prompt()
    _enlarged_in_parts(prompt, prompt.loader(), seed)
    return Case("parts of super-resolution with a model for portraits", prompt, "failed")


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


def _trained_inpainting(seed: int) -> Case:
    prompt = Prompt()
    _filled_by(prompt, prompt.loader(INPAINTER), seed)
    return Case("trained inpainting", prompt, images=1)


def _wrong_trained_inpainting(seed: int) -> Case:
    prompt = Prompt()
    _filled_by(prompt, prompt.loader(), seed)
    return Case("trained inpainting with a model for portraits", prompt, "failed")


def _filled_in_parts(prompt: Prompt, loader: Callable[[int], Link], seed: int) -> None:
    parts = prompt.add("LDMInpaintConditioning", **_with_a_hole(prompt, loader, seed))
    _natively(prompt, loader, parts, seed)


def _trained_inpainting_parts(seed: int) -> Case:
    prompt = Prompt()
    _filled_in_parts(prompt, prompt.loader(INPAINTER), seed)
    return Case("parts of trained inpainting", prompt, images=1)


def _wrong_trained_inpainting_parts(seed: int) -> Case:
    prompt = Prompt()
    _filled_in_parts(prompt, prompt.loader(), seed)
    return Case("parts of trained inpainting with a model for portraits", prompt, "failed")


def _semantic_map(seed: int) -> Case:
    prompt = Prompt()
    sky = prompt.add("SolidMask", value=1.0, width=64, height=64 + 16 * (seed % 7))(0)
    prompt.save(prompt.add("LDMSemanticRegion", mask=sky, name="sky-other")(0))
    return Case("a map of labels", prompt, images=1)


def _semantic_synthesis(seed: int) -> Case:
    prompt = Prompt()
    loader = prompt.loader()
    image = prompt.decoded(loader(1), prompt.noise(seed))
    latent = prompt.add("LDMSemanticLabels", model=loader(0), image=image, labels="colours")(1)
    prompt.save(prompt.decoded(loader(1), latent))
    return Case("semantic synthesis with a model for portraits", prompt, "failed")


def _class(seed: int) -> Case:
    prompt = Prompt()
    loader = prompt.loader()
    wanted = prompt.add("LDMClass", model=loader(0), class_name="none", classes=str(seed % 1000))(0)
    latent = prompt.sampled(loader(0), prompt.noise(seed), positive=wanted, cfg=3.0)
    prompt.save(prompt.decoded(loader(1), latent))
    return Case("a class with a model for portraits", prompt, "failed")


CASES: tuple[Callable[[int], Case], ...] = (
    _super_resolution, _super_resolution_parts, _wrong_super_resolution, _wrong_super_resolution_parts,
    _trained_inpainting, _trained_inpainting_parts, _wrong_trained_inpainting, _wrong_trained_inpainting_parts,
    _semantic_map, _semantic_synthesis, _class,
)  # fmt: skip
