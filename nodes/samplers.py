"""The exact DDIM sampler."""

# The host calls `execute` with a node's own inputs by name, so each signature differs from the base class's.
# pyright: reportIncompatibleMethodOverride=false

from __future__ import annotations

from typing import Any

from comfy.model_patcher import ModelPatcher
from comfy_api.latest import io
from torch import Tensor

from ..ldm_backend.errors import InputError
from ..ldm_backend.noise import MAX_SEED, StepNoise
from ..ldm_backend.samplers import sample_ddim
from ..ldm_backend.schedule import GRIDS
from .host.model import intermediate_device, ldm_model_of, loaded
from .host.progress import step_callback
from .host.schema import make_schema
from .latents import image_seeds


class LDMDDIMSampler(io.ComfyNode):
    """Runs the backend's own loop through the patched MODEL."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What the host shows."""
        return make_schema(
            node_id="LDMDDIMSampler",
            display_name="LDM DDIM Sampler",
            description=(
                "Turns noise into latents with DDIM, number for number as the model card's own loop does. Start from "
                "LDM Latent Noise and end with LDM VQ Decode."
            ),
            search_aliases=["DDIM", "KSampler", "denoise", "eta"],
            inputs=[
                io.Model.Input("model", tooltip="The MODEL from LDM Checkpoint Loader."),
                io.Latent.Input("latent", tooltip="The noise to start from, made by LDM Latent Noise."),
                io.Int.Input(
                    "steps",
                    default=200,
                    min=1,
                    max=1000,
                    tooltip=(
                        "Evaluations of the network. More take longer and change less and less; 50 to 200 is usual."
                    ),
                ),
                io.Float.Input(
                    "eta",
                    default=0.0,
                    min=0.0,
                    max=1.0,
                    step=0.05,
                    tooltip=(
                        "Noise added at each step. 0: none, the seed alone decides the image. 1: as much as DDPM adds, "
                        "for more variety."
                    ),
                ),
                io.Combo.Input(
                    "grid",
                    options=list(GRIDS),
                    default=GRIDS[0],
                    tooltip=(
                        "Which of the training timesteps are visited. leading: as on Hugging Face, for the model "
                        "card's images. compvis: one step later, as the original program did."
                    ),
                ),
                io.Int.Input(
                    "seed",
                    optional=True,
                    force_input=True,
                    min=0,
                    max=MAX_SEED,
                    tooltip=(
                        "Only for eta above 0, and only if the latent does not come straight from LDM Latent Noise, "
                        "which passes its seed along: seed of the noise that the steps add."
                    ),
                ),
            ],
            outputs=[
                io.Latent.Output(
                    display_name="LATENT",
                    tooltip="The finished latents, for LDM VQ Decode, VAE Decode or latent nodes.",
                ),
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    def execute(
        cls, model: ModelPatcher, latent: dict[str, Any], steps: int, eta: float, grid: str, seed: int | None = None
    ) -> io.NodeOutput:
        """Sample x_0 from x_T.

        Raises:
            LDMError: a model or latent of another family, steps that the grid does not have, or eta without a seed.
        """
        inner = ldm_model_of(model)
        x_T: Tensor = latent["samples"]
        inner.diffusion_model.check_input(x_T.shape)
        pairs = inner.schedule.timesteps(steps, grid)
        step_noise = _step_noise(latent, seed) if eta > 0 else None
        with loaded(model, x_T.shape):
            x_0 = sample_ddim(
                inner.predict_eps,
                x_T.float().to(model.load_device),
                inner.schedule,
                pairs,
                eta=eta,
                step_noise=step_noise,
                callback=step_callback(model, len(pairs), cls.hidden.unique_id),
            )
        settings = {"sampler": "ddim", "steps": steps, "eta": eta, "grid": grid}
        info = inner.ldm_source | settings
        return io.NodeOutput(latent | {"samples": x_0.to(intermediate_device()), "ldm_info": info})


def _step_noise(latent: dict[str, Any], seed: int | None) -> StepNoise:
    """The noise of the steps, continuing each image's own generator after its x_T."""
    seeds = image_seeds(latent, seed)
    if seeds is None:
        raise InputError(
            "eta is above 0 and the latent carries no seed, so the noise of the steps is undefined. Connect the input "
            "seed, take the latent from LDM Latent Noise, or set eta to 0."
        )
    _, channels, height, width = latent["samples"].shape
    return StepNoise(seeds, (channels, height, width))
