"""The ComfyUI nodes. Only this package may import the host; `host/` holds everything that touches its internals.

Node files, here, in `guidance/` and in `prompting/`, import `host/` and `shared/`, never each other.
"""

from __future__ import annotations

import logging
from importlib import import_module

from comfy_api.latest import ComfyExtension, io

from .host.folders import register_folders
from .host.replacements import Renamed, register_renamed

NODES: dict[str, tuple[str, ...]] = {
    "loaders": ("LDMCheckpointLoader",),
    "latents": ("LDMLatentNoise", "LDMEmptyLatent"),
    "whole_samplers": ("LDMDDIMSampler", "LDMSampler"),
    "decoders": ("LDMVQDecode", "LDMVQDecodeTiled"),
    "conditioning": (
        "LDMEmptyConditioning",
        "LDMSuperResolutionConditioning",
        "LDMInpaintConditioning",
        "LDMSemanticLabels",
        "LDMSemanticRegion",
    ),
    "custom_sampler_parts": ("LDMSamplerSelect", "LDMSigmas", "LDMGuider", "LDMNoise"),
    "images": ("LDMSaveImage",),
    "checkpoints": ("LDMCheckpointSave", "LDMModelInfo"),
    "encoders": ("LDMVQEncode",),
    "image_to_image": ("LDMImageToImage",),
    "inpainting": ("LDMInpaint", "LDMInpaintComposite"),
    "inversion": ("LDMDDIMInversion",),
    "interpolation": ("LDMSeedWalk", "LDMLatentWalk", "LDMSeedVariations"),
    "trained_tasks": ("LDMSuperResolution", "LDMInpaintModel"),
    "views": ("LDMContactSheet", "LDMCodeView"),
    "guidance.known": (
        "LDMGuideLowResolution",
        "LDMGuideKnownPixels",
        "LDMGuideGreyPicture",
        "LDMGuideBlurredPicture",
    ),
    "guidance.wanted": ("LDMGuideColour", "LDMGuideReference", "LDMGuideStyle"),
    "guidance.guided": ("LDMGuided",),
    "prompting.classes": ("LDMClass",),
    "prompting.vectors": ("LDMCLIPVectors",),
}
"""Module -> its nodes. Each module is imported by itself: one that fails takes no other along."""

RENAMED: tuple[Renamed, ...] = ()
"""Nodes of earlier versions that are called otherwise now; none so far."""


class LDMExtension(ComfyExtension):
    """The pack as ComfyUI sees it."""

    async def on_load(self) -> None:
        """Make workflows with old names of nodes run. Hosts up to 0.3.75 do not call this."""
        await register_renamed(RENAMED)

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """All nodes; the model folders are registered first, since the loader lists them."""
        register_folders()
        return [node for module, names in NODES.items() for node in _nodes_of(module, names)]


def _nodes_of(module: str, names: tuple[str, ...]) -> list[type[io.ComfyNode]]:
    """The nodes of a module; none, and a line in the log, if it cannot be imported: the others still work."""
    try:
        imported = import_module(f".{module}", __name__)
        return [getattr(imported, name) for name in names]
    except Exception:
        logging.getLogger("comfyui_ldm").exception(
            "nodes/%s.py could not be loaded, so these nodes are missing: %s. The others work. The reason is below; if "
            "a file of this pack is missing or damaged, install the pack again.",
            module.replace(".", "/"),
            ", ".join(names),
        )
        return []
