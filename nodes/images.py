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
from ..ldm_backend.memory.estimates import Size, image_bytes
from .host.outputs import Output, new_outputs, write_new
from .host.schema import make_schema
from .shared.latent_batch import INFO_KEY, image_seeds
from .shared.limits import check_pictures
from .shared.metadata import MOST_IN_PNG, workflow_texts
from .shared.wires import checked

TASK = "LDM Save Image"
CHUNK = "ldm"  # name of the text with the seed and the settings

_COPIES = 3  # of a picture, as float32: times 255, clipped, and as bytes


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
    @checked
    def execute(cls, images: Tensor, latent: dict[str, Any], filename_prefix: str) -> io.NodeOutput:
        """Write one PNG for each image.

        Raises:
            InputError: Another number of images than of latents, or a picture that does not fit into memory.
            SaveError: A prefix that names no file, a folder that cannot be written, or a full disk.
        """
        latents = latent["samples"].shape[0]
        number, height, width, _ = images.shape
        if number != latents:
            raise InputError(
                f"There are {number} images but {latents} latents. Connect the latents that these images were "
                "decoded from."
            )
        check_pictures(TASK, Size(1, height, width), lambda *of: _COPIES * image_bytes(*of))
        info = latent.get(INFO_KEY) or {}
        seeds = image_seeds(latent)
        outputs = new_outputs(filename_prefix, ".png", width, height)
        texts = workflow_texts(cls.hidden, TASK, MOST_IN_PNG, {CHUNK: info | ({"seed": seeds[0]} if seeds else {})})
        saved = []
        for index, image in enumerate(images):
            own = info | ({"seed": seeds[index]} if seeds else {})
            saved.append(_save(image, outputs, texts | ({CHUNK: json.dumps(own)} if CHUNK in texts and own else {})))
        return io.NodeOutput(ui=ui.SavedImages(saved))


def _save(image: Tensor, outputs: Iterator[Output], texts: dict[str, str]) -> ui.SavedResult:
    """Write (H, W, C) in 0..1, truncating as the host's Save Image and the model card do."""
    pixels = np.clip(255.0 * image.cpu().numpy(), 0, 255).astype(np.uint8)
    picture = Image.fromarray(pixels[..., 0] if pixels.shape[-1] == 1 else pixels)
    metadata = PngInfo()
    for name, text in texts.items():
        metadata.add_text(name, text)
    output = write_new(outputs, lambda file: picture.save(file, "PNG", pnginfo=metadata, compress_level=4))
    return ui.SavedResult(output.path.name, output.subfolder, io.FolderType.output)
