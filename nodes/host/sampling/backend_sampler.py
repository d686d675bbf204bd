"""The backend's samplers as a SAMPLER of the host, for SamplerCustom and SamplerCustomAdvanced."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import comfy.model_management
import torch
from comfy.samplers import CFGGuider, KSamplerX0Inpaint, Sampler
from torch import Tensor

from ....ldm_backend.errors import InputError, ScheduleError
from ....ldm_backend.finite import is_plain
from ....ldm_backend.sampling.noise import StepNoise, seeds_of
from ....ldm_backend.sampling.samplers import Denoiser, StepInfo, adds_noise, sample
from ....ldm_backend.sampling.schedule import Pairs, Schedule
from ....ldm_backend.sampling.sigmas import pairs_of, sigma_of
from ..model import ldm_model_of
from .direct import direct_denoiser, guides_plainly

# callback(step, x_0 as predicted, x after the step, steps)
HostCallback = Callable[[int, Tensor, Tensor, int], None]


class BatchSeed(int):
    """The seed of a NOISE, which also knows the seed of each image: all that the host passes on to a SAMPLER."""

    images: list[int]

    def __new__(cls, seed: int, images: list[int]) -> BatchSeed:
        """`seed` as the host knows it, and those of the images."""
        made = super().__new__(cls, seed)
        made.images = images
        return made


class Guiding(CFGGuider, ABC):
    """A guider that has a denoiser of its own for the samplers of the backend."""

    @abstractmethod
    def guided(
        self, through_host: Denoiser, shape: Sequence[int], mask: Tensor | None, options: Mapping[str, Any]
    ) -> Denoiser:
        """The denoiser of a run.

        Args:
            through_host: The denoiser by the way of the host's noise levels, with all that other nodes have put there.
            shape: (N, C, h, w) of the latents.
            mask: (N, C, h, w) 1 where to draw, 0 where to keep what is there; None draws everywhere.
            options: model_options of the run.
        """


class BackendSampler(Sampler):
    """Runs a sampler of the backend in the variance-preserving space, through the guider that the host gives.

    Args:
        name: One of SAMPLERS.
        eta: For ddim.
        pairs: The steps, where they are known; None takes those of the sigmas.

    Raises:
        ScheduleError: Unknown sampler, or eta with one that has none.
    """

    def __init__(self, name: str, eta: float, pairs: Pairs | None = None) -> None:
        self.name, self.eta, self._pairs = name, eta, pairs
        self.adds_noise = adds_noise(name, eta)

    def sample(  # pyright: ignore[reportIncompatibleMethodOverride] - the host's base class declares no arguments
        self,
        model_wrap: Any,
        sigmas: Tensor,
        extra_args: dict[str, Any],
        callback: HostCallback | None,
        noise: Tensor,
        latent_image: Tensor | None = None,
        denoise_mask: Tensor | None = None,
        disable_pbar: bool = False,
    ) -> Tensor:
        """As the host calls it.

        Args:
            model_wrap: The guider: predicts x_0 from (N, C, H, W) latents in the host's space and sigmas (N,).
            sigmas: (steps + 1,) falling.
            extra_args: "seed" and "model_options" of the run.
            callback: The host's progress, preview and cancel.
            noise: (N, C, H, W) standard normal, or zeros if the latents have their noise already.
            latent_image: (N, C, H, W) what to start from, zeros for a new image.
            denoise_mask: (N, C, H, W) 1 where to draw, 0 where to keep `latent_image`.
            disable_pbar: Of no use here.

        Returns:
            (N, C, H, W) latents in the host's space, at the last sigma.

        Raises:
            LDMError: A model, latent or sigmas of another family, or step noise without a seed.
        """
        inner = ldm_model_of(model_wrap.model_patcher)
        if inner.ldm_config.conditioning is None:  # with one, the host's preparation has held the latents against it
            inner.diffusion_model.check_input(noise.shape)
        levels = _levels(sigmas)
        pairs = self._pairs or pairs_of(inner.schedule, levels)
        latent_image = torch.zeros_like(noise) if latent_image is None else latent_image

        denoiser = KSamplerX0Inpaint(model_wrap, sigmas)
        denoiser.latent_image = latent_image  # pyright: ignore[reportAttributeAccessIssue] - the host declares neither
        denoiser.noise = noise  # pyright: ignore[reportAttributeAccessIssue]
        predict = as_trained(denoiser, inner.schedule, extra_args | {"denoise_mask": denoise_mask})
        options = extra_args.get("model_options", {})
        if isinstance(model_wrap, Guiding):
            predict = model_wrap.guided(predict, noise.shape, denoise_mask, options)
        elif inner.ldm_config.unet.cross_attention_dim and denoise_mask is None and guides_plainly(model_wrap):
            # Guidance multiplies what the detour costs.
            predict = direct_denoiser(model_wrap, noise.shape, options) or predict
        x_0 = sample(
            self.name,
            predict,
            _noised(latent_image, noise, levels[0]),
            inner.schedule,
            pairs,
            eta=self.eta,
            step_noise=_step_noise(extra_args.get("seed"), noise.shape) if self.adds_noise else None,
            callback=_step_callback(callback, inner.schedule, pairs),
        )
        return x_0 * _scale(levels[-1])


def _levels(sigmas: Any) -> list[float]:
    """The numbers of SIGMAS; whether they are noise levels that the model knows, `pairs_of` says.

    Raises:
        ScheduleError: No row of numbers.
    """
    if not is_plain(sigmas) or sigmas.ndim != 1 or sigmas.is_complex() or not sigmas.numel():
        raise ScheduleError(
            f"sigmas is a {type(sigmas).__name__}, and no row of noise levels. Connect LDM Sigmas, BasicScheduler, or "
            "another node that gives SIGMAS."
        )
    return sigmas.tolist()


def _scale(sigma: float) -> float:
    """How much larger latents are in the host's space."""
    return math.hypot(1.0, sigma)


def _noised(latent_image: Tensor, noise: Tensor, sigma: float) -> Tensor:
    """x_t of a batch: for an image that is still empty the noise itself, as x_T of a whole run is."""
    is_empty = ~latent_image.flatten(1).any(dim=1).view(-1, 1, 1, 1)
    return torch.where(is_empty, noise, (latent_image + sigma * noise) / _scale(sigma))


def as_trained(denoiser: Callable[..., Tensor], schedule: Schedule, extra_args: dict[str, Any]) -> Denoiser:
    """What the network gave, from the clean latent that the host made of it; x_t is variance-preserving.

    Args:
        denoiser: Predicts x_0 from latents in the host's space and sigmas (N,).
        schedule: Tables of the model.
        extra_args: Further arguments of the denoiser, by name.
    """
    kind = schedule.config.prediction_type

    def predict(x_t: Tensor, t: float) -> Tensor:
        sigma = sigma_of(schedule, t)
        x = x_t * _scale(sigma)
        denoised = denoiser(x, torch.full((len(x),), sigma, device=x.device), **extra_args)
        if kind == "sample":
            return denoised
        if kind == "v_prediction":
            return (x_t - _scale(sigma) * denoised) / sigma
        return (x - denoised) / sigma

    return predict


def _step_callback(callback: HostCallback | None, schedule: Schedule, pairs: Pairs) -> Callable[[StepInfo], None]:
    """Reports each step to the host, and ends the run once the user has cancelled it."""

    def report(info: StepInfo) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        if callback is not None:
            x = info.x_prev * _scale(sigma_of(schedule, pairs[info.index][1]))
            callback(info.index, info.pred_x0, x, info.steps)

    return report


def _step_noise(seed: int | None, shape: torch.Size) -> StepNoise:
    """The noise of the steps, continuing each image's own generator after its x_T.

    Raises:
        InputError: There is no seed, or one of a batch of another size.
    """
    if seed is None:
        raise InputError("The sampler adds noise at each step, but the run has no seed. Connect LDM Noise to `noise`.")
    images, channels, height, width = shape
    seeds = seed.images if isinstance(seed, BatchSeed) else seeds_of(seed, range(images))
    if len(seeds) != images:
        raise InputError(
            f"LDM Noise drew noise for {len(seeds)} images, but {images} are sampled with it. Use one LDM Noise for "
            "each batch."
        )
    return StepNoise(seeds, (channels, height, width))
