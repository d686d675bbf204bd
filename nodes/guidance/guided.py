"""The GUIDER that brings guides into a run of SamplerCustomAdvanced."""

# The host calls `execute` with a node's own inputs by name, so each signature differs from the base class's.
# pyright: reportIncompatibleMethodOverride=false

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ...ldm_backend.config.conditioning import TASKS
from ..host.model import ModelPatcher
from ..host.sampling.guided import GuidedGuider
from ..host.schema import make_schema
from ..host.vae import LDMVAE
from ..shared.guides import GUIDES, GuideChain
from ..shared.inputs import model_input, vae_input
from ..shared.wires import checked


class LDMGuided(io.ComfyNode):
    """A GUIDER with guides."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What the host shows."""
        return make_schema(
            group="guidance",
            node_id="LDMGuided",
            display_name="LDM Guided",
            description=(
                "Draws with guides: what is known or wanted of a picture is brought in at each step of "
                "SamplerCustomAdvanced. A model of faces so restores faces, without being trained for it."
            ),
            search_aliases=["guidance", "restore", "GUIDER", "DDNM", "MPGD", "classifier guidance"],
            inputs=[
                model_input(*TASKS),
                vae_input(),
                GUIDES.Input("guides", tooltip="From the last of the nodes LDM Guide that are to work together."),
                io.Conditioning.Input(
                    "positive",
                    optional=True,
                    tooltip=(
                        "Only for models that need one, such as for super-resolution or classes: their conditioning. "
                        "Unconditional models need none."
                    ),
                ),
            ],
            outputs=[
                io.Guider.Output(display_name="GUIDER", tooltip="For the input guider of SamplerCustomAdvanced."),
            ],
        )

    @classmethod
    @checked
    def execute(
        cls, model: ModelPatcher, vae: LDMVAE, guides: GuideChain, positive: list[Any] | None = None
    ) -> io.NodeOutput:
        """Make the guider.

        Raises:
            InputError: The MODEL is of another family, the VAE of another model, or a conditioning is missing.
        """
        return io.NodeOutput(GuidedGuider(model, vae, guides.guides, positive))
