"""Prompts in API format on the demo model: small, quick, and together of every node type of the pack.

`cycle(number)` gives good ones and bad ones, each with the end that it must come to. Another number gives other seeds
and the same work, so that the host computes anew and one cycle compares with another. Nodes of models that see a
picture are wired to the demo that draws portraits, which is none, and must be refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

DEMO = "portraits-128"
FOLDER = "mixed"  # below the output folder: everything that these prompts save

Link = list[Any]


class Prompt(dict[str, dict[str, Any]]):
    """A prompt, written node by node."""

    def add(self, class_type: str, **inputs: Any) -> Callable[[int], Link]:
        """A node; what is returned gives a link to each of its outputs."""
        node_id = str(len(self) + 1)
        self[node_id] = {"class_type": class_type, "inputs": inputs}
        return lambda output=0: [node_id, output]

    def loader(self) -> Callable[[int], Link]:
        """The demo model: output 0 is MODEL, 1 is VAE."""
        return self.add("LDMCheckpointLoader", checkpoint=DEMO)

    def noise(self, seed: int, batch: int = 1, side: int = 64) -> Link:
        """x_T of a batch."""
        return self.add("LDMLatentNoise", seed=seed, width=side, height=side, batch_size=batch)(0)

    def sampled(self, model: Link, latent: Link, steps: int = 2, **more: Any) -> Link:
        """Finished latents."""
        settings = {"sampler": "unipc", "grid": "log_snr"} | more
        return self.add("LDMSampler", model=model, latent=latent, steps=steps, **settings)(0)

    def ddim(self, model: Link, latent: Link, steps: int = 2, **more: Any) -> Link:
        """Finished latents, by the exact sampler."""
        settings = {"eta": 0.0, "grid": "leading"} | more
        return self.add("LDMDDIMSampler", model=model, latent=latent, steps=steps, **settings)(0)

    def decoded(self, vae: Link, latent: Link) -> Link:
        """Images."""
        return self.add("LDMVQDecode", vae=vae, latent=latent)(0)

    def save(self, images: Link, prefix: str = f"{FOLDER}/core") -> None:
        """The host's own saver."""
        self.add("SaveImage", images=images, filename_prefix=prefix)

    def save_ours(self, images: Link, latent: Link, prefix: str = f"{FOLDER}/ours") -> None:
        """The pack's saver."""
        self.add("LDMSaveImage", images=images, latent=latent, filename_prefix=prefix)


@dataclass(frozen=True)
class Case:
    """A prompt and its end: "done" with so many saved images, "refused", "failed", or "cancelled" at its first step."""

    name: str
    prompt: Prompt
    end: str = "done"
    images: int = 0


def cycle(number: int) -> list[Case]:
    """Prompts of every node type of the pack, several sizes and batches, all samplers in the course of time."""
    return [make(100 * number + index) for index, make in enumerate(_CASES)]


def portrait(seed: int, batch: int = 1, side: int = 64, steps: int = 2, prefix: str = f"{FOLDER}/ours") -> Prompt:
    """The core graph, saved by the pack's own node."""
    prompt = Prompt()
    loader = prompt.loader()
    latent = prompt.ddim(loader(0), prompt.noise(seed, batch, side), steps)
    prompt.save_ours(prompt.decoded(loader(1), latent), latent, prefix)
    return prompt


def noise_pictures(seed: int, batch: int, side: int, prefix: str) -> Prompt:
    """Decoded noise, without a sampler: much to save after little work, and hard to compress."""
    prompt = Prompt()
    latent = prompt.noise(seed, batch, side)
    prompt.save_ours(prompt.decoded(prompt.loader()(1), latent), latent, prefix)
    return prompt


def _demo(seed: int) -> Case:
    return Case("core graph", portrait(seed, side=128), images=1)


def _batch(seed: int) -> Case:
    return Case("batch", portrait(seed, batch=4), images=4)


def _wide(seed: int) -> Case:
    prompt = Prompt()
    loader = prompt.loader()
    noise = prompt.add("LDMLatentNoise", seed=seed, width=160, height=96, batch_size=1, model=loader(0))(0)
    latent = prompt.ddim(loader(0), noise, eta=0.5, grid="trailing", cache_interval=2)
    prompt.save(prompt.add("VAEDecode", vae=loader(1), samples=latent)(0))
    return Case("wide, eta, cache, native decode", prompt, images=1)


def _samplers(seed: int) -> Case:
    prompt = Prompt()
    loader = prompt.loader()
    for sampler in ("plms", "dpmpp_2m", "dpmpp_2m_sde"):
        latent = prompt.sampled(loader(0), prompt.noise(seed), sampler=sampler)
        prompt.save(prompt.decoded(loader(1), latent))
    return Case("three samplers", prompt, images=3)


def _other_samplers(seed: int) -> Case:
    prompt = Prompt()
    loader = prompt.loader()
    for sampler in ("dpmpp_3m", "ddpm", "ddim"):
        latent = prompt.sampled(loader(0), prompt.noise(seed, 2), sampler=sampler, steps=3, grid="trailing")
        prompt.save(prompt.decoded(loader(1), latent))
    return Case("other samplers", prompt, images=6)


def _tiled(seed: int) -> Case:
    prompt = Prompt()
    loader = prompt.loader()
    latent = prompt.sampled(loader(0), prompt.noise(seed, side=192))
    images = prompt.add("LDMVQDecodeTiled", vae=loader(1), latent=latent, tile=32)(0)
    prompt.save_ours(images, latent)
    return Case("tiled decode", prompt, images=1)


def _native_sampler(seed: int) -> Case:
    prompt = Prompt()
    loader, empty = prompt.loader(), prompt.add("LDMEmptyConditioning")(0)
    latent = prompt.add("LDMEmptyLatent", width=64, height=64, batch_size=2)(0)
    sampled = prompt.add(
        "KSampler", model=loader(0), positive=empty, negative=empty, latent_image=latent, seed=seed, steps=2, cfg=1.0,
        sampler_name="euler", scheduler="simple", denoise=1.0,
    )(0)  # fmt: skip
    prompt.save(prompt.decoded(loader(1), sampled))
    return Case("native sampler", prompt, images=2)


def _custom_sampling(seed: int) -> Case:
    prompt = Prompt()
    loader = prompt.loader()
    model, vae = loader(0), loader(1)
    sampled = prompt.add(
        "SamplerCustomAdvanced",
        noise=prompt.add("LDMNoise", seed=seed)(0),
        guider=prompt.add("LDMGuider", model=model)(0),
        sampler=prompt.add("LDMSamplerSelect", sampler="unipc", eta=0.0)(0),
        sigmas=prompt.add("LDMSigmas", model=model, steps=2, grid="log_snr", strength=1.0)(0),
        latent_image=prompt.add("LDMEmptyLatent", width=64, height=64, batch_size=1, model=model)(0),
    )(0)
    prompt.save(prompt.decoded(vae, sampled))
    return Case("custom sampling", prompt, images=1)


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


def _image_to_image(seed: int) -> Case:
    prompt = Prompt()
    loader = prompt.loader()
    image = prompt.decoded(loader(1), prompt.sampled(loader(0), prompt.noise(seed)))
    encoded = prompt.add("LDMVQEncode", vae=loader(1), image=image)(0)
    latent = prompt.add(
        "LDMImageToImage", model=loader(0), latent=encoded, seed=seed, strength=0.5, sampler="ddim", steps=2, eta=0.0,
        grid="trailing",
    )(0)  # fmt: skip
    prompt.save_ours(prompt.decoded(loader(1), latent), latent)
    return Case("image to image", prompt, images=1)


def _inpaint(seed: int) -> Case:
    prompt = Prompt()
    loader = prompt.loader()
    image = prompt.decoded(loader(1), prompt.sampled(loader(0), prompt.noise(seed)))
    mask = prompt.add("SolidMask", value=1.0, width=64, height=64)(0)
    encoded = prompt.add("LDMVQEncode", vae=loader(1), image=image)(0)
    latent = prompt.add(
        "LDMInpaint", model=loader(0), latent=encoded, mask=mask, seed=seed, steps=2, grid="trailing", jump_length=1,
        resamples=2,
    )(0)  # fmt: skip
    new = prompt.decoded(loader(1), latent)
    prompt.save(prompt.add("LDMInpaintComposite", image=image, inpainted=new, mask=mask, feather=4)(0))
    return Case("inpaint and composite", prompt, images=1)


def _inversion(seed: int) -> Case:
    prompt = Prompt()
    loader = prompt.loader()
    latent = prompt.sampled(loader(0), prompt.noise(seed))
    noise = prompt.add("LDMDDIMInversion", model=loader(0), latent=latent, steps=2, grid="leading", iterations=1)(0)
    prompt.save(prompt.decoded(loader(1), prompt.ddim(loader(0), noise)))
    return Case("inversion", prompt, images=1)


def _walk(seed: int) -> Case:
    prompt = Prompt()
    loader = prompt.loader()
    walk = prompt.add("LDMSeedWalk", seed_from=seed, seed_to=seed + 1, frames=3, path="circle", width=64, height=64)(0)
    latent = prompt.sampled(loader(0), walk)
    images = prompt.decoded(loader(1), latent)
    prompt.save(prompt.add("LDMContactSheet", images=images, columns=0, latent=latent)(0))
    return Case("walk and contact sheet", prompt, images=1)


def _latent_walk(seed: int) -> Case:
    prompt = Prompt()
    loader = prompt.loader()
    ends = {"latent_from": prompt.noise(seed), "latent_to": prompt.noise(seed + 1)}
    walk = prompt.add("LDMLatentWalk", **ends, frames=2, path="line")(0)
    prompt.save(prompt.decoded(loader(1), prompt.sampled(loader(0), walk)))
    return Case("latent walk", prompt, images=2)


def _variations(seed: int) -> Case:
    prompt = Prompt()
    loader = prompt.loader()
    varied = prompt.add(
        "LDMSeedVariations", seed=seed, variation_seed=seed + 50, variations=1, strength=0.2, width=64, height=64
    )(0)
    view = prompt.add("LDMCodeView", vae=loader(1), latent=varied)
    prompt.save(view(0))
    prompt.save(prompt.decoded(loader(1), view(2)))
    return Case("variations and code view", prompt, images=4)


def _checkpoint(seed: int) -> Case:
    prompt = Prompt()
    loader = prompt.loader()
    prompt.add("LDMModelInfo", model=loader(0))
    name = f"{FOLDER}/checkpoint-{seed}"
    prompt.add("LDMCheckpointSave", model=loader(0), vae=loader(1), filename_prefix=name, dtype="fp16")
    return Case("info and checkpoint", prompt)


def _refused(seed: int) -> Case:
    prompt = portrait(seed)
    prompt["2"]["inputs"]["batch_size"] = 10_000_000
    return Case("batch of millions", prompt, "refused")


def _unknown_checkpoint(seed: int) -> Case:
    prompt = portrait(seed)
    prompt["1"]["inputs"]["checkpoint"] = f"../nothing-{seed}"
    return Case("unknown checkpoint", prompt, "failed")


def _odd_size(seed: int) -> Case:
    prompt = portrait(seed)
    prompt["2"]["inputs"]["width"] = 70
    return Case("odd size", prompt, "failed")


def _no_wire(seed: int) -> Case:
    prompt = portrait(seed)
    prompt["4"]["inputs"]["latent"] = None
    return Case("null for a latent", prompt, "failed")


def _super_resolution(seed: int) -> Case:
    prompt = Prompt()
    loader = prompt.loader()
    image = prompt.decoded(loader(1), prompt.noise(seed))
    large = prompt.add(
        "LDMSuperResolution", model=loader(0), vae=loader(1), image=image, seed=seed, steps=2, sampler="ddim",
        grid="auto", eta=0.0, tile=0,
    )(0)  # fmt: skip
    prompt.save(large)
    return Case("super-resolution with a model for portraits", prompt, "failed")


def _super_resolution_parts(seed: int) -> Case:
    prompt = Prompt()
    loader = prompt.loader()
    image = prompt.decoded(loader(1), prompt.noise(seed))
    prompt.save(
        prompt.decoded(loader(1), prompt.add("LDMSuperResolutionConditioning", model=loader(0), image=image)(1))
    )
    return Case("parts of super-resolution with a model for portraits", prompt, "failed")


def _trained_inpainting(seed: int) -> Case:
    prompt = Prompt()
    loader = prompt.loader()
    image = prompt.decoded(loader(1), prompt.noise(seed))
    mask = prompt.add("SolidMask", value=1.0, width=64, height=64)(0)
    new = prompt.add(
        "LDMInpaintModel", model=loader(0), vae=loader(1), image=image, mask=mask, seed=seed, steps=2, sampler="ddim",
        grid="auto", eta=0.0, mask_reduction="any",
    )(0)  # fmt: skip
    prompt.save(new)
    return Case("trained inpainting with a model for portraits", prompt, "failed")


def _trained_inpainting_parts(seed: int) -> Case:
    prompt = Prompt()
    loader = prompt.loader()
    image = prompt.decoded(loader(1), prompt.noise(seed))
    mask = prompt.add("SolidMask", value=1.0, width=64, height=64)(0)
    wires = {"model": loader(0), "vae": loader(1), "image": image, "mask": mask}
    latent = prompt.add("LDMInpaintConditioning", **wires, mask_reduction="any")(1)
    prompt.save(prompt.decoded(loader(1), latent))
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


def _cancelled(seed: int) -> Case:
    return Case("cancelled", portrait(seed, steps=1000), "cancelled")


_CASES: tuple[Callable[[int], Case], ...] = (
    _demo, _batch, _refused, _wide, _samplers, _unknown_checkpoint, _other_samplers, _tiled, _native_sampler,
    _cancelled, _custom_sampling, _image_to_image, _odd_size, _inpaint, _inversion, _walk, _no_wire, _latent_walk,
    _variations, _checkpoint, _super_resolution, _super_resolution_parts,
    _trained_inpainting, _trained_inpainting_parts, _semantic_map, _semantic_synthesis, _class,
    _restored, _wrong_guide, _pulled,
)  # fmt: skip
