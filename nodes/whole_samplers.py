"""The samplers as single nodes: the exact DDIM, and all others."""

# The host calls `execute` with a node's own inputs by name, so each signature differs from the base class's.
# pyright: reportIncompatibleMethodOverride=false

from __future__ import annotations

from typing import Any

from comfy_api.latest import io

from ..ldm_backend.config.conditioning import CLASS_CONDITIONAL, TEXT_CONDITIONAL, UNCONDITIONAL, VECTOR_CONDITIONAL
from ..ldm_backend.sampling.samplers import grid_of
from .host.model import ModelPatcher, ldm_model_of
from .host.schema import make_schema
from .shared.inputs import (
    eta_input,
    finished_latents,
    grid_input,
    guidance_inputs,
    model_input,
    sampler_input,
    step_seed_input,
    steps_input,
)
from .shared.latent_batch import INFO_KEY
from .shared.sampler_runs import Guidance, run_sampler
from .shared.wires import checked


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
                model_input(UNCONDITIONAL, CLASS_CONDITIONAL, TEXT_CONDITIONAL, VECTOR_CONDITIONAL),
                io.Latent.Input("latent", tooltip="The noise to start from, made by LDM Latent Noise."),
                steps_input(
                    200,
                    "Evaluations of the network. More take longer and change less and less; 50 to 200 is usual.",
                ),
                eta_input(),
                grid_input(),
                step_seed_input("for eta above 0"),
                io.Int.Input(
                    "cache_interval",
                    optional=True,
                    default=1,
                    min=1,
                    max=50,
                    tooltip=(
                        "Faster with a slightly different picture: the whole network runs only at every n-th step, and "
                        "in between only its finest levels (DeepCache). 1 is off, exact. 2 or 3 is hard to see."
                    ),
                ),
                io.Int.Input(
                    "cache_depth",
                    optional=True,
                    default=1,
                    min=1,
                    max=10,
                    tooltip=(
                        "Only with cache_interval above 1: how many levels of the network, from the finest, still run "
                        "at every step. 1 is fastest; more come closer to the exact picture."
                    ),
                ),
                *guidance_inputs(),
            ],
            advanced=("grid", "cache_interval", "cache_depth"),
            outputs=[finished_latents()],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @checked
    def execute(
        cls,
        model: ModelPatcher,
        latent: dict[str, Any],
        steps: int,
        eta: float,
        grid: str,
        seed: int | None = None,
        cache_interval: int = 1,
        cache_depth: int = 1,
        positive: list[Any] | None = None,
        negative: list[Any] | None = None,
        cfg: float = 1.0,
    ) -> io.NodeOutput:
        """Sample x_0 from x_T.

        Raises:
            LDMError: A model or latent of another family, steps that the grid does not have, eta without a seed, a
                cache depth that the network does not have, or a conditioning that does not fit to the model.
        """
        schedule = ldm_model_of(model).schedule
        grid = grid_of(schedule, grid)
        pairs = schedule.timesteps(steps, grid)
        cache = (cache_interval, cache_depth) if cache_interval > 1 else None
        guidance = Guidance(positive, negative, cfg)
        sampled = run_sampler(model, latent, pairs, "ddim", cls.hidden.unique_id, eta, seed, cache, guidance)
        sampled[INFO_KEY] |= {"sampler": "ddim", "steps": steps, "eta": eta, "grid": grid}
        if cache is not None:  # the picture is another one
            sampled[INFO_KEY] |= {"cache_interval": cache_interval, "cache_depth": cache_depth}
        return io.NodeOutput(sampled)


class LDMSampler(io.ComfyNode):
    """Every sampler of the backend, with the settings that suit the fast ones."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """What the host shows."""
        return make_schema(
            node_id="LDMSampler",
            display_name="LDM Sampler",
            description=(
                "Turns noise into latents with the sampler of your choice. The fast ones (unipc, dpmpp) need about 20 "
                "steps where DDIM takes 200. Start from LDM Latent Noise and end with LDM VQ Decode."
            ),
            search_aliases=["DPM-Solver++", "UniPC", "PLMS", "DDPM", "KSampler", "denoise"],
            inputs=[
                model_input(UNCONDITIONAL, CLASS_CONDITIONAL, TEXT_CONDITIONAL, VECTOR_CONDITIONAL),
                io.Latent.Input("latent", tooltip="The noise to start from, made by LDM Latent Noise."),
                sampler_input("unipc"),
                steps_input(
                    20, "Steps of the sampler. 15 to 30 suit unipc, dpmpp and plms, 50 to 200 ddim, up to 1000 ddpm."
                ),
                grid_input(),
                step_seed_input("for samplers that add noise (ddpm, dpmpp_2m_sde)"),
                *guidance_inputs(),
            ],
            advanced=("grid",),
            outputs=[finished_latents()],
            hidden=[io.Hidden.unique_id],
        )

    @classmethod
    @checked
    def execute(
        cls,
        model: ModelPatcher,
        latent: dict[str, Any],
        sampler: str,
        steps: int,
        grid: str,
        seed: int | None = None,
        positive: list[Any] | None = None,
        negative: list[Any] | None = None,
        cfg: float = 1.0,
    ) -> io.NodeOutput:
        """Sample x_0 from x_T.

        Raises:
            LDMError: A model or latent of another family, steps that the grid does not have, noise without a seed, or
                a conditioning that does not fit to the model.
        """
        schedule = ldm_model_of(model).schedule
        grid = grid_of(schedule, grid, sampler)
        pairs = schedule.timesteps(steps, grid)
        guidance = Guidance(positive, negative, cfg)
        sampled = run_sampler(model, latent, pairs, sampler, cls.hidden.unique_id, seed=seed, guidance=guidance)
        sampled[INFO_KEY] |= {"sampler": sampler, "steps": steps, "grid": grid}
        return io.NodeOutput(sampled)
