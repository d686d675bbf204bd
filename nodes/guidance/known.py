"""Guides of what is known of a picture: itself made smaller, some of its pixels, its grey levels, itself blurred."""

# The host calls `execute` with a node's own inputs by name, so each signature differs from the base class's.
# pyright: reportIncompatibleMethodOverride=false

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ...ldm_backend.errors import InputError
from ...ldm_backend.guidance.measurements import Blurred, GreyPicture, KnownPixels, LowResolution
from ...ldm_backend.guidance.operators import FILTERS
from ...ldm_backend.views.images import as_channels
from ..host.schema import make_schema
from ..shared.guides import (
    PROJECTION_ADVANCED,
    GuideChain,
    guide_outputs,
    guided_node_inputs,
    masked,
    pictured,
    projection,
    projection_inputs,
)
from ..shared.inputs import new_mask_input
from ..shared.wires import checked

_MOST_TIMES = 64
_MOST_TAPS = 511  # of a side of a kernel, more than any picture of the family's training size takes


class LDMGuideLowResolution(io.ComfyNode):
    """The picture made smaller."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What the host shows."""
        return make_schema(
            group="guidance",
            node_id="LDMGuideLowResolution",
            display_name="LDM Guide: Low Resolution",
            description=(
                "A guide for LDM Guided: the picture to be drawn is this one when it is made smaller. So a model that "
                "draws faces enlarges faces, without being trained for it."
            ),
            search_aliases=["upscale", "super-resolution", "DDNM", "ILVR", "restore"],
            inputs=guided_node_inputs(
                io.Image.Input(
                    "image",
                    tooltip=(
                        "The small picture, its sides those of the drawn picture divided by factor. One for all images "
                        "of the batch, or one for each. An alpha channel is dropped."
                    ),
                ),
                io.Int.Input(
                    "factor",
                    default=4,
                    min=1,
                    max=_MOST_TIMES,
                    tooltip="How many times wider and higher the drawn picture is. 1: as large, to remove noise.",
                ),
                io.Combo.Input(
                    "filter",
                    options=list(FILTERS),
                    default=FILTERS[0],
                    tooltip=(
                        "How the picture was made smaller. box: the mean of the pixels (area). bicubic: as Pillow does."
                    ),
                ),
                *projection_inputs(),
            ),
            advanced=PROJECTION_ADVANCED,
            outputs=guide_outputs("the small picture with large pixels"),
        )

    @classmethod
    @checked
    def execute(
        cls,
        image: Tensor,
        factor: int,
        filter: str,  # noqa: A002 - the name that users see
        noise: float,
        guides: GuideChain | None = None,
        **settings: Any,
    ) -> io.NodeOutput:
        """Add the guide.

        Raises:
            InputError: A setting out of range.
            TooLargeError: The preview does not fit into memory.
        """
        known = LowResolution(image[..., :3], factor, filter, noise=noise)
        chain = projection(known, guides, **settings)
        return io.NodeOutput(chain, pictured("LDM Guide: Low Resolution", image, factor))


class LDMGuideKnownPixels(io.ComfyNode):
    """The picture outside of a mask."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What the host shows."""
        return make_schema(
            group="guidance",
            node_id="LDMGuideKnownPixels",
            display_name="LDM Guide: Known Pixels",
            description=(
                "A guide for LDM Guided: the pixels outside of a mask are those of this picture, and the model fills "
                "the mask so that it fits to them."
            ),
            search_aliases=["inpaint", "fill", "mask", "DDNM", "restore"],
            inputs=guided_node_inputs(
                io.Image.Input(
                    "image",
                    tooltip=(
                        "The picture, as large as the drawn one. What is masked in it is not looked at. An alpha "
                        "channel is dropped."
                    ),
                ),
                new_mask_input(),
                *projection_inputs(),
            ),
            advanced=PROJECTION_ADVANCED,
            outputs=guide_outputs("the picture, grey where it is made anew"),
        )

    @classmethod
    @checked
    def execute(
        cls, image: Tensor, mask: Tensor, noise: float, guides: GuideChain | None = None, **settings: Any
    ) -> io.NodeOutput:
        """Add the guide.

        Raises:
            InputError: A mask of another size or number, or a setting out of range.
            TooLargeError: The preview does not fit into memory.
        """
        shown = masked("LDM Guide: Known Pixels", image, mask, inside=True)
        known = KnownPixels(image[..., :3], mask, noise=noise)
        return io.NodeOutput(projection(known, guides, **settings), shown)


class LDMGuideGreyPicture(io.ComfyNode):
    """The luma of the picture."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What the host shows."""
        return make_schema(
            group="guidance",
            node_id="LDMGuideGreyPicture",
            display_name="LDM Guide: Grey Picture",
            description=(
                "A guide for LDM Guided: the picture to be drawn has the grey levels of this one, and the model finds "
                "colours for it."
            ),
            search_aliases=["colourise", "colorize", "black and white", "restore"],
            inputs=guided_node_inputs(
                io.Image.Input(
                    "image",
                    tooltip="The grey picture, as large as the drawn one. Of a coloured one the luma counts (BT.601).",
                ),
                *projection_inputs(),
            ),
            advanced=PROJECTION_ADVANCED,
            outputs=guide_outputs("the grey levels"),
        )

    @classmethod
    @checked
    def execute(cls, image: Tensor, noise: float, guides: GuideChain | None = None, **settings: Any) -> io.NodeOutput:
        """Add the guide.

        Raises:
            InputError: A setting out of range.
            TooLargeError: The preview does not fit into memory.
        """
        chain = projection(GreyPicture(image[..., :3], noise=noise), guides, **settings)
        luma = as_channels(pictured("LDM Guide: Grey Picture", image), 1, dim=-1)
        return io.NodeOutput(chain, as_channels(luma, 3, dim=-1))


class LDMGuideBlurredPicture(io.ComfyNode):
    """The picture out of focus."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What the host shows."""
        return make_schema(
            group="guidance",
            node_id="LDMGuideBlurredPicture",
            display_name="LDM Guide: Blurred Picture",
            description=(
                "A guide for LDM Guided: the picture to be drawn is this one when it is blurred. So a model that draws "
                "faces sharpens faces."
            ),
            search_aliases=["deblur", "sharpen", "out of focus", "restore"],
            inputs=guided_node_inputs(
                io.Image.Input("image", tooltip="The blurred picture, as large as the drawn one."),
                io.Float.Input(
                    "sigma",
                    default=3.0,
                    min=0.1,
                    max=100.0,
                    step=0.1,
                    tooltip="Of the blur, a Gaussian, in pixels. Does not count where a kernel is connected.",
                ),
                *projection_inputs(),
                io.Int.Input(
                    "sharpening",
                    default=20,
                    min=1,
                    max=1000,
                    tooltip="Turns by which the blur is undone at each step. More bring back finer detail, and noise.",
                ),
                io.Image.Input(
                    "kernel",
                    optional=True,
                    tooltip=(
                        "The blur as a small picture, both sides odd: what a single white dot becomes. It is divided "
                        "by its sum. For blurs that are no Gaussians, such as motion."
                    ),
                ),
            ),
            advanced=(*PROJECTION_ADVANCED, "sharpening"),
            outputs=guide_outputs("the blurred picture"),
        )

    @classmethod
    @checked
    def execute(
        cls,
        image: Tensor,
        sigma: float,
        noise: float,
        sharpening: int,
        kernel: Tensor | None = None,
        guides: GuideChain | None = None,
        **settings: Any,
    ) -> io.NodeOutput:
        """Add the guide.

        Raises:
            InputError: Several kernels, or one that is too large, or a setting out of range.
            TooLargeError: The preview does not fit into memory.
        """
        blur = sigma if kernel is None else _taps(kernel)
        known = Blurred(image[..., :3], blur, sharpening, noise=noise)
        return io.NodeOutput(projection(known, guides, **settings), pictured("LDM Guide: Blurred Picture", image))


def _taps(kernel: Tensor) -> Tensor:
    """(h, w) of an IMAGE, whether it is a kernel the backend says."""
    count, height, width = kernel.shape[:3]
    if count != 1 or max(height, width) > _MOST_TAPS:
        raise InputError(
            f"kernel: {count} of {width}x{height} pixels; expected one of at most {_MOST_TAPS}x{_MOST_TAPS}, the blur "
            "of a single white dot. Crop it, or take one out of the batch."
        )
    return as_channels(kernel[..., :3], 1, dim=-1)[0, ..., 0]
