"""The ComfyUI nodes. Only this package may import the host; `host/` holds everything that touches its internals."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .checkpoints import LDMCheckpointSave, LDMModelInfo
from .conditioning import LDMEmptyConditioning
from .custom_sampling import LDMGuider, LDMNoise, LDMSamplerSelect, LDMSigmas
from .decoders import LDMVQDecode, LDMVQDecodeTiled
from .encoders import LDMVQEncode
from .host.folders import register_folders
from .image_to_image import LDMImageToImage
from .images import LDMSaveImage
from .inpainting import LDMInpaint, LDMInpaintComposite
from .interpolation import LDMLatentWalk, LDMSeedVariations, LDMSeedWalk
from .inversion import LDMDDIMInversion
from .latents import LDMLatentNoise
from .loaders import LDMCheckpointLoader
from .samplers import LDMDDIMSampler, LDMSampler
from .views import LDMCodeView, LDMContactSheet

NODES: tuple[type[io.ComfyNode], ...] = (
    LDMCheckpointLoader,
    LDMLatentNoise,
    LDMDDIMSampler,
    LDMSampler,
    LDMVQDecode,
    LDMVQDecodeTiled,
    LDMEmptyConditioning,
    LDMSamplerSelect,
    LDMSigmas,
    LDMGuider,
    LDMNoise,
    LDMSaveImage,
    LDMCheckpointSave,
    LDMModelInfo,
    LDMVQEncode,
    LDMImageToImage,
    LDMInpaint,
    LDMInpaintComposite,
    LDMDDIMInversion,
    LDMSeedWalk,
    LDMLatentWalk,
    LDMSeedVariations,
    LDMContactSheet,
    LDMCodeView,
)


class LDMExtension(ComfyExtension):
    """The pack as ComfyUI sees it."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """All nodes; the model folders are registered first, since the loader lists them."""
        register_folders()
        return list(NODES)
