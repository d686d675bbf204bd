"""From latents to images."""

# The host calls `execute` with a node's own inputs by name, so each signature differs from the base class's.
# pyright: reportIncompatibleMethodOverride=false

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from .host.schema import make_schema
from .host.vae import ldm_vae_of
from .inputs import vae_input


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
    def execute(cls, vae: Any, latent: dict[str, Any]) -> io.NodeOutput:
        """Decode (N, C, h, w) latents to (N, H, W, 3) images in 0..1.

        Raises:
            InputError: VAE or latent of another family.
        """
        return io.NodeOutput(ldm_vae_of(vae).decode(latent["samples"]))
