"""From images to latents."""

# The host calls `execute` with a node's own inputs by name, so each signature differs from the base class's.
# pyright: reportIncompatibleMethodOverride=false

from __future__ import annotations

from comfy_api.latest import io
from torch import Tensor

from ..ldm_backend.errors import InputError
from .host.schema import make_schema
from .host.vae import LDMVAE
from .shared.inputs import SIZE_STEP, vae_input
from .shared.latent_batch import DOWNSCALE_KEY
from .shared.wires import checked


class LDMVQEncode(io.ComfyNode):
    """VAE Encode that insists on the right VAE and on a size that it need not crop."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What the host shows."""
        return make_schema(
            group="editing",
            node_id="LDMVQEncode",
            display_name="LDM VQ Encode",
            description=(
                "Turns images into clean latents, the start of image to image, inpainting and inversion. The same "
                "numbers as VAE Encode, with a clear message when the VAE or the size of the image does not fit."
            ),
            search_aliases=["VAE encode", "image to latent"],
            inputs=[
                vae_input(),
                io.Image.Input(
                    "image",
                    tooltip=(
                        "The images to encode. Best at the size the model was trained on: 256 pixels for CelebA-HQ, "
                        "128 for the demo. An alpha channel is dropped."
                    ),
                ),
            ],
            outputs=[
                io.Latent.Output(
                    display_name="LATENT",
                    tooltip="Clean latents, for LDM Image to Image, LDM Inpaint, LDM DDIM Inversion or LDM VQ Decode.",
                )
            ],
        )

    @classmethod
    @checked
    def execute(cls, vae: LDMVAE, image: Tensor) -> io.NodeOutput:
        """Encode (N, H, W, 3) images in 0..1 to (N, C, h, w) latents, not quantised.

        Raises:
            InputError: VAE of another family, or a side that is no multiple of its downscale.
        """
        downscale = vae.first_stage_model.config.downscale
        _, height, width, channels = image.shape
        if channels < 3:
            raise InputError(f"The image has {channels} channel(s); expected 3 (RGB), or 4 with alpha.")
        for name, side in (("width", width), ("height", height)):
            if side % downscale or not side:
                lower = max(SIZE_STEP, side // SIZE_STEP * SIZE_STEP)
                raise InputError(
                    f"The {name} of the image is {side} pixels; expected a multiple of {downscale}, and of "
                    f"{SIZE_STEP} if a sampler will take the latent. Crop or resize the image, for example to {lower} "
                    "with Upscale Image."
                )
        return io.NodeOutput({"samples": vae.encode(image[..., :3]), DOWNSCALE_KEY: downscale})
