"""From latents to images."""

# The host calls `execute` with a node's own inputs by name, so each signature differs from the base class's.
# pyright: reportIncompatibleMethodOverride=false

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..ldm_backend.networks.tiled_decode import MIN_TILE
from .host.schema import make_schema
from .host.vae import LDMVAE
from .shared.inputs import vae_input
from .shared.wires import checked


class LDMVQDecode(io.ComfyNode):
    """VAE Decode that insists on the right VAE and the right latent."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What the host shows."""
        return make_schema(
            node_id="LDMVQDecode",
            display_name="LDM VQ Decode",
            description=(
                "Turns finished latents into images: snaps every latent cell to the nearest entry of the codebook, "
                "then decodes. The same picture as VAE Decode, with a clear message when VAE or latent do not fit."
            ),
            search_aliases=["VAE decode", "latent to image"],
            inputs=[
                vae_input(),
                io.Latent.Input("latent", tooltip="Finished latents, for example from LDM DDIM Sampler."),
            ],
            outputs=[io.Image.Output(display_name="IMAGE", tooltip="The images, for Save Image and all image nodes.")],
        )

    @classmethod
    @checked
    def execute(cls, vae: LDMVAE, latent: dict[str, Any]) -> io.NodeOutput:
        """Decode (N, C, h, w) latents to (N, H, W, 3) images in 0..1.

        Raises:
            InputError: VAE or latent of another family.
        """
        return io.NodeOutput(vae.decode(latent["samples"]))


class LDMVQDecodeTiled(io.ComfyNode):
    """The same picture as LDM VQ Decode, in bounded memory."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What the host shows."""
        return make_schema(
            node_id="LDMVQDecodeTiled",
            display_name="LDM VQ Decode (Tiled)",
            description=(
                "Turns large latents into images piece by piece, with a fraction of the memory and without seams: the "
                "picture of LDM VQ Decode, in about three times its time. For images that do not fit otherwise."
            ),
            search_aliases=["VAE decode tiled", "large image", "out of memory"],
            inputs=[
                vae_input(),
                io.Latent.Input("latent", tooltip="Finished latents, for example from LDM DDIM Sampler."),
                io.Int.Input(
                    "tile",
                    default=64,
                    min=MIN_TILE,
                    max=1024,
                    step=8,
                    tooltip=(
                        "Side of a piece in latent cells; one cell is 4 pixels for CelebA-HQ. Smaller pieces need less "
                        "memory and take a little longer. The picture is the same."
                    ),
                ),
            ],
            outputs=[io.Image.Output(display_name="IMAGE", tooltip="The images, for Save Image and all image nodes.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @checked
    def execute(cls, vae: LDMVAE, latent: dict[str, Any], tile: int) -> io.NodeOutput:
        """Decode (N, C, h, w) latents to (N, H, W, 3) images in 0..1.

        Raises:
            InputError: VAE or latent of another family, or a tile that is too small.
        """
        images = vae.decode_exactly_tiled(latent["samples"], tile, cls.hidden.unique_id)
        return io.NodeOutput(images)
