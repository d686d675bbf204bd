"""The conditioning of native samplers: what a model sees beside the noise, and nothing for those that see nothing."""

# The host calls `execute` with a node's own inputs by name, so each signature differs from the base class's.
# pyright: reportIncompatibleMethodOverride=false

from __future__ import annotations

import numpy as np
import torch
from comfy_api.latest import io
from torch import Tensor

from ..ldm_backend.conditioning.coco_stuff import COCO_STUFF
from ..ldm_backend.conditioning.low_resolution import low_resolution
from ..ldm_backend.conditioning.masked_image import filled_pixels
from ..ldm_backend.conditioning.segmentation import default_palette, label_of
from ..ldm_backend.config.conditioning import INPAINTING, SEMANTIC_SYNTHESIS, SUPER_RESOLUTION
from ..ldm_backend.errors import InputError, check_choice
from .host.loading import check_belongs
from .host.model import ModelPatcher, ldm_model_of
from .host.schema import make_schema
from .host.vae import LDMVAE
from .shared.conditioned_latents import conditioned, conditioned_outputs, side_outputs
from .shared.inputs import mask_reduction_input, model_input, new_mask_input, vae_input
from .shared.label_maps import COLOURS, KINDS, label_channels, naming, painted_levels
from .shared.limits import check_composite, check_conditioning, size_of
from .shared.masked_pictures import hole_of, masked_channels
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
            outputs=[*conditioned_outputs(), *side_outputs("four times the sides of the small picture")],
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
        check_conditioning("LDM Super-Resolution Conditioning", config, size_of(image), image.device)
        c = low_resolution(image[..., :3], config)
        return io.NodeOutput(*conditioned(config, c), image.shape[2] * scale, image.shape[1] * scale)


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
            outputs=[*conditioned_outputs(), *side_outputs("the sides of the image")],
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
        filled = hole_of("LDM Inpaint Conditioning", vae, config, image, mask)
        c = masked_channels(vae, config, image, filled, mask_reduction)
        return io.NodeOutput(*conditioned(config, c), image.shape[2], image.shape[1])


class LDMSemanticLabels(io.ComfyNode):
    """A map of labels as what the model sees beside the noise."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What the host shows."""
        return make_schema(
            group="trained tasks",
            node_id="LDMSemanticLabels",
            display_name="LDM Semantic Labels",
            description=(
                "A painted map as the conditioning of a model for semantic synthesis, and an empty latent of its size, "
                "for KSampler or SamplerCustomAdvanced with BasicGuider. Label order unverified. Set cfg to 1."
            ),
            search_aliases=["segmentation", "semantic_synthesis", "COCO-Stuff", "landscape", "label map"],
            inputs=[
                model_input(SEMANTIC_SYNTHESIS),
                io.Image.Input(
                    "image",
                    tooltip=(
                        "The map, as large as the picture is to be; sides that are multiples of 16. From LDM Semantic "
                        "Region, or painted with hard edges and saved as PNG."
                    ),
                ),
                io.Combo.Input(
                    "labels",
                    options=list(KINDS),
                    default=COLOURS,
                    tooltip=(
                        "What a pixel of the map says. colours: a colour of the palette of LDM Semantic Region. "
                        "numbers: a grey level of 0 to 255 is the number of the label."
                    ),
                ),
            ],
            outputs=conditioned_outputs(),
        )

    @classmethod
    @checked
    def execute(cls, model: ModelPatcher, image: Tensor, labels: str) -> io.NodeOutput:
        """Conditioning and latents of (N, H, W, C) maps.

        Raises:
            LDMError: A colour or number that is no label, sides that the networks cannot halve, or more than fits into
                memory.
        """
        check_choice("labels", labels, KINDS, InputError)
        inner = ldm_model_of(model)
        c = label_channels(inner, painted_levels("LDM Semantic Labels", image), labels)
        return io.NodeOutput(*conditioned(inner.ldm_config, c))


class LDMSemanticRegion(io.ComfyNode):
    """A mask and a name, painted into a map; one after the other they make a whole one."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What the host shows."""
        return make_schema(
            group="trained tasks",
            node_id="LDMSemanticRegion",
            display_name="LDM Semantic Region",
            description=(
                "Paints what a mask shows into a map of labels, by one of the 182 names of COCO-Stuff. Chain several, "
                "each over what came before; the last one goes to LDM Semantic Labels. Label order unverified."
            ),
            search_aliases=["segmentation", "COCO-Stuff", "paint", "label map"],
            inputs=[
                io.Mask.Input(
                    "mask",
                    tooltip="White (0.5 and more) where the map shall say the name. At the size of the picture to be.",
                ),
                io.Combo.Input(
                    "name",
                    options=list(COCO_STUFF),
                    default="sky-other",
                    tooltip=(
                        "What is there: one of the names of COCO-Stuff. Which number of the released models stands for "
                        "what was never published; that they follow this order is likely."
                    ),
                ),
                io.Image.Input(
                    "map",
                    optional=True,
                    tooltip="The map so far, from another LDM Semantic Region. Without it the whole map gets the name.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="IMAGE",
                    tooltip="The map in the colours of the palette, for another region or the labels.",
                )
            ],
        )

    @classmethod
    @checked
    def execute(cls, mask: Tensor, name: str, map: Tensor | None = None) -> io.NodeOutput:  # noqa: A002 - users see it
        """Paint (N, H, W, 3) maps.

        Raises:
            InputError: No such name, a map of another size than the mask, or more than fits into memory.
        """
        label = naming("name", lambda: label_of(name))
        colour = torch.from_numpy(np.asarray(default_palette()[label], np.uint8)).float() / 255.0
        masks = mask if mask.ndim == 3 else mask[None]
        if map is None:
            check_composite("LDM Semantic Region", size_of(masks), masks.device)
            return io.NodeOutput(colour.to(masks.device).expand(*masks.shape, 3).clone())
        size = size_of(map)
        check_composite("LDM Semantic Region", size, map.device)
        if map.shape[3] == 1:
            raise InputError(
                f"map has {map.shape[3]} channel; expected the 3 of LDM Semantic Region: connect its IMAGE."
            )
        where = naming("map", lambda: filled_pixels(masks.to(map.device), (size.images, size.height, size.width)))
        return io.NodeOutput(torch.where(where[..., None], colour.to(map), map[..., :3]))
