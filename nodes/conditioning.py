"""What native samplers need although an unconditional model has no use for it."""

# The host calls `execute` with a node's own inputs by name, so each signature differs from the base class's.
# pyright: reportIncompatibleMethodOverride=false

from __future__ import annotations

import torch
from comfy_api.latest import io

from .host.schema import make_schema
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
                "An empty conditioning for KSampler, CFGGuider and BasicGuider, which ask for one. The models of this "
                "pack take no prompt and ignore it. Connect it to positive and negative and set cfg to 1."
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
