"""New content inside a mask."""

# The host calls `execute` with a node's own inputs by name, so each signature differs from the base class's.
# pyright: reportIncompatibleMethodOverride=false

from __future__ import annotations

from typing import Any

from comfy_api.latest import io
from torch import Tensor

from ..ldm_backend.editing.inpainting import composite, inpaint, latent_mask, repaint_moves
from ..ldm_backend.memory.estimates import Size
from ..ldm_backend.sampling.noise import StepNoise, draw_noise
from ..ldm_backend.sampling.samplers import grid_of
from .host.model import ModelPatcher, intermediate_device, ldm_model_of, loaded
from .host.progress import StepsAndTiles
from .host.schema import make_schema
from .shared.inputs import grid_input, model_input, seed_input, steps_input
from .shared.latent_batch import INFO_KEY
from .shared.limits import check_composite, check_sampling
from .shared.seeding import seeded
from .shared.wires import checked


class LDMInpaint(io.ComfyNode):
    """RePaint on latents."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What the host shows."""
        return make_schema(
            group="editing",
            node_id="LDMInpaint",
            display_name="LDM Inpaint",
            description=(
                "Paints something new inside a mask so that it fits the rest of the image (RePaint). Each stretch of "
                "the run is repeated, since the new content needs several passes to agree with what is kept."
            ),
            search_aliases=["RePaint", "fill", "mask", "remove"],
            inputs=[
                model_input(),
                io.Latent.Input("latent", tooltip="Clean latents of the image, from LDM VQ Encode."),
                io.Mask.Input(
                    "mask",
                    tooltip=(
                        "White (1) where something new shall appear, black (0) where the image stays. At the size of "
                        "the image in pixels; one for all images, or one for each."
                    ),
                ),
                seed_input("Seed of the first image. The next images take seed + 1, seed + 2 and so on."),
                steps_input(50, "Steps from noise to image. The network is evaluated steps x resamples times in all."),
                grid_input(),
                io.Int.Input(
                    "jump_length",
                    default=10,
                    min=1,
                    max=1000,
                    tooltip="Steps in a stretch: so far does the run jump back before it goes through them once more.",
                ),
                io.Int.Input(
                    "resamples",
                    default=3,
                    min=1,
                    max=100,
                    tooltip=(
                        "How often each stretch is gone through. 1: no jumps, fast, and new and old often do not "
                        "match. 3 to 10: they fit together better, and it takes that many times as long."
                    ),
                ),
            ],
            advanced=("grid", "jump_length"),
            outputs=[
                io.Latent.Output(
                    display_name="LATENT",
                    tooltip="The filled latents, for LDM VQ Decode; then LDM Inpaint Composite restores the rest.",
                )
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @checked
    def execute(
        cls,
        model: ModelPatcher,
        latent: dict[str, Any],
        mask: Tensor,
        seed: int,
        steps: int,
        grid: str,
        jump_length: int,
        resamples: int,
    ) -> io.NodeOutput:
        """Fill the masked cells; an empty mask leaves the latent as it is.

        Raises:
            LDMError: A model, latent or mask that does not fit, steps that the grid does not have, or a batch or size
                that does not fit into memory.
        """
        inner = ldm_model_of(model)
        samples = latent["samples"]
        check_sampling("LDM Inpaint", model, samples.shape)
        cells = latent_mask(mask, samples.shape, inner.ldm_config.first_stage.downscale)
        grid = grid_of(inner.schedule, grid)
        moves = repaint_moves(inner.schedule.timesteps(steps, grid), jump_length, resamples)
        seeds, carrier = seeded(latent, seed)
        if not cells.any():
            return io.NodeOutput(latent)
        _, channels, height, width = samples.shape
        shape, device = (channels, height, width), model.load_device
        with loaded(model, samples.shape):
            x_0 = inpaint(
                inner.predict,
                draw_noise(seeds, shape).to(device),
                samples.float().to(device),
                cells.to(device),
                inner.schedule,
                moves,
                StepNoise(seeds, shape),
                StepsAndTiles(model, steps * resamples, cls.hidden.unique_id).step,
            )
        settings = {"sampler": "repaint", "steps": steps, "grid": grid, "jump_length": jump_length}
        info = inner.ldm_source | settings | {"resamples": resamples}
        return io.NodeOutput(carrier | {"samples": x_0.to(intermediate_device()), INFO_KEY: info})


class LDMInpaintComposite(io.ComfyNode):
    """Puts the pixels that no one wanted to change back."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What the host shows."""
        return make_schema(
            group="editing",
            node_id="LDMInpaintComposite",
            display_name="LDM Inpaint Composite",
            description=(
                "Puts the inpainted part into the original picture. Encoding and decoding changes each pixel a little; "
                "here those outside of the mask are the original's, bit for bit."
            ),
            search_aliases=["paste", "blend", "ImageCompositeMasked"],
            inputs=[
                io.Image.Input("image", tooltip="The original picture, as it went into LDM VQ Encode."),
                io.Image.Input("inpainted", tooltip="The decoded result of LDM Inpaint; several variants are allowed."),
                io.Mask.Input("mask", tooltip="The mask that LDM Inpaint had: white (1) is new, black (0) stays."),
                io.Int.Input(
                    "feather",
                    default=0,
                    min=0,
                    max=512,
                    tooltip=(
                        "Pixels over which the original fades into the new part. They lie inside of the mask, so the "
                        "pixels outside stay as they are. 0: a hard edge."
                    ),
                ),
            ],
            outputs=[
                io.Image.Output(
                    display_name="IMAGE", tooltip="The original picture with the new part in it, for Save Image."
                )
            ],
        )

    @classmethod
    @checked
    def execute(cls, image: Tensor, inpainted: Tensor, mask: Tensor, feather: int) -> io.NodeOutput:
        """Composite (N, H, W, 3) images in 0..1.

        Raises:
            InputError: Sizes or batches differ, or the pictures do not fit into memory.
        """
        original, new = image[..., :3], inpainted[..., :3]
        pictures = max(len(original), len(new), len(mask) if mask.ndim == 3 else 1)
        device = intermediate_device()  # three wires, of which any may end on the CPU or on the card
        check_composite("LDM Inpaint Composite", Size(pictures, original.shape[1], original.shape[2]), device)
        return io.NodeOutput(composite(original.to(device), new, mask, feather))
