"""What other nodes put into a MODEL to change how its UNet computes, and this UNet does not look at: refused by name.

The host hands these to a network as they are, for its own blocks, and none of its nodes asks whether that looks at
them. What changes weights (LoRA, merges), wraps an evaluation, or corrects its result (functions of cfg) works.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ...ldm_backend.errors import InputError, first_names

PATCH_KINDS = ("patches", "patches_replace")  # of the host's transformer_options
# Nodes of the host whose patches these are, for the message.
_NODES = {
    "attn1": "Perturbed-Attention Guidance, Self-Attention Guidance",
    "attn1_patch": "HyperTile, ToMe, Hypernetwork Loader",
    "input_block_patch": "PatchModelAddDownscale (Kohya Deep Shrink)",
    "middle_patch": "GLIGEN",
    "output_block_patch": "FreeU, PatchModelAddDownscale (Kohya Deep Shrink)",
}


def check_patches(options: Mapping[str, Any]) -> None:
    """Refuse patches of a network's blocks.

    Args:
        options: The host's transformer_options.

    Raises:
        InputError: There are some, by name.
    """
    found = [name for kind in PATCH_KINDS for name, patches in options.get(kind, {}).items() if patches]
    if not found:
        return
    known = [_NODES[name] for name in found if name in _NODES]
    example = f" (as of {known[0]})" if known else ""
    raise InputError(
        f"The MODEL carries patches for blocks of a UNet{example}: {first_names(found)}. The UNet of this pack does "
        "not look at them, and would draw as if they were not there. Take the node that makes them out of the graph."
    )


def check_control(control: Mapping[str, Any] | None) -> None:
    """Refuse what a ControlNet says.

    Args:
        control: Hints by the blocks that they are for.

    Raises:
        InputError: It says something.
    """
    if control is not None:
        raise InputError(
            f"The conditioning comes with a ControlNet (hints for the blocks {first_names(set(control))}), which the "
            "UNet of this pack does not look at. Connect the conditioning without Apply ControlNet."
        )
