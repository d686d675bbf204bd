"""Saving images with what they were made of."""

# The host calls `execute` with a node's own inputs by name, so each signature differs from the base class's.
# pyright: reportIncompatibleMethodOverride=false

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
from comfy_api.latest import io, ui
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from ..ldm_backend.errors import InputError
from .host.outputs import Output, new_outputs, workflow_texts, write_new
from .host.schema import make_schema
from .shared.latent_batch import INFO_KEY, image_seeds
from .shared.wires import image_of, samples_of


class LDMSaveImage(io.ComfyNode):
    """Save Image that also writes the seed of each image, the weights and the sampler's settings."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What the host shows."""
        return make_schema(
            node_id="LDMSaveImage",
            display_name="LDM Save Image",
            description=(
                "Saves images as PNG into the output folder. Besides the workflow, each file carries its own seed, the "
                "checkpoint, which weights were used (EMA or raw) and the sampler's settings."
            ),
            search_aliases=["save", "metadata", "png"],
            inputs=[
                io.Image.Input("images", tooltip="The images, from LDM VQ Decode or VAE Decode."),
                io.Latent.Input(
                    "latent",
                    tooltip="The latents that these images were decoded from: the output of LDM DDIM Sampler.",
                ),
                io.String.Input(
                    "filename_prefix",
                    default="ldm",
                    tooltip="Name of the files below the output folder; a number and .png are added.",
                ),
            ],
            outputs=[],
            hidden=[io.Hidden.prompt, io.Hidden.extra_pnginfo],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, images: Tensor, latent: dict[str, Any], filename_prefix: str) -> io.NodeOutput:
        """Write one PNG for each image.

        Raises:
            InputError: Another number of images than of latents, or no RGB.
            SaveError: A prefix that names no file, a folder that cannot be written, or a full disk.
        """
        latents = samples_of(latent).shape[0]
        number, height, width, channels = image_of(images, "images").shape
        if channels not in (3, 4):
            raise InputError(f"The images have {channels} channel(s); expected 3 (RGB), or 4 with alpha.")
        if number != latents:
            raise InputError(
                f"There are {number} images but {latents} latents. Connect the latents that these images were "
                "decoded from."
            )
        info = dict(latent.get(INFO_KEY) or {})
        seeds = image_seeds(latent)
        texts = workflow_texts(cls.hidden)
        outputs = new_outputs(filename_prefix, ".png", width, height)
        saved = []
        for index, image in enumerate(images):
            own = info | ({"seed": seeds[index]} if seeds else {})
            saved.append(_save(image, outputs, texts | ({"ldm": json.dumps(own)} if texts and own else {})))
        return io.NodeOutput(ui=ui.SavedImages(saved))


def _save(image: Tensor, outputs: Iterator[Output], texts: dict[str, str]) -> ui.SavedResult:
    """Write (H, W, 3) in 0..1, truncating as the host's Save Image and the model card do."""
    picture = Image.fromarray(np.clip(255.0 * image.cpu().numpy(), 0, 255).astype(np.uint8))
    metadata = PngInfo()
    for name, text in texts.items():
        metadata.add_text(name, text)
    output = write_new(outputs, lambda file: picture.save(file, "PNG", pnginfo=metadata, compress_level=4))
    return ui.SavedResult(output.path.name, output.subfolder, io.FolderType.output)
