"""Inputs and outputs that several nodes have in common, worded once."""

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ...ldm_backend.conditioning.masked_image import MASK_REDUCTIONS
from ...ldm_backend.config.conditioning import (
    CLASS_CONDITIONAL,
    INPAINTING,
    SEMANTIC_SYNTHESIS,
    SUPER_RESOLUTION,
    UNCONDITIONAL,
    VECTOR_CONDITIONAL,
)
from ...ldm_backend.sampling.noise import MAX_SEED
from ...ldm_backend.sampling.samplers import AUTO, SAMPLERS
from ...ldm_backend.sampling.schedule import GRIDS

_MODEL_TOOLTIPS: dict[tuple[str, ...], str] = {
    (SUPER_RESOLUTION,): "The MODEL from LDM Checkpoint Loader, of one for super-resolution (bsr_sr).",
    (INPAINTING,): "The MODEL from LDM Checkpoint Loader, of one for inpainting (inpainting_big).",
    (SEMANTIC_SYNTHESIS,): "The MODEL from LDM Checkpoint Loader, of one for semantic synthesis.",
    (CLASS_CONDITIONAL,): "The MODEL from LDM Checkpoint Loader, of one for classes (cin256-v2).",
    (VECTOR_CONDITIONAL,): "The MODEL from LDM Checkpoint Loader, of one for vectors of CLIP (rdm768x768).",
}
SIZE_STEP = 32  # pixels: the UNet halves the latent three times


def model_input(*tasks: str) -> io.Model.Input:
    """MODEL of this pack.

    Args:
        tasks: That the node draws from; none means unconditional models. The door of the node refuses others.
    """
    made = io.Model.Input("model", tooltip=_MODEL_TOOLTIPS.get(tasks, "The MODEL from LDM Checkpoint Loader."))
    made.tasks = tasks or (UNCONDITIONAL,)  # pyright: ignore[reportAttributeAccessIssue] - ours, see `wires`
    return made


def vae_input() -> io.Vae.Input:
    """VAE of this pack."""
    return io.Vae.Input("vae", tooltip="The VAE from LDM Checkpoint Loader.")


def steps_input(default: int, tooltip: str) -> io.Int.Input:
    """Steps of a sampler."""
    return io.Int.Input("steps", default=default, min=1, max=1000, tooltip=tooltip)


def eta_input(tooltip: str | None = None, default: float = 0.0) -> io.Float.Input:
    """DDIM's eta."""
    return io.Float.Input(
        "eta",
        default=default,
        min=0.0,
        max=1.0,
        step=0.05,
        tooltip=tooltip
        or (
            "Noise added at each step. 0: none, the seed alone decides the image. 1: as much as DDPM adds, for more "
            "variety."
        ),
    )


def sampler_input(default: str = "ddim") -> io.Combo.Input:
    """Which sampler of the backend runs."""
    return io.Combo.Input(
        "sampler",
        options=list(SAMPLERS),
        default=default,
        tooltip=(
            "unipc, dpmpp_2m, dpmpp_3m: fast solvers, about 20 steps. ddim, plms: the samplers of the original "
            "program, the first slow and exact to the model card, the second fast. dpmpp_2m_sde: fast, with noise at "
            "each step. ddpm: with noise at each step, for hundreds of steps."
        ),
    )


def grid_input(default: str = AUTO) -> io.Combo.Input:
    """Which timesteps a run visits; AUTO is a choice where it is the default, since then the node knows its sampler."""
    of_auto = (
        "auto: what suits the sampler: log_snr for unipc and dpmpp, and for the others what the checkpoint names, or "
        "leading. "
    )
    return io.Combo.Input(
        "grid",
        options=[*GRIDS, AUTO] if default == AUTO else list(GRIDS),
        default=default,
        tooltip=(
            f"{of_auto if default == AUTO else ''}"
            "Which of the training timesteps are visited. leading: as on Hugging Face, for the model card's images. "
            "compvis: one step later, as the original program did. trailing: evenly, from the noisiest one down. "
            "linspace: evenly, both ends included. log_snr: evenly in the ratio of image to noise, close together at "
            "the end. linspace_open: as diffusers' UniPC and DPM-Solver++ by themselves."
        ),
    )


def seed_input(
    tooltip: str = "Seed of the first image. The next images of the batch take seed + 1, seed + 2 and so on.",
    default: int = 3,
    name: str = "seed",
) -> io.Int.Input:
    """A seed with the browser's control after each run."""
    return io.Int.Input(name, default=default, min=0, max=MAX_SEED, control_after_generate=True, tooltip=tooltip)


def step_seed_input(when: str) -> io.Int.Input:
    """Optional seed of the noise that steps add, for latents that carry none.

    Args:
        when: In which case the input counts, for the tooltip: "for eta above 0".
    """
    return io.Int.Input(
        "seed",
        optional=True,
        force_input=True,
        min=0,
        max=MAX_SEED,
        tooltip=(
            f"Only {when}, and only if the latent does not come straight from LDM Latent Noise, which passes its seed "
            "along: seed of the noise that the steps add."
        ),
    )


def guidance_inputs() -> list[Any]:
    """Optional positive, negative and cfg of samplers, for models that draw what they are told."""
    return [
        io.Conditioning.Input(
            "positive",
            optional=True,
            tooltip=(
                "Only for models of classes, texts or vectors, which need it: what to draw, from LDM Class, CLIP Text "
                "Encode, LDM CLIP Vectors or nodes that mix it."
            ),
        ),
        io.Conditioning.Input(
            "negative",
            optional=True,
            tooltip=(
                "Only with cfg other than 1: what to go away from. An empty text of CLIP Text Encode, or none of LDM "
                "Class, which open stands for too where the model knows it."
            ),
        ),
        io.Float.Input(
            "cfg",
            optional=True,
            default=1.0,
            min=-100.0,
            max=100.0,
            step=0.1,
            round=0.01,
            tooltip=(
                "Only with positive: how strongly it is followed (guidance without a classifier). 1: no more than "
                "the model does by itself. 1.5 to 3 suit cin256-v2, 5 text2img-large, with two evaluations each step."
            ),
        ),
    ]


def new_mask_input() -> io.Mask.Input:
    """Where a model for inpainting makes a picture anew."""
    return io.Mask.Input(
        "mask",
        tooltip=(
            "White (0.5 and more) where the picture is made anew, black where it stays. At the size of the image in "
            "pixels; one for all images, or one for each."
        ),
    )


def tile_input(tooltip: str, optional: bool = False) -> io.Int.Input:
    """Side of the tiles that a model for a task goes over."""
    return io.Int.Input("tile", default=0, min=0, max=4096, step=8, optional=optional, tooltip=tooltip)


def mask_reduction_input() -> io.Combo.Input:
    """How a mask becomes as small as the latent."""
    return io.Combo.Input(
        "mask_reduction",
        options=list(MASK_REDUCTIONS),
        default=MASK_REDUCTIONS[0],
        tooltip=(
            "How the mask becomes as small as the latent. any: a cell is made anew if one of its pixels is masked, so "
            "that thin strokes count. nearest: as the original, which loses strokes thinner than 4 pixels."
        ),
    )


def side_input(name: str) -> io.Int.Input:
    """Width or height of an image in pixels."""
    settings: dict[str, Any] = {"default": 256, "min": SIZE_STEP, "max": 16384, "step": SIZE_STEP}
    return io.Int.Input(
        name,
        **settings,
        tooltip=(
            f"{name.capitalize()} of the image in pixels, a multiple of 32. Best at the size the model was trained on: "
            "256 for CelebA-HQ, 128 for the demo."
        ),
    )


def batch_input() -> io.Int.Input:
    """Images of a new batch."""
    return io.Int.Input("batch_size", default=1, min=1, max=4096, tooltip="Number of images to make in one run.")


def other_model_input(purpose: str = "remove this noise") -> io.Model.Input:
    """Optional MODEL of nodes that make the first latent.

    Args:
        purpose: What the MODEL will do with that latent, for the tooltip.
    """
    return io.Model.Input(
        "model",
        optional=True,
        tooltip=(
            f"Only for models with another kind of latent, such as LSUN-Churches: the MODEL that will {purpose}. "
            "Without it the latent has 3 channels at a quarter of the image's size."
        ),
    )


def finished_latents() -> io.Latent.Output:
    """LATENT of a sampler."""
    return io.Latent.Output(
        display_name="LATENT", tooltip="The finished latents, for LDM VQ Decode, VAE Decode or latent nodes."
    )
