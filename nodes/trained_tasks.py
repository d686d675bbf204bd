"""From pictures to pictures, each in one node: what models of the family were trained for beside drawing from noise."""

# The host calls `execute` with a node's own inputs by name, so each signature differs from the base class's.
# pyright: reportIncompatibleMethodOverride=false

from __future__ import annotations

import torch
from comfy_api.latest import io
from torch import Tensor

from ..ldm_backend.conditioning.low_resolution import low_resolution
from ..ldm_backend.conditioning.pictures import grown
from ..ldm_backend.config.conditioning import INPAINTING, SUPER_RESOLUTION
from ..ldm_backend.sampling.noise import seeds_of
from ..ldm_backend.sampling.samplers import eta_of
from ..ldm_backend.tasks.colours import with_colours_of
from ..ldm_backend.tasks.sampling import SAMPLER, STEPS, UPSCALE_SAMPLER, UPSCALE_STEPS
from ..ldm_backend.views.images import as_channels
from .host.loading import check_belongs
from .host.model import ModelPatcher, ldm_model_of
from .host.schema import make_schema
from .host.vae import LDMVAE
from .shared.conditioned_runs import Sampling, check_run, run_conditioned
from .shared.inputs import (
    eta_input,
    grid_input,
    mask_reduction_input,
    model_input,
    new_mask_input,
    sampler_input,
    seed_input,
    steps_input,
    tile_input,
    vae_input,
)
from .shared.masked_pictures import cells_of, hole_of, masked_channels
from .shared.wires import checked


class LDMSuperResolution(io.ComfyNode):
    """The whole way of `ldm_backend.upscale`, through a patched MODEL."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What the host shows."""
        return make_schema(
            group="trained tasks",
            node_id="LDMSuperResolution",
            display_name="LDM Super-Resolution",
            description=(
                "Enlarges pictures four times with a model that was trained for it (LDSR). It was trained on clean, "
                "small pictures: what is broken in heavily compressed or noisy ones it takes for content."
            ),
            search_aliases=["LDSR", "upscale", "bsr_sr", "enlarge", "4x"],
            inputs=[
                model_input(SUPER_RESOLUTION),
                vae_input(),
                io.Image.Input(
                    "image",
                    tooltip=(
                        "The small pictures, of any size. The model was trained on clean ones of 64 pixels, lightly "
                        "blurred. An alpha channel is dropped."
                    ),
                ),
                seed_input(),
                steps_input(
                    UPSCALE_STEPS,
                    "Steps of the sampler. 15 suit ddim with eta 1, 20 dpmpp and unipc; the original ran 100 of ddim.",
                ),
                sampler_input(UPSCALE_SAMPLER),
                grid_input(),
                eta_input(
                    "Only for ddim: noise added at each step. 1: as the original ran; it repairs what few steps leave, "
                    "such as colours that drift. 0: none, and what every other sampler needs.",
                    eta_of(UPSCALE_SAMPLER, None),
                ),
                tile_input(
                    "0: pictures whole, and tiles only where memory is short. Else the side of a tile in pixels of "
                    "the small picture, a multiple of 8 from 32: less memory, no seam, slightly another picture."
                ),
                io.Boolean.Input(
                    "keep_colours",
                    default=False,
                    optional=True,
                    tooltip=(
                        "Gives the result the low frequencies of the small picture: each of its pixels is the average "
                        "of what it becomes. The model may else shift colours a little. Off, as the original."
                    ),
                ),
            ],
            advanced=("grid", "eta", "tile", "keep_colours"),
            outputs=[io.Image.Output(display_name="IMAGE", tooltip="The pictures, four times as wide and high.")],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @checked
    def execute(
        cls,
        model: ModelPatcher,
        vae: LDMVAE,
        image: Tensor,
        seed: int,
        steps: int,
        sampler: str,
        grid: str,
        eta: float,
        tile: int,
        keep_colours: bool = False,
    ) -> io.NodeOutput:
        """Enlarge (N, H, W, 3) images in 0..1 to (N, 4 H, 4 W, 3).

        Raises:
            LDMError: A VAE of another model, steps, sampler, grid, eta or tile that do not fit, or more pictures than
                fit into memory.
        """
        config = ldm_model_of(model).ldm_config
        check_belongs(vae, config)
        run = Sampling(seeds_of(seed, range(len(image))), steps, eta, sampler, grid)
        cells = [grown(side, config.unet.size_multiple) for side in image.shape[1:3]]
        check_run("LDM Super-Resolution", model, vae, (len(image), *cells), tile or None)
        c = low_resolution(image[..., :3], config)
        latents = run_conditioned(model, c, run, cls.hidden.unique_id, tile or None)
        height, width = (side * config.first_stage.downscale for side in image.shape[1:3])
        enlarged = vae.decode(latents)[:, :height, :width]
        if not keep_colours:
            return io.NodeOutput(enlarged)
        levels = (enlarged * 255.0).to(torch.uint8).cpu().numpy()  # as the host saves them
        kept = with_colours_of(c[:, :, : image.shape[1], : image.shape[2]], levels)
        return io.NodeOutput((torch.from_numpy(kept).float() / 255.0).to(enlarged))


class LDMInpaintModel(io.ComfyNode):
    """The whole way of `ldm_backend.inpaint`, through a patched MODEL."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What the host shows."""
        return make_schema(
            group="trained tasks",
            node_id="LDMInpaintModel",
            display_name="LDM Inpaint Model",
            description=(
                "Makes the masked part of a picture anew, with a model that was trained for it: removes objects "
                "without a prompt. Every other pixel stays as it was. For unconditional models there is LDM Inpaint."
            ),
            search_aliases=["remove object", "erase", "fill", "inpainting_big", "LaMa"],
            inputs=[
                model_input(INPAINTING),
                vae_input(),
                io.Image.Input(
                    "image",
                    tooltip=(
                        "The pictures, of any size; the model was trained at 256 and 512 pixels. An alpha channel is "
                        "dropped."
                    ),
                ),
                new_mask_input(),
                seed_input(),
                steps_input(STEPS, "Steps of the sampler. 20 suit dpmpp and unipc; the original ran 50 of ddim."),
                sampler_input(SAMPLER),
                grid_input(),
                eta_input("Only for ddim: noise added at each step. 0: none, as the original ran."),
                mask_reduction_input(),
                tile_input(
                    "0: pictures whole, and tiles only where memory is short. Else the side of a tile in latent "
                    "cells of 4 pixels, a multiple of 8 from 32: less memory, no seam, but what fills the mask "
                    "sees no further than its tile.",
                    optional=True,
                ),
            ],
            advanced=("grid", "eta", "mask_reduction", "tile"),
            outputs=[
                io.Image.Output(
                    display_name="IMAGE", tooltip="The pictures; outside of the mask those that came in, to the bit."
                )
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @checked
    def execute(
        cls,
        model: ModelPatcher,
        vae: LDMVAE,
        image: Tensor,
        mask: Tensor,
        seed: int,
        steps: int,
        sampler: str,
        grid: str,
        eta: float,
        mask_reduction: str,
        tile: int = 0,
    ) -> io.NodeOutput:
        """Fill (N, H, W, 3) images in 0..1; one without a masked pixel comes back as it is.

        Raises:
            LDMError: A VAE of another model, a mask of another size, steps, sampler, grid, eta, mask_reduction or
                tile that do not fit, or more pictures than fit into memory.
        """
        task, config = "LDM Inpaint Model", ldm_model_of(model).ldm_config
        check_belongs(vae, config)
        image = image[..., :3]
        filled = hole_of(task, vae, config, image, mask)
        chosen = [index for index, one in enumerate(filled) if bool(one.any())]
        if not chosen:
            return io.NodeOutput(image)
        seeds = seeds_of(seed, chosen)
        check_run(task, model, vae, (len(chosen), *cells_of(config, *image.shape[1:3])), tile or None)
        c = masked_channels(vae, config, image[chosen], filled[chosen], mask_reduction)
        run = Sampling(seeds, steps, eta, sampler, grid)
        made = vae.decode(run_conditioned(model, c, run, cls.hidden.unique_id, tile or None))
        made = as_channels(made[:, : image.shape[1], : image.shape[2]], image.shape[3], dim=-1).to(image)
        result = image.clone()
        result[chosen] = torch.where(filled[chosen][..., None], made, image[chosen])
        return io.NodeOutput(result)
