"""Guides of what is wanted of a picture, by gradients: colours, another picture, the style of one."""

# The host calls `execute` with a node's own inputs by name, so each signature differs from the base class's.
# pyright: reportIncompatibleMethodOverride=false

from __future__ import annotations

import re
from typing import Any

import torch
from comfy_api.latest import io
from torch import Tensor

from ...ldm_backend.errors import InputError, check_choice, short_repr
from ...ldm_backend.guidance.losses import MeanColour, Palette, Reference, Style
from ..host.schema import make_schema
from ..shared.guides import (
    GRADIENT_ADVANCED,
    GuideChain,
    descent,
    gradient_inputs,
    guide_outputs,
    guided_node_inputs,
    masked,
    pictured,
)
from ..shared.wires import checked

MEAN, PALETTE = "mean", "palette"
AIMS = (MEAN, PALETTE)

_HEX = re.compile(r"#?([0-9a-fA-F]{6})")
_MOST_COLOURS = 32
_SWATCH = 64  # pixels


class LDMGuideColour(io.ComfyNode):
    """The mean colour of the picture, or the colours of its pixels."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What the host shows."""
        return make_schema(
            group="guidance",
            node_id="LDMGuideColour",
            display_name="LDM Guide: Colour",
            description=(
                "A guide for LDM Guided: pulls the mean colour of the picture to a colour, or each of its pixels to "
                "the nearest of several."
            ),
            search_aliases=["color", "palette", "tint", "MPGD"],
            inputs=guided_node_inputs(
                io.String.Input(
                    "colours",
                    default="#c08060",
                    tooltip="One colour, or several with spaces or commas between them: red, green, blue as #rrggbb.",
                ),
                io.Combo.Input(
                    "aim",
                    options=list(AIMS),
                    default=MEAN,
                    tooltip=(
                        "mean: the mean of all pixels becomes the colour. palette: each pixel is pulled to the nearest "
                        "of the colours."
                    ),
                ),
                *gradient_inputs(),
            ),
            advanced=GRADIENT_ADVANCED,
            outputs=guide_outputs("the colours side by side"),
        )

    @classmethod
    @checked
    def execute(cls, colours: str, aim: str, guides: GuideChain | None = None, **settings: Any) -> io.NodeOutput:
        """Add the guide.

        Raises:
            InputError: No colours, several for a mean, or a setting out of range.
        """
        check_choice("aim", aim, AIMS, InputError)
        found = _colours(colours)
        if aim == MEAN and len(found) > 1:
            raise InputError(f"colours holds {len(found)} colours; expected one for a mean. Set aim to palette.")
        chain = descent(MeanColour(found[0]) if aim == MEAN else Palette(found), guides, **settings)
        row = torch.tensor(found).repeat_interleave(_SWATCH, 0)
        return io.NodeOutput(chain, row.expand(1, _SWATCH, *row.shape).contiguous())


class LDMGuideReference(io.ComfyNode):
    """Another picture, inside of a mask."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What the host shows."""
        return make_schema(
            group="guidance",
            node_id="LDMGuideReference",
            display_name="LDM Guide: Reference",
            description=(
                "A guide for LDM Guided: pulls the picture, or the masked part of it, to another picture. For pixels "
                "that are to stay exactly there is LDM Guide: Known Pixels."
            ),
            search_aliases=["similar", "image prompt", "MPGD", "mask"],
            inputs=guided_node_inputs(
                io.Image.Input("image", tooltip="The other picture, as large as the drawn one."),
                *gradient_inputs(),
                io.Mask.Input(
                    "mask",
                    optional=True,
                    tooltip=(
                        "White (0.5 and more) where the picture shall be like the other; without it everywhere. At the "
                        "size of the image; one for all images, or one for each."
                    ),
                ),
            ),
            advanced=GRADIENT_ADVANCED,
            outputs=guide_outputs("the other picture, grey where it does not count"),
        )

    @classmethod
    @checked
    def execute(
        cls, image: Tensor, mask: Tensor | None = None, guides: GuideChain | None = None, **settings: Any
    ) -> io.NodeOutput:
        """Add the guide.

        Raises:
            InputError: A mask of another size or number, or a setting out of range.
            TooLargeError: The preview does not fit into memory.
        """
        task = "LDM Guide: Reference"
        shown = pictured(task, image) if mask is None else masked(task, image, mask, inside=False)
        return io.NodeOutput(descent(Reference(image[..., :3], mask), guides, **settings), shown)


class LDMGuideStyle(io.ComfyNode):
    """The style of another picture."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What the host shows."""
        return make_schema(
            group="guidance",
            node_id="LDMGuideStyle",
            display_name="LDM Guide: Style",
            description=(
                "A guide for LDM Guided: pulls the picture to the colours and textures of another one, wherever they "
                "are in it (Gram matrices of the VAE's encoder)."
            ),
            search_aliases=["style transfer", "Gram matrix", "texture", "MPGD"],
            inputs=guided_node_inputs(
                io.Image.Input("image", tooltip="The picture whose style is wanted, as large as the drawn one."),
                *gradient_inputs(),
            ),
            advanced=GRADIENT_ADVANCED,
            outputs=guide_outputs("the picture of the style"),
        )

    @classmethod
    @checked
    def execute(cls, image: Tensor, guides: GuideChain | None = None, **settings: Any) -> io.NodeOutput:
        """Add the guide.

        Raises:
            InputError: A setting out of range.
            TooLargeError: The preview does not fit into memory.
        """
        chain = descent(Style(image[..., :3]), guides, **settings)
        return io.NodeOutput(chain, pictured("LDM Guide: Style", image))


def _colours(text: str) -> list[tuple[float, float, float]]:
    """Of a text such as "#c08060, #204080", each number from 0 to 1."""
    words = text.replace(",", " ").split()
    if not 1 <= len(words) <= _MOST_COLOURS:
        raise InputError(
            f"colours holds {len(words)} colours; expected 1 to {_MOST_COLOURS}, such as #c08060, with spaces or "
            "commas between them."
        )
    found = []
    for word in words:
        match = _HEX.fullmatch(word)
        if match is None:
            raise InputError(
                f"colours: {short_repr(word)} is no colour; expected six hexadecimal digits, two each for red, green "
                "and blue, such as #c08060."
            )
        red, green, blue = (level / 255.0 for level in bytes.fromhex(match[1]))
        found.append((red, green, blue))
    return found
