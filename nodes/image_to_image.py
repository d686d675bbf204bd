"""Image to image: noise in part, then sample."""

# The host calls `execute` with a node's own inputs by name, so each signature differs from the base class's.
# pyright: reportIncompatibleMethodOverride=false

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..ldm_backend.sampling.noise import add_noise, draw_noise
from ..ldm_backend.sampling.samplers import grid_of
from .host.model import ModelPatcher, ldm_model_of
from .host.schema import make_schema
from .shared.inputs import eta_input, grid_input, model_input, sampler_input, seed_input, steps_input
from .shared.latent_batch import INFO_KEY
from .shared.limits import check_sampling
from .shared.sampler_runs import run_sampler
from .shared.seeding import seeded
from .shared.wires import checked


class LDMImageToImage(io.ComfyNode):
    """SDEdit: the model finishes a run that starts from a noisy version of the image."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What the host shows."""
        return make_schema(
            group="editing",
            node_id="LDMImageToImage",
            display_name="LDM Image to Image",
            description=(
                "Changes an image: covers its latent with noise in part and lets the model remove that noise. The "
                "strength says how much may change. Each image of a batch has its own seed."
            ),
            search_aliases=["img2img", "SDEdit", "denoise", "strength"],
            inputs=[
                model_input(),
                io.Latent.Input("latent", tooltip="Clean latents, for example from LDM VQ Encode."),
                seed_input("Seed of the noise on the first image. The next images take seed + 1, seed + 2 and so on."),
                io.Float.Input(
                    "strength",
                    default=0.5,
                    min=0.01,
                    max=1.0,
                    step=0.01,
                    tooltip=(
                        "How much of the image is replaced by noise first. At 0.2 details change, at 0.5 features, "
                        "at 0.75 little stays but the colours, at 1 nothing."
                    ),
                ),
                sampler_input(),
                steps_input(
                    50,
                    "Steps that are really taken, whatever the strength. They are the end of a run of steps / strength "
                    "steps, which may be at most 1000.",
                ),
                eta_input("Only for ddim: noise added at each step. 0: none. 1: as much as DDPM adds."),
                grid_input(),
            ],
            advanced=("eta", "grid"),
            outputs=[
                io.Latent.Output(
                    display_name="LATENT", tooltip="The changed latents, for LDM VQ Decode, VAE Decode or latent nodes."
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
        seed: int,
        strength: float,
        sampler: str,
        steps: int,
        eta: float,
        grid: str,
    ) -> io.NodeOutput:
        """Noise the latent to the first timestep of the last `steps` steps and sample from there.

        Raises:
            LDMError: A model or latent of another family, steps, strength, eta or grid that do not fit, or a batch
                or size that does not fit into memory.
        """
        inner = ldm_model_of(model)
        samples = latent["samples"]
        check_sampling("LDM Image to Image", model, samples.shape)
        grid = grid_of(inner.schedule, grid, sampler)
        pairs = inner.schedule.last_timesteps(steps, strength, grid)
        seeds, carrier = seeded(latent, seed)
        _, channels, height, width = samples.shape
        noise = draw_noise(seeds, (channels, height, width)).to(samples.device)
        noisy = add_noise(samples.float(), noise, inner.schedule.alpha_cumprod(pairs[0][0]))
        sampled = run_sampler(model, carrier | {"samples": noisy}, pairs, sampler, cls.hidden.unique_id, eta)
        sampled[INFO_KEY] |= {"sampler": sampler, "steps": steps, "eta": eta, "grid": grid, "strength": strength}
        return io.NodeOutput(sampled)
