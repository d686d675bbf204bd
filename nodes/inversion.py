"""From an image back to its noise."""

# The host calls `execute` with a node's own inputs by name, so each signature differs from the base class's.
# pyright: reportIncompatibleMethodOverride=false

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..ldm_backend.editing.inversion import evaluations_of, invert_ddim
from ..ldm_backend.sampling.samplers import grid_of
from .host.model import ModelPatcher, intermediate_device, ldm_model_of, loaded
from .host.progress import StepsAndTiles
from .host.schema import make_schema
from .shared.inputs import grid_input, model_input, steps_input
from .shared.latent_batch import INFO_KEY, LABELS_KEY, SEED_KEY
from .shared.limits import check_sampling
from .shared.wires import checked

# What the samples are no longer once they are inverted: a draw of a seed, and the result of a sampler.
_NO_LONGER = (SEED_KEY, LABELS_KEY, INFO_KEY)


class LDMDDIMInversion(io.ComfyNode):
    """Runs DDIM backwards."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What the host shows."""
        return make_schema(
            group="editing",
            node_id="LDMDDIMInversion",
            display_name="LDM DDIM Inversion",
            description=(
                "Finds the noise from which LDM DDIM Sampler, with the same steps and grid, makes a given image again. "
                "Such noise can be mixed with other noise (LDM Latent Walk) to morph real pictures."
            ),
            search_aliases=["invert", "encode to noise", "x_T"],
            inputs=[
                model_input(),
                io.Latent.Input("latent", tooltip="Clean latents, for example from LDM VQ Encode."),
                steps_input(200, "Steps of the inversion. Give LDM DDIM Sampler the same number, and eta 0."),
                grid_input(),
                io.Int.Input(
                    "iterations",
                    default=1,
                    min=1,
                    max=20,
                    tooltip=(
                        "Evaluations of the network for each step. 1 is enough for a picture that the eye cannot tell "
                        "apart; 2 or 3 come closer with few steps and take that many times as long."
                    ),
                ),
            ],
            advanced=("grid", "iterations"),
            outputs=[
                io.Latent.Output(
                    display_name="LATENT",
                    tooltip="The noise x_T of these images, for LDM DDIM Sampler with eta 0, or LDM Latent Walk.",
                )
            ],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @checked
    def execute(
        cls, model: ModelPatcher, latent: dict[str, Any], steps: int, grid: str, iterations: int
    ) -> io.NodeOutput:
        """Find x_T of x_0.

        Raises:
            LDMError: A model or latent of another family, steps that the grid does not have, or a batch or size that
                does not fit into memory.
        """
        schedule = ldm_model_of(model).schedule
        pairs = schedule.timesteps(steps, grid_of(schedule, grid))
        x_0 = latent["samples"]
        check_sampling("LDM DDIM Inversion", model, x_0.shape)
        with loaded(model, x_0.shape) as inner:
            x_T = invert_ddim(
                inner.predict,
                x_0.float().to(model.load_device),
                inner.schedule,
                pairs,
                iterations,
                StepsAndTiles(model, evaluations_of(steps, iterations), cls.hidden.unique_id).step,
            )
        kept = {key: value for key, value in latent.items() if key not in _NO_LONGER}
        return io.NodeOutput(kept | {"samples": x_T.to(intermediate_device())})
