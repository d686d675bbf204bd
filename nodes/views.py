"""Looking at many images at once, and at what the quantiser does."""

# The host calls `execute` with a node's own inputs by name, so each signature differs from the base class's.
# pyright: reportIncompatibleMethodOverride=false

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..ldm_backend.errors import InputError
from ..ldm_backend.memory.estimates import image_bytes
from ..ldm_backend.views.code_view import CodeView, view_codes
from ..ldm_backend.views.contact_sheet import LINES, contact_sheet, plan
from .host.model import intermediate_device
from .host.schema import make_schema
from .host.vae import LDMVAE, loaded_first_stage
from .shared.inputs import vae_input
from .shared.latent_batch import own_labels
from .shared.limits import check_pictures, check_view, size_of
from .shared.wires import checked

GROUP = "view"


class LDMContactSheet(io.ComfyNode):
    """All images of a batch on one sheet."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What the host shows."""
        return make_schema(
            GROUP,
            node_id="LDMContactSheet",
            display_name="LDM Contact Sheet",
            description=(
                "Puts all images of a batch on one sheet, each with its seed below, so that a good one is found and "
                "made again. Walks and variations show where on their way each image is."
            ),
            search_aliases=["grid", "image grid", "overview", "montage"],
            inputs=[
                io.Image.Input("images", tooltip="The images, from LDM VQ Decode or any image node."),
                io.Int.Input(
                    "columns",
                    default=0,
                    min=0,
                    max=256,
                    tooltip="Images in a row. 0 chooses, so that the sheet is about square.",
                ),
                io.Latent.Input(
                    "latent",
                    optional=True,
                    tooltip=(
                        "The latents that these images were decoded from; they know the seeds. Without them the images "
                        "are numbered from 0."
                    ),
                ),
            ],
            outputs=[io.Image.Output(display_name="IMAGE", tooltip="One image with all of them, for Save Image.")],
        )

    @classmethod
    @checked
    def execute(cls, images: Tensor, columns: int, latent: dict[str, Any] | None = None) -> io.NodeOutput:
        """Arrange (N, H, W, 3) images as one (1, H, W, 3).

        Raises:
            InputError: Another number of images than of latents, or a sheet that does not fit into memory.
        """
        labels = None
        if latent is not None:
            if images.shape[0] != latent["samples"].shape[0]:
                raise InputError(
                    f"There are {images.shape[0]} images but {latent['samples'].shape[0]} latents. Connect the latents "
                    "that these images were decoded from."
                )
            labels = own_labels(latent)

        def cost(n: int, height: int, width: int) -> int:
            layout = plan(n, height, width, columns, LINES)
            return image_bytes(1, layout.sheet_height, layout.sheet_width)

        check_pictures("LDM Contact Sheet", size_of(images), cost)
        captions = labels or [str(index) for index in range(images.shape[0])]
        return io.NodeOutput(contact_sheet(images, captions, columns).to(intermediate_device()))


class LDMCodeView(io.ComfyNode):
    """The codebook at work."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What the host shows."""
        return make_schema(
            GROUP,
            node_id="LDMCodeView",
            display_name="LDM Code View",
            description=(
                "Shows what decoding does first: it snaps each latent cell to the nearest entry of the codebook. One "
                "image has the colours of these codes, another one shows how far away they were."
            ),
            search_aliases=["codebook", "quantise", "quantize", "VQ", "nearest code"],
            inputs=[
                vae_input(),
                io.Latent.Input("latent", tooltip="Latents to look at: finished ones, encoded images, or noise."),
            ],
            outputs=[
                io.Image.Output(
                    display_name="codes",
                    tooltip="Each latent cell in the colour of its code: the picture as the decoder gets it.",
                ),
                io.Image.Output(
                    display_name="distance",
                    tooltip="Dark: the cell lay on its code. Bright: far from all codes, as noise does.",
                ),
                io.Latent.Output(
                    display_name="quantised",
                    tooltip="The latents after snapping. They decode to the same images.",
                ),
                io.String.Output(
                    display_name="report",
                    tooltip="A line for each image: how many different codes it uses, and the mean distance.",
                ),
            ],
        )

    @classmethod
    @checked
    def execute(cls, vae: LDMVAE, latent: dict[str, Any]) -> io.NodeOutput:
        """Snap (N, C, h, w) latents.

        Raises:
            InputError: VAE or latent of another family, a first stage without codebook, NaN in the latent, or pictures
                that do not fit into memory.
        """
        samples = latent["samples"]
        check_view("LDM Code View", vae, samples)
        view = view_codes(loaded_first_stage(vae, samples.shape), samples.to(vae.device))
        device = intermediate_device()
        names = own_labels(latent) or [str(index) for index in range(samples.shape[0])]
        return io.NodeOutput(
            view.codes.to(device),
            view.distance.to(device),
            latent | {"samples": view.quantised.to(device)},
            report(view, names),
        )


def report(view: CodeView, names: list[str]) -> str:
    """A line for each image."""
    return "\n".join(
        f"{name}: {indices.unique().numel()} of {view.codebook_size} codes in {indices.numel()} cells, mean distance "
        f"{relative.mean().item():.2f}, largest {relative.max().item():.2f}"
        for name, indices, relative in zip(names, view.indices, view.relative, strict=True)
    )
