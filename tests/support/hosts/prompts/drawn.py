"""Prompts that draw, edit and look at portraits, and such that must be refused."""

from __future__ import annotations

from collections.abc import Callable

from .parts import FOLDER, Case, Prompt, portrait


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


def _cancelled(seed: int) -> Case:
    return Case("cancelled", portrait(seed, steps=1000), "cancelled")


CASES: tuple[Callable[[int], Case], ...] = (
    _demo, _batch, _refused, _wide, _samplers, _unknown_checkpoint, _other_samplers, _tiled, _native_sampler,
    _cancelled, _custom_sampling, _image_to_image, _odd_size, _inpaint, _inversion, _walk, _no_wire, _latent_walk,
    _variations, _checkpoint,
)  # fmt: skip
