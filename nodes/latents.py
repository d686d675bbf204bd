"""What a run starts from: noise with one seed for each image, or an empty latent for samplers that draw their own."""

# The host calls `execute` with a node's own inputs by name, so each signature differs from the base class's.
# pyright: reportIncompatibleMethodOverride=false

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io

from ..ldm_backend.memory.estimates import Size
from ..ldm_backend.sampling.noise import draw_noise, seeds_of
from .host.model import ModelPatcher, intermediate_device
from .host.schema import make_schema
from .shared.inputs import batch_input, other_model_input, seed_input, side_input
from .shared.latent_batch import DOWNSCALE_KEY, INDEX_KEY, SEED_KEY, latent_shape
from .shared.limits import check_noise, noise_refusal
from .shared.wires import checked

TASK = "LDM Latent Noise"
EMPTY_TASK = "LDM Empty Latent"


class LDMLatentNoise(io.ComfyNode):
    """x_T: what the sampler starts from."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What the host shows."""
        return make_schema(
            node_id="LDMLatentNoise",
            display_name="LDM Latent Noise",
            description=(
                "Draws the noise that LDM DDIM Sampler turns into images. Each image of a batch has its own seed: "
                "image i is the image of seed + i, whatever the batch size."
            ),
            search_aliases=["seed", "empty latent", "x_T"],
            inputs=[
                seed_input(),
                side_input("width"),
                side_input("height"),
                batch_input(),
                other_model_input(),
            ],
            outputs=[
                io.Latent.Output(
                    display_name="LATENT",
                    tooltip=(
                        "Pure noise, for LDM DDIM Sampler. KSampler adds its own noise: give it LDM Empty Latent "
                        "instead."
                    ),
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, width: Any, height: Any, batch_size: Any) -> str | bool:
        """What no memory of this machine could hold is refused before the prompt runs."""
        size = Size(batch_size, height, width)
        return noise_refusal(cls, TASK, size, width=width, height=height, batch_size=batch_size)

    @classmethod
    @checked
    def execute(
        cls, seed: int, width: int, height: int, batch_size: int, model: ModelPatcher | None = None
    ) -> io.NodeOutput:
        """Draw (batch_size, C, height / downscale, width / downscale) noise; C is 3 and downscale 4 without a model.

        Raises:
            InputError: A side that is no multiple of 32, a model of another family, or more than fits into memory.
        """
        shape, downscale = latent_shape(width, height, model)
        check_noise(TASK, Size(batch_size, height, width), model)
        samples = draw_noise(seeds_of(seed, range(batch_size)), shape).to(intermediate_device())
        return io.NodeOutput(
            {
                "samples": samples,
                INDEX_KEY: list(range(batch_size)),
                SEED_KEY: seed,
                DOWNSCALE_KEY: downscale,
            }
        )


class LDMEmptyLatent(io.ComfyNode):
    """Zeros of the right shape for samplers that draw their own noise."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What the host shows."""
        return make_schema(
            node_id="LDMEmptyLatent",
            display_name="LDM Empty Latent",
            description=(
                "An empty latent for KSampler, SamplerCustomAdvanced and other samplers that draw their own noise. "
                "Enter the size that the picture shall have: it comes out right on every version of ComfyUI, which "
                "Empty Latent Image does not do for these models."
            ),
            search_aliases=["EmptyLatentImage", "KSampler", "blank latent", "new latent"],
            inputs=[
                side_input("width"),
                side_input("height"),
                batch_input(),
                other_model_input("draw the picture"),
            ],
            outputs=[
                io.Latent.Output(
                    display_name="LATENT",
                    tooltip=(
                        "An empty latent, for latent_image of KSampler or SamplerCustomAdvanced. LDM Sampler and LDM "
                        "DDIM Sampler add no noise: give them LDM Latent Noise instead."
                    ),
                ),
            ],
        )

    @classmethod
    def validate_inputs(cls, width: Any, height: Any, batch_size: Any) -> str | bool:
        """What no memory of this machine could hold is refused before the prompt runs."""
        size = Size(batch_size, height, width)
        return noise_refusal(cls, EMPTY_TASK, size, width=width, height=height, batch_size=batch_size)

    @classmethod
    @checked
    def execute(cls, width: int, height: int, batch_size: int, model: ModelPatcher | None = None) -> io.NodeOutput:
        """(batch_size, C, height / downscale, width / downscale) zeros; C is 3 and downscale 4 without a model.

        Raises:
            InputError: A side that is no multiple of 32, a model of another family, or more than fits into memory.
        """
        shape, downscale = latent_shape(width, height, model)
        # Zeros alone would take less, but whoever takes them draws as much noise.
        check_noise(EMPTY_TASK, Size(batch_size, height, width), model)
        samples = torch.zeros((batch_size, *shape), dtype=torch.float32, device=intermediate_device())
        return io.NodeOutput({"samples": samples, DOWNSCALE_KEY: downscale})
