"""Starting noise and latents along a path: walks between two seeds or latents, and small steps round one seed."""

# The host calls `execute` with a node's own inputs by name, so each signature differs from the base class's.
# pyright: reportIncompatibleMethodOverride=false

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..ldm_backend.editing.interpolation import PATHS, slerp
from ..ldm_backend.errors import InputError, check_choice
from ..ldm_backend.memory.estimates import Size
from ..ldm_backend.sampling.noise import draw_noise, seeds_of
from .host.model import ModelPatcher
from .host.schema import make_schema
from .shared.inputs import other_model_input, seed_input, side_input
from .shared.latent_batch import DOWNSCALE_KEY, INFO_KEY, MASK_KEY, SEED_KEY, labelled, latent_shape, own_labels
from .shared.limits import check_noise, check_path, noise_refusal
from .shared.wires import checked

GROUP = "seeds"


class LDMSeedWalk(io.ComfyNode):
    """x_T on the way from one seed to another."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What the host shows."""
        return make_schema(
            GROUP,
            node_id="LDMSeedWalk",
            display_name="LDM Seed Walk",
            description=(
                "Noise on the way from one seed to another. Sampled with eta 0 it gives a series of images that change "
                "smoothly, and whose ends are the images of the two seeds."
            ),
            search_aliases=["interpolate", "slerp", "morph", "animation"],
            inputs=[
                seed_input("Seed of the first frame.", 3, "seed_from"),
                seed_input(
                    "Seed of the last frame (line), or of the frame a quarter of the way (circle).", 4, "seed_to"
                ),
                frames_input(),
                path_input(),
                side_input("width"),
                side_input("height"),
                other_model_input(),
            ],
            outputs=[
                io.Latent.Output(
                    display_name="LATENT",
                    tooltip="Noise, one for each frame, for LDM Sampler or LDM DDIM Sampler with eta 0.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, frames: Any, width: Any, height: Any) -> str | bool:
        """What no memory of this machine could hold is refused before the prompt runs."""
        size = Size(frames, height, width, "frames")
        return noise_refusal(cls, "LDM Seed Walk", size, frames=frames, width=width, height=height)

    @classmethod
    @checked
    def execute(
        cls,
        seed_from: int,
        seed_to: int,
        frames: int,
        path: str,
        width: int,
        height: int,
        model: ModelPatcher | None = None,
    ) -> io.NodeOutput:
        """Draw both ends, (frames, C, H, W) in all.

        Raises:
            InputError: A side that is no multiple of 32, a model of another family, a circle of one seed, or more than
                fits into memory.
        """
        shape, downscale = latent_shape(width, height, model)
        check_noise("LDM Seed Walk", Size(frames, height, width, "frames"), model, mixed=1)
        ends = draw_noise([seed_from, seed_to], shape)
        samples = walk(ends[:1], ends[1:], frames, path)
        labels = walk_labels(str(seed_from), str(seed_to), frames, path)
        labels[0] = f"seed {seed_from}"
        if path == "line":
            labels[-1] = f"seed {seed_to}"
        return io.NodeOutput(labelled(samples, labels) | {DOWNSCALE_KEY: downscale})


class LDMLatentWalk(io.ComfyNode):
    """Latents on the way from one latent to another."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What the host shows."""
        return make_schema(
            GROUP,
            node_id="LDMLatentWalk",
            display_name="LDM Latent Walk",
            description=(
                "Latents on the way from one latent to another, along a circle arc that keeps their strength. Noise on "
                "the way is sampled and then decoded; finished latents on the way can be decoded at once."
            ),
            search_aliases=["interpolate", "slerp", "latent blend", "morph"],
            inputs=[
                io.Latent.Input(
                    "latent_from", tooltip="Where to start: noise or finished latents. Each of a batch has a walk."
                ),
                io.Latent.Input("latent_to", tooltip="Where to go: of the same size, and as many as in latent_from."),
                frames_input(),
                path_input(),
            ],
            outputs=[
                io.Latent.Output(
                    display_name="LATENT",
                    tooltip="The latents of all frames. For batches: the frames of the first walk, then of the second.",
                ),
            ],
        )

    @classmethod
    @checked
    def execute(cls, latent_from: dict[str, Any], latent_to: dict[str, Any], frames: int, path: str) -> io.NodeOutput:
        """Walk from each image of `latent_from` to its partner; (images * frames, C, H, W) in all.

        Raises:
            InputError: Latents of different shapes, opposite ends of a line, a circle of parallel ones, or more than
                fits into memory.
        """
        # From two wires, which may end on different devices. Walks are computed on the CPU, where room is checked for.
        a, b = latent_from["samples"].cpu(), latent_to["samples"].cpu()
        if a.shape != b.shape:
            raise InputError(
                f"latent_from has shape {tuple(a.shape)} and latent_to {tuple(b.shape)}; expected the same. Make both "
                "with the same size and batch size, or take single ones with LatentFromBatch."
            )
        check_path("LDM Latent Walk", a.shape, frames)
        walks = [walk(one, other, frames, path) for one, other in zip(a.split(1), b.split(1), strict=True)]
        names = zip(own_labels(latent_from) or ["from"] * len(a), own_labels(latent_to) or ["to"] * len(b), strict=True)
        labels = [label for one, other in names for label in walk_labels(one, other, frames, path)]
        # Kept is what holds for every frame. A seed does not, nor does a mask made for one of the ends.
        kept = {key: value for key, value in latent_from.items() if key not in (SEED_KEY, MASK_KEY)}
        if kept.get(INFO_KEY) != latent_to.get(INFO_KEY):
            kept.pop(INFO_KEY, None)
        return io.NodeOutput(kept | labelled(torch.cat(walks), labels))


class LDMSeedVariations(io.ComfyNode):
    """x_T of a seed, and of small steps away from it."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What the host shows."""
        return make_schema(
            GROUP,
            node_id="LDMSeedVariations",
            display_name="LDM Seed Variations",
            description=(
                "Noise of one seed, followed by noise a little way off in different directions. Sampled with eta 0 it "
                "gives the image of the seed and variations of it."
            ),
            search_aliases=["variation seed", "subseed", "similar images"],
            inputs=[
                seed_input("Seed of the image to vary; it comes first in the batch."),
                seed_input(
                    "Seed of the first variation's direction. The next variations take this seed + 1, + 2 and so on.",
                    1000,
                    "variation_seed",
                ),
                io.Int.Input("variations", default=8, min=1, max=4095, tooltip="Number of images beside the first."),
                io.Float.Input(
                    "strength",
                    default=0.2,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip="How far to go. 0: the seed's own image again. 0.05 to 0.2: like it. 1: another image.",
                ),
                side_input("width"),
                side_input("height"),
                other_model_input(),
            ],
            outputs=[
                io.Latent.Output(
                    display_name="LATENT",
                    tooltip="Noise, 1 + variations images, for LDM Sampler or LDM DDIM Sampler with eta 0.",
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, variations: Any, width: Any, height: Any) -> str | bool:
        """What no memory of this machine could hold is refused before the prompt runs."""
        size = Size(variations, height, width, "variations")
        return noise_refusal(cls, "LDM Seed Variations", size, variations=variations, width=width, height=height)

    @classmethod
    @checked
    def execute(
        cls,
        seed: int,
        variation_seed: int,
        variations: int,
        strength: float,
        width: int,
        height: int,
        model: ModelPatcher | None = None,
    ) -> io.NodeOutput:
        """Draw (1 + variations, C, H, W) noise.

        Raises:
            InputError: A side that is no multiple of 32, a model of another family, or more than fits into memory.
        """
        shape, downscale = latent_shape(width, height, model)
        size = Size(variations, height, width, "variations")
        check_noise("LDM Seed Variations", size, model, mixed=variations)
        centre = draw_noise([seed], shape)
        others = seeds_of(variation_seed, range(variations))
        varied = slerp(centre.expand(variations, -1, -1, -1), draw_noise(others, shape), strength)
        labels = [f"seed {seed}", *(f"seed {seed} + {other} x {strength:g}" for other in others)]
        return io.NodeOutput(labelled(torch.cat([centre, varied]), labels) | {DOWNSCALE_KEY: downscale})


def frames_input() -> io.Int.Input:
    """Length of a walk."""
    return io.Int.Input(
        "frames", default=16, min=2, max=4096, tooltip="Number of images on the way, the first one included."
    )


def path_input() -> io.Combo.Input:
    """Kind of a walk."""
    return io.Combo.Input(
        "path",
        options=list(PATHS),
        default="line",
        tooltip=(
            "line: from the first to the second, both included. circle: a closed loop from the first through the "
            "second and back, for noise; an animation of it repeats without a jump."
        ),
    )


def walk(a: Tensor, b: Tensor, frames: int, path: str) -> Tensor:
    """(frames, C, H, W) from (1, C, H, W) to (1, C, H, W).

    Raises:
        InputError: An unknown path, or ends that it does not join.
    """
    check_choice("path", path, PATHS, InputError)  # older hosts do not check
    return PATHS[path](a, b, frames)


def walk_labels(start: str, end: str, frames: int, path: str) -> list[str]:
    """A text for each frame: "3 > 4: 0.25" on a line, "3 > 4: 90 deg" on a circle; its name alone at an end."""
    if path == "circle":
        return [start, *(f"{start} > {end}: {360 * index / frames:g} deg" for index in range(1, frames))]
    inner = (f"{start} > {end}: {index / (frames - 1):.2f}" for index in range(1, frames - 1))
    return [start, *inner, end]
