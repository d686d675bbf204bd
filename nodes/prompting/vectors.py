"""Vectors of CLIP as the conditioning of models that were trained on them."""

# The host calls `execute` with a node's own inputs by name, so each signature differs from the base class's.
# pyright: reportIncompatibleMethodOverride=false

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io

from ...ldm_backend.config.conditioning import VECTOR_CONDITIONAL
from ..host.conditioners.vectors import joined
from ..host.conditioning import attended_conditioning
from ..host.model import ModelPatcher
from ..host.schema import make_schema
from ..shared.inputs import model_input
from ..shared.wires import checked


class LDMCLIPVectors(io.ComfyNode):
    """Pictures, by what CLIP sees in them, as CONDITIONING."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What the host shows."""
        return make_schema(
            group="trained tasks",
            node_id="LDMCLIPVectors",
            display_name="LDM CLIP Vectors",
            description=(
                "What a model of vectors of CLIP (rdm768x768) is to draw: something like the pictures that CLIP Vision "
                "Encode has seen. For positive and negative of LDM Sampler, KSampler and other samplers."
            ),
            search_aliases=["RDM", "retrieval", "image variations", "CLIP Vision", "unCLIPConditioning"],
            inputs=[
                model_input(VECTOR_CONDITIONAL),
                io.ClipVisionOutput.Input(
                    "clip_vision_output",
                    tooltip=(
                        "From CLIP Vision Encode with CLIP ViT-L/14 of 224 pixels; other models of CLIP see otherwise. "
                        "The pictures of a batch are all taken together."
                    ),
                ),
                io.Conditioning.Input(
                    "vectors",
                    optional=True,
                    tooltip="Another LDM CLIP Vectors, whose pictures go before these: at most 21 in all.",
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    display_name="CONDITIONING",
                    tooltip="For positive of a sampler or guider with the same MODEL, or another LDM CLIP Vectors.",
                ),
                io.Conditioning.Output(
                    display_name="NONE", tooltip="No picture in particular: for negative of the same sampler or guider."
                ),
            ],
        )

    @classmethod
    @checked
    def execute(cls, model: ModelPatcher, clip_vision_output: Any, vectors: list[Any] | None = None) -> io.NodeOutput:
        """(1, n, D) of n pictures, and as many zeros.

        Raises:
            InputError: Vectors of another CLIP, or too many.
        """
        context = joined(model, clip_vision_output, vectors)
        made = (context, torch.zeros_like(context))
        return io.NodeOutput(*(attended_conditioning(VECTOR_CONDITIONAL, one) for one in made))
