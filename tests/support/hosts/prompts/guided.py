"""Prompts that draw portraits with guides."""

from __future__ import annotations

from collections.abc import Callable

from .parts import Case, Link, Prompt

_WINDOW = {"start": 0.0, "end": 1.0, "every_nth": 1}
_KNOWN = {"noise": 0.0, "strength": 1.0, "codec": "network"} | _WINDOW
_WANTED = {"strength": 0.3, "method": "loss", "inner": 1} | _WINDOW


def _guided(prompt: Prompt, loader: Callable[[int], Link], guides: Link, seed: int) -> None:
    model, vae = loader(0), loader(1)
    sampled = prompt.add(
        "SamplerCustomAdvanced",
        noise=prompt.add("LDMNoise", seed=seed)(0),
        guider=prompt.add("LDMGuided", model=model, vae=vae, guides=guides)(0),
        sampler=prompt.add("LDMSamplerSelect", sampler="ddim", eta=1.0)(0),
        sigmas=prompt.add("LDMSigmas", model=model, steps=2, grid="trailing", strength=1.0)(0),
        latent_image=prompt.add("LDMEmptyLatent", width=64, height=64, batch_size=1, model=model)(0),
    )(0)
    prompt.save(prompt.decoded(vae, sampled))


def _restored(seed: int) -> Case:
    prompt = Prompt()
    loader = prompt.loader()
    image = prompt.decoded(loader(1), prompt.sampled(loader(0), prompt.noise(seed)))
    small = prompt.add("ImageScale", image=image, upscale_method="area", width=16, height=16, crop="disabled")(0)
    mask = prompt.add("MaskComposite", x=16, y=16, operation="subtract",
                      destination=prompt.add("SolidMask", value=1.0, width=64, height=64)(0),
                      source=prompt.add("SolidMask", value=1.0, width=48, height=48)(0))(0)  # fmt: skip
    guides = prompt.add("LDMGuideLowResolution", image=small, factor=4, filter="box", **_KNOWN)(0)
    guides = prompt.add("LDMGuideKnownPixels", image=image, mask=mask, guides=guides, **_KNOWN)(0)
    guides = prompt.add("LDMGuideGreyPicture", image=image, guides=guides, **_KNOWN | {"codec": "linear"})(0)
    guides = prompt.add("LDMGuideBlurredPicture", image=image, sigma=1.0, sharpening=2, guides=guides, **_KNOWN)(0)
    _guided(prompt, loader, guides, seed)
    return Case("restored by what is known", prompt, images=1)


def _pulled(seed: int) -> Case:
    prompt = Prompt()
    loader = prompt.loader()
    image = prompt.decoded(loader(1), prompt.sampled(loader(0), prompt.noise(seed)))
    guides = prompt.add("LDMGuideColour", colours="#c08060", aim="mean", **_WANTED | {"method": "score"})(0)
    guides = prompt.add("LDMGuideReference", image=image, guides=guides, **_WANTED)(0)
    guides = prompt.add("LDMGuideStyle", image=image, guides=guides, **_WANTED)(0)
    _guided(prompt, loader, guides, seed)
    return Case("pulled to what is wanted", prompt, images=1)


def _wrong_guide(seed: int) -> Case:
    prompt = Prompt()
    loader = prompt.loader()
    image = prompt.decoded(loader(1), prompt.noise(seed))
    guides = prompt.add("LDMGuideLowResolution", image=image, factor=2, filter="box", **_KNOWN)(0)
    _guided(prompt, loader, guides, seed)
    return Case("a guide of another size", prompt, "failed")


CASES: tuple[Callable[[int], Case], ...] = (
    _restored, _wrong_guide, _pulled,
)  # fmt: skip
