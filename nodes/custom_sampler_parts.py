"""The parts of a run for SamplerCustomAdvanced: sampler, sigmas, guider and noise, each a node."""

# The host calls `execute` with a node's own inputs by name, so each signature differs from the base class's.
# pyright: reportIncompatibleMethodOverride=false

from __future__ import annotations

from typing import Any

import torch
from comfy_api.latest import io

from ..ldm_backend.config.conditioning import TASKS
from ..ldm_backend.sampling.noise import draw_noise
from ..ldm_backend.sampling.sigmas import sigmas_of
from .host.model import ModelPatcher, ldm_model_of
from .host.sampling.backend_sampler import BackendSampler, BatchSeed
from .host.sampling.guider import UnconditionalGuider
from .host.schema import make_schema
from .shared.inputs import eta_input, grid_input, model_input, sampler_input, seed_input, steps_input
from .shared.latent_batch import image_seeds
from .shared.limits import check_drawn
from .shared.wires import checked, latent_of


class LDMSamplerSelect(io.ComfyNode):
    """A sampler of the backend as a SAMPLER."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What the host shows."""
        return make_schema(
            group="custom sampling",
            node_id="LDMSamplerSelect",
            display_name="LDM Sampler Select",
            description=(
                "Chooses one of this pack's samplers for SamplerCustomAdvanced or SamplerCustom. The pictures are "
                "those of LDM Sampler and LDM DDIM Sampler."
            ),
            search_aliases=["KSamplerSelect", "DPM-Solver++", "UniPC", "DDIM", "SAMPLER"],
            inputs=[
                sampler_input("unipc"),
                eta_input(
                    "Only for ddim: noise added at each step. 0: none, the seed alone decides the image. 1: as much as "
                    "DDPM adds."
                ),
            ],
            outputs=[
                io.Sampler.Output(
                    display_name="SAMPLER",
                    tooltip="For the input sampler of SamplerCustomAdvanced, for MODELs of this pack.",
                ),
            ],
        )

    @classmethod
    @checked
    def execute(cls, sampler: str, eta: float) -> io.NodeOutput:
        """Make the sampler.

        Raises:
            ScheduleError: Eta with a sampler that has none.
        """
        return io.NodeOutput(BackendSampler(sampler, eta))


class LDMSigmas(io.ComfyNode):
    """A grid of timesteps as SIGMAS."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What the host shows."""
        return make_schema(
            group="custom sampling",
            node_id="LDMSigmas",
            display_name="LDM Sigmas",
            description=(
                "The noise levels that a sampler visits, on the grids of this pack. For SamplerCustomAdvanced with LDM "
                "Sampler Select, or with the samplers that ComfyUI brings."
            ),
            search_aliases=["BasicScheduler", "scheduler", "timesteps", "SIGMAS"],
            inputs=[
                model_input(*TASKS),
                steps_input(20, "Steps of the sampler. 15 to 30 suit unipc, dpmpp and plms, 50 to 200 ddim."),
                grid_input("log_snr"),
                io.Float.Input(
                    "strength",
                    default=1.0,
                    min=0.0,
                    max=1.0,
                    step=0.01,
                    tooltip=(
                        "How much of the way from noise to image is taken. 1: a new image. Less: only the end of it, "
                        "to change an encoded image that is connected to latent_image. The steps stay as many."
                    ),
                ),
            ],
            outputs=[
                io.Sigmas.Output(
                    display_name="SIGMAS",
                    tooltip="For the input sigmas of SamplerCustomAdvanced, or SplitSigmas before it.",
                ),
            ],
        )

    @classmethod
    @checked
    def execute(cls, model: ModelPatcher, steps: int, grid: str, strength: float) -> io.NodeOutput:
        """(steps + 1,) float32 sigmas, falling.

        Raises:
            LDMError: A model of another family, steps that the grid does not have, or strength out of range.
        """
        schedule = ldm_model_of(model).schedule
        return io.NodeOutput(torch.tensor(sigmas_of(schedule, schedule.last_timesteps(steps, strength, grid))))


class LDMGuider(io.ComfyNode):
    """A GUIDER without conditioning."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What the host shows."""
        return make_schema(
            group="custom sampling",
            node_id="LDMGuider",
            display_name="LDM Guider",
            description=(
                "Hands an unconditional MODEL of this pack to SamplerCustomAdvanced. Such a model takes no prompt, so "
                "no conditioning and no cfg are asked for. Models that see a picture need BasicGuider, those of "
                "classes and texts CFGGuider."
            ),
            search_aliases=["BasicGuider", "CFGGuider", "unconditional", "GUIDER"],
            inputs=[model_input()],
            outputs=[
                io.Guider.Output(display_name="GUIDER", tooltip="For the input guider of SamplerCustomAdvanced."),
            ],
        )

    @classmethod
    @checked
    def execute(cls, model: ModelPatcher) -> io.NodeOutput:
        """Make the guider.

        Raises:
            InputError: The MODEL is of another family.
        """
        return io.NodeOutput(UnconditionalGuider(model))


class ImageNoise:
    """A NOISE of the host: noise of a seed for each image, whatever the batch.

    Args:
        seed: Of the image with index 0.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def generate_noise(self, input_latent: dict[str, Any]) -> torch.Tensor:
        """(N, C, H, W) float32 noise on the CPU for a LATENT; the seeds of its images are in `seed` from then on.

        Raises:
            InputError: A latent that is no batch of images, or whose batch_index does not fit it, or noise that does
                not fit into memory.
        """
        shape = latent_of(input_latent, "LDM Noise: latent_image")["samples"].shape
        seeds = image_seeds(input_latent, int(self.seed)) or []
        self.seed = BatchSeed(self.seed, seeds)
        check_drawn("LDM Noise", shape)
        return draw_noise(seeds, (shape[1], shape[2], shape[3]))


class LDMNoise(io.ComfyNode):
    """A NOISE with one seed for each image."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What the host shows."""
        return make_schema(
            group="custom sampling",
            node_id="LDMNoise",
            display_name="LDM Noise",
            description=(
                "Noise for SamplerCustomAdvanced with a seed for each image: image i of a batch is the image of seed + "
                "i, whatever the batch size. RandomNoise draws the whole batch from one seed."
            ),
            search_aliases=["RandomNoise", "seed", "NOISE"],
            inputs=[seed_input()],
            outputs=[
                io.Noise.Output(display_name="NOISE", tooltip="For the input noise of SamplerCustomAdvanced."),
            ],
        )

    @classmethod
    @checked
    def execute(cls, seed: int) -> io.NodeOutput:
        """Make the noise."""
        return io.NodeOutput(ImageNoise(seed))
