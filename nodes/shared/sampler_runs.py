"""How sampler nodes run the backend's loops through a MODEL."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ...ldm_backend.errors import InputError
from ...ldm_backend.networks.deep_cache import DeepCache
from ...ldm_backend.sampling.noise import StepNoise
from ...ldm_backend.sampling.samplers import adds_noise, sample
from ...ldm_backend.sampling.schedule import Pairs
from ..host.conditioners.classes import none_of
from ..host.conditioning import none_given
from ..host.model import ModelPatcher, intermediate_device, ldm_model_of, loaded
from ..host.progress import StepsAndTiles
from ..host.sampling.backend_sampler import BackendSampler
from ..host.sampling.runs import sample_guided
from .latent_batch import INFO_KEY, image_seeds
from .limits import check_sampling


@dataclass(frozen=True)
class Guidance:
    """What a model is to draw, and how strongly: the inputs of these names, None where nothing is connected."""

    positive: list[Any] | None = None
    negative: list[Any] | None = None
    cfg: float = 1.0


def run_sampler(
    model: ModelPatcher,
    latent: dict[str, Any],
    pairs: Pairs,
    sampler: str,
    node_id: str | None,
    eta: float = 0.0,
    seed: int | None = None,
    cache: tuple[int, int] | None = None,
    guidance: Guidance = Guidance(),  # noqa: B008 - frozen
) -> dict[str, Any]:
    """Sample x_0 from the noisy latents in `latent`.

    Args:
        model: MODEL of this pack.
        latent: LATENT whose samples are x_T; not written to.
        pairs: The steps, from `Schedule.timesteps`.
        sampler: One of SAMPLERS.
        node_id: Node that shows the progress.
        eta: For ddim.
        seed: Of the noise of the steps; None takes the latent's own.
        cache: Interval and depth of `DeepCache`; None evaluates the whole network each time.
        guidance: For a model that needs a conditioning.

    Returns:
        The LATENT with its samples finished and everything else kept; `INFO_KEY` tells the checkpoint.

    Raises:
        LDMError: A model or latent of another family, an empty latent, a batch or size that does not fit into memory, a
            sampler that adds noise without a seed, a cache depth that the network does not have, or guidance that
            does not fit to the model.
    """
    x_T = latent["samples"]
    step_noise = step_noise_of(latent, sampler, seed) if adds_noise(sampler, eta) else None
    check_sampling("Sampling", model, x_T.shape, whole=cache is not None)
    check_noisy(x_T)
    if (conditionings := _conditionings(model, guidance, cache)) is not None:
        progress = StepsAndTiles(model, len(pairs), node_id)
        x_0 = sample_guided(
            model, conditionings, guidance.cfg, BackendSampler(sampler, eta, pairs), x_T.float(), pairs,
            None if step_noise is None else image_seeds(latent, seed), progress.host_step,
        )  # fmt: skip
        info = ldm_model_of(model).ldm_source | {"cfg": guidance.cfg}
        return latent | {"samples": x_0.to(intermediate_device()), INFO_KEY: info}
    with loaded(model, x_T.shape) as inner:
        x_0 = sample(
            sampler,
            inner.predict if cache is None else DeepCache(inner.diffusion_model, *cache),
            x_T.float().to(model.load_device),
            inner.schedule,
            pairs,
            eta=eta,
            step_noise=step_noise,
            callback=StepsAndTiles(model, len(pairs), node_id).step,
        )
    return latent | {"samples": x_0.to(intermediate_device()), INFO_KEY: dict(inner.ldm_source)}


def _conditionings(
    model: ModelPatcher, guidance: Guidance, cache: tuple[int, int] | None
) -> tuple[list[Any], list[Any]] | None:
    """Positive and negative of a run; None for an unconditional model.

    Raises:
        InputError: A setting that does not fit to the model.
    """
    config, positive, negative = ldm_model_of(model).ldm_config, guidance.positive, guidance.negative
    if config.conditioning is None:
        if (positive, negative, guidance.cfg) != (None, None, 1.0):
            raise InputError(
                f"positive, negative or cfg ({guidance.cfg:g}) are given, and the MODEL is one that takes no "
                "conditioning. Leave both open and set cfg to 1."
            )
        return None
    if positive is None:
        raise none_given(config)
    if cache is not None:
        raise InputError(
            "cache_interval is above 1, which is for models without a conditioning, and the MODEL has one. Set it to 1."
        )
    if negative is None:
        # which cfg 1 does not look at
        negative = positive if guidance.cfg == 1.0 else none_of(model, guidance.cfg, positive)
    return positive, negative


def check_noisy(x_T: Tensor) -> None:  # noqa: N803 - the papers' name
    """Refuse the latent of LDM Empty Latent, which fits in shape: zeros would give a grey picture instead of a message.

    Raises:
        InputError: Nothing but zeros.
    """
    if not x_T.any():
        raise InputError(
            "The latent is empty: all its values are 0. This sampler draws no noise of its own and expects noise. "
            "Connect LDM Latent Noise, or give the empty latent to KSampler or SamplerCustomAdvanced."
        )


def step_noise_of(latent: dict[str, Any], sampler: str, seed: int | None) -> StepNoise:
    """The noise of the steps, continuing each image's own generator after its x_T.

    Raises:
        InputError: There is no seed.
    """
    seeds = image_seeds(latent, seed)
    if seeds is None:
        way_out = "set eta to 0" if sampler == "ddim" else "choose a sampler that adds none"
        raise InputError(
            f"{sampler} adds noise at each step here, but the latent carries no seed, so that noise is undefined. "
            f"Connect the input seed, take the latent from LDM Latent Noise, or {way_out}."
        )
    _, channels, height, width = latent["samples"].shape
    return StepNoise(seeds, (channels, height, width))
