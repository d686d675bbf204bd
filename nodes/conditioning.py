"""The conditioning of native samplers: what a model sees beside the noise, and nothing for those that see nothing."""

# The host calls `execute` with a node's own inputs by name, so each signature differs from the base class's.
# pyright: reportIncompatibleMethodOverride=false

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ..ldm_backend.conditioning.low_resolution import low_resolution
from ..ldm_backend.conditioning.masked_image import filled_pixels
from ..ldm_backend.config.conditioning import INPAINTING, SUPER_RESOLUTION
from ..ldm_backend.config.model import LDMConfig
from .host.conditioning import conditioning_of
from .host.loading import check_belongs
from .host.model import ModelPatcher, intermediate_device, ldm_model_of
from .host.schema import make_schema
from .host.vae import LDMVAE
from .shared.inputs import mask_reduction_input, model_input, new_mask_input, vae_input
from .shared.latent_batch import DOWNSCALE_KEY
from .shared.limits import check_conditioning
from .shared.masked_pictures import check_masked, masked_channels
from .shared.wires import checked


class LDMEmptyConditioning(io.ComfyNode):
    """A conditioning that says nothing."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What the host shows."""
        return make_schema(
            node_id="LDMEmptyConditioning",
            display_name="LDM Empty Conditioning",
            description=(
                "An empty conditioning for KSampler, CFGGuider and BasicGuider, which ask for one. Unconditional "
                "models take no prompt and ignore it. Connect it to positive and negative and set cfg to 1."
            ),
            search_aliases=["empty conditioning", "unconditional", "KSampler"],
            inputs=[],
            outputs=[
                io.Conditioning.Output(
                    display_name="CONDITIONING", tooltip="For the inputs positive and negative of KSampler."
                ),
            ],
        )

    @classmethod
    @checked
    def execute(cls) -> io.NodeOutput:
        """Make the conditioning."""
        # One zero token: nodes that edit conditioning expect a tensor, and an empty list would silence the model.
        return io.NodeOutput([[torch.zeros(1, 1, 1), {}]])


class LDMSuperResolutionConditioning(io.ComfyNode):
    """Small pictures as what the model sees beside the noise."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What the host shows."""
        return make_schema(
            group="trained tasks",
            node_id="LDMSuperResolutionConditioning",
            display_name="LDM Super-Resolution Conditioning",
            description=(
                "The parts of LDM Super-Resolution for graphs of your own: the small picture as a conditioning, and an "
                "empty latent of its size, for KSampler or SamplerCustomAdvanced with BasicGuider. Set cfg to 1."
            ),
            search_aliases=["LDSR", "upscale", "low resolution", "concat"],
            inputs=[
                model_input(SUPER_RESOLUTION),
                io.Image.Input(
                    "image",
                    tooltip=(
                        "The small pictures. Sides that are no multiples of 8 are continued by reflection at the right "
                        "and bottom. An alpha channel is dropped."
                    ),
                ),
            ],
            outputs=_conditioned_outputs("four times the sides of the small picture"),
        )

    @classmethod
    @checked
    def execute(cls, model: ModelPatcher, image: Tensor) -> io.NodeOutput:
        """Conditioning and latents of (N, H, W, 3) images in 0..1.

        Raises:
            InputError: More than fits into memory.
        """
        config = ldm_model_of(model).ldm_config
        scale = config.first_stage.downscale
        check_conditioning("LDM Super-Resolution Conditioning", config, (len(image), *image.shape[1:3]), image.device)
        c = low_resolution(image[..., :3], config)
        return _conditioned(config, c, image.shape[1] * scale, image.shape[2] * scale)


class LDMInpaintConditioning(io.ComfyNode):
    """A picture with a hole as what the model sees beside the noise."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What the host shows."""
        return make_schema(
            group="trained tasks",
            node_id="LDMInpaintConditioning",
            display_name="LDM Inpaint Conditioning",
            description=(
                "The parts of LDM Inpaint Model for graphs of your own: the picture with a hole as a conditioning, and "
                "an empty latent of its size, for KSampler or SamplerCustomAdvanced with BasicGuider. Set cfg to 1."
            ),
            search_aliases=["inpainting_big", "InpaintModelConditioning", "mask", "concat"],
            inputs=[
                model_input(INPAINTING),
                vae_input(),
                io.Image.Input(
                    "image",
                    tooltip=(
                        "The pictures. Sides that are no multiples of 32 are continued by reflection at the right and "
                        "bottom. An alpha channel is dropped."
                    ),
                ),
                new_mask_input(),
                mask_reduction_input(),
            ],
            advanced=("mask_reduction",),
            outputs=_conditioned_outputs("the sides of the image"),
        )

    @classmethod
    @checked
    def execute(
        cls, model: ModelPatcher, vae: LDMVAE, image: Tensor, mask: Tensor, mask_reduction: str
    ) -> io.NodeOutput:
        """Conditioning and latents of (N, H, W, 3) images in 0..1.

        Raises:
            LDMError: A VAE of another model, a mask of another size, another mask_reduction, or more than fits into
                memory.
        """
        config = ldm_model_of(model).ldm_config
        check_belongs(vae, config)
        image = image[..., :3]
        check_masked("LDM Inpaint Conditioning", vae, config, image)
        filled = filled_pixels(mask.to(image.device), (len(image), *image.shape[1:3]))
        c = masked_channels(vae, config, image, filled, mask_reduction)
        return _conditioned(config, c, image.shape[1], image.shape[2])


def _conditioned_outputs(sides: str) -> list[Any]:
    """Outputs of a node that makes a conditioning of pictures; `sides` says what width and height are."""
    return [
        io.Conditioning.Output(
            display_name="CONDITIONING",
            tooltip="For positive and negative of KSampler, or conditioning of BasicGuider, with the same MODEL.",
        ),
        io.Latent.Output(display_name="LATENT", tooltip="Empty latents of its size, for latent_image of the sampler."),
        io.Int.Output(
            display_name="width", tooltip=f"Of the finished picture, {sides}: for Image Crop after decoding."
        ),
        io.Int.Output(display_name="height", tooltip="Likewise. What lies beyond was continued by reflection."),
    ]


def _conditioned(config: LDMConfig, c: Tensor, height: int, width: int) -> io.NodeOutput:
    """What such a node gives: `c` (N, C, h, w) for a model, and the sides of the picture in pixels."""
    device = intermediate_device()
    empty = torch.zeros(len(c), config.first_stage.z_channels, *c.shape[2:], device=device)
    latent = {"samples": empty, DOWNSCALE_KEY: config.first_stage.downscale}
    return io.NodeOutput(conditioning_of(config.task, c.to(device)), latent, width, height)
