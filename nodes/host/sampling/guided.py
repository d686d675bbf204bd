"""A GUIDER that brings guides into each step, for the samplers of the backend and for those of the host."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import comfy.model_management
import torch
from comfy.model_patcher import ModelPatcher
from torch import Tensor, nn

from ....ldm_backend.errors import InputError
from ....ldm_backend.guidance.costs import gradient_bytes
from ....ldm_backend.guidance.guided import Guided
from ....ldm_backend.guidance.guides import NETWORK, Guide, LossGradient, Projection, ScoreGradient
from ....ldm_backend.guidance.losses import Style
from ....ldm_backend.guidance.space import Space
from ....ldm_backend.memory.estimates import Size
from ....ldm_backend.networks.conditioned import Conditioned
from ....ldm_backend.sampling.prediction import prediction_of
from ....ldm_backend.sampling.step import Denoiser
from ..conditioning import none_given
from ..loading import check_belongs
from ..model import ldm_model_of
from ..vae import LDMVAE
from .backend_sampler import Guiding, as_trained
from .direct import direct_denoiser

_KEY = "ldm_guided"  # of the VAE among the models that the host loads beside the MODEL


class GuidedGuider(Guiding):
    """Evaluates the model once a step, and corrects what it predicts by guides.

    The samplers of the backend ask for their denoiser by `guided` and go on as `Correcting` says; to a sampler of the
    host, which knows clean latents alone, the corrected one is given.

    Args:
        model: MODEL of this pack.
        vae: Its VAE, whose first stage the guides work with.
        guides: At least one.
        positive: CONDITIONING for a model that sees a picture; None for an unconditional one.

    Raises:
        InputError: A MODEL of another family, the VAE of another model, or no conditioning where one is needed.
    """

    def __init__(
        self, model: ModelPatcher, vae: LDMVAE, guides: Sequence[Guide], positive: list[Any] | None = None
    ) -> None:
        inner = ldm_model_of(model)
        check_belongs(vae, inner.ldm_config)
        if positive is None and inner.ldm_config.conditioning is not None:
            raise none_given(inner.ldm_config)
        own = model.clone()
        own.set_additional_models(_KEY, [vae.patcher])
        super().__init__(own)
        self._vae, self._guides = vae, tuple(guides)
        self._forget()
        self.inner_set_conds({"positive": [[None, {}]] if positive is None else positive})

    def _forget(self) -> None:
        """What belongs to a run."""
        self._guided: Guided | None = None  # for a sampler of the host
        self._asked: tuple[dict[str, Any], int | None] = ({}, None)  # by it: model_options and seed
        self._bare = False  # a sampler of the backend asks, and corrects by itself

    def sample(
        self, noise: Tensor, latent_image: Tensor, sampler: Any, sigmas: Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        """As the host's, outside of its inference mode, so that gradients go through what is loaded and made here.

        Raises:
            LDMError: Guides that do not fit to the pictures of the run, or more than fits into memory.
        """
        with torch.inference_mode(False), torch.no_grad():
            self._forget()
            try:
                # What was made in inference mode must not be written to out here, and the host may do so with these.
                return super().sample(noise.clone(), latent_image.clone(), sampler, sigmas.clone(), *args, **kwargs)
            finally:
                self._forget()

    def guided(
        self, through_host: Denoiser, shape: Sequence[int], mask: Tensor | None, options: Mapping[str, Any]
    ) -> Denoiser:
        """See `Guiding`; the denoiser is `Correcting`.

        Raises:
            LDMError: As `sample`.
        """
        self._bare = True
        if mask is not None:
            return _Masked(self._made(through_host, shape, divisible=False), mask)
        return self._made(direct_denoiser(self, shape, options) or through_host, shape)

    def predict_noise(
        self, x: Tensor, timestep: Tensor, model_options: dict[str, Any] | None = None, seed: int | None = None
    ) -> Tensor:
        """The clean latent, corrected, as a sampler of the host asks for it.

        Args:
            x: (N, C, h, w) latents in the host's space.
            timestep: (N,) sigmas, all the same.
            model_options: Of the run.
            seed: likewise.
        """
        options: dict[str, Any] = {} if model_options is None else model_options
        if self._bare:
            return super().predict_noise(x, timestep, options, seed)
        inner, sigma = ldm_model_of(self.model_patcher), float(timestep.reshape(-1)[0])
        t = float(inner.model_sampling.timestep(timestep.reshape(-1)[:1])[0])
        self._asked = options, seed
        if self._guided is None:
            evaluate = super().predict_noise
            denoiser = as_trained(lambda x, sigmas: evaluate(x, sigmas, *self._asked), inner.schedule, {})
            self._guided = self._made(denoiser, x.shape)
        x_t = x / (1.0 + sigma * sigma) ** 0.5
        pred_x0 = prediction_of(inner.schedule, self._guided(x_t, t), x_t, t).pred_x0
        return self._guided.corrected(pred_x0, t)

    def _made(self, denoiser: Denoiser, shape: Sequence[int], divisible: bool = True) -> Guided:
        """The guides of a run around a denoiser, once there is room for them and their networks let gradients through.

        Args:
            denoiser: Of the whole batch.
            shape: (N, C, h, w) of the latents.
            divisible: Whether it also takes a part of the batch, where the model is an unconditional one.

        Raises:
            LDMError: As `sample`.
        """
        inner, first_stage = ldm_model_of(self.model_patcher), self._vae.first_stage_model
        scores = any(isinstance(guide, ScoreGradient) for guide in self._guides)
        if inner.ldm_config.conditioning is None:  # with one, the host's preparation has held the latents against it
            inner.diffusion_model.check_input(torch.Size(shape))
        elif not isinstance(denoiser, Conditioned):
            divisible = False
        if scores and shape[0] > 1 and not divisible:
            raise InputError(
                f"A guide has the method score, which takes the {shape[0]} pictures of the batch one by one, and each "
                "has a mask or a conditioning of its own that this sampler joins to the whole batch. Set its method to "
                "loss, or draw one picture at a time."
            )
        self._make_room(shape, scores)
        if scores or any(isinstance(guide, LossGradient) for guide in self._guides):
            let_gradients_through(first_stage)
        if scores:
            let_gradients_through(inner.diffusion_model)
        network, device = inner.diffusion_model, self._vae.device
        return Guided(denoiser, inner.schedule, first_stage, self._guides, shape, network, device)

    def _make_room(self, shape: Sequence[int], scores: bool) -> None:
        """Bring both networks to their device, with enough free memory there for an evaluation and the guides.

        Raises:
            TooLargeError: Not even one picture fits.
            CheckpointError: The file of the weights was changed since it was loaded.
        """
        inner, vae = ldm_model_of(self.model_patcher), self._vae
        images, _, height, width = shape
        size = Size(images, height * vae.first_stage_model.downscale, width * vae.first_stage_model.downscale)
        if any(isinstance(guide, Projection) and guide.codec == NETWORK for guide in self._guides):
            vae.check_encode(size)
            vae.check_decode(torch.Size(shape))
        vae.load(0)
        space = Space(vae.first_stage_model, images, size.height, size.width, vae.device)
        pixels = torch.Size((1, 3, size.height, size.width))
        needed = max(
            vae.memory_used_encode(pixels, torch.float32), vae.memory_used_decode(torch.Size(shape), torch.float32)
        )
        gradients = [guide for guide in self._guides if isinstance(guide, LossGradient | ScoreGradient)]
        if gradients:
            styled = any(isinstance(guide.wanted, Style) for guide in gradients)
            through = inner.diffusion_model if scores else None
            needed = max(needed, gradient_bytes(space, through, styled, (1, size.height, size.width)))
        comfy.model_management.load_models_gpu(
            [self.model_patcher, vae.patcher], memory_required=max(needed, inner.memory_required(list(shape)))
        )


class _Masked:
    """A guided denoiser that corrects only where something is drawn; elsewhere the prediction is what is kept."""

    def __init__(self, guided: Guided, mask: Tensor) -> None:
        self._guided, self._mask = guided, mask

    def __call__(self, x_t: Tensor, t: float) -> Tensor:
        return self._guided(x_t, t)

    def corrected(self, pred_x0: Tensor, t: float) -> Tensor:
        """See `Correcting`."""
        return pred_x0 + (self._guided.corrected(pred_x0, t) - pred_x0) * self._mask


def let_gradients_through(network: nn.Module) -> None:
    """Copy the weights that were made in inference mode, where a host moves or patches them; others stay.

    To be called outside of inference mode. The numbers are the same.
    """
    for module in network.modules():
        for name, weight in list(module.named_parameters(recurse=False)):
            if weight.is_inference():
                setattr(module, name, nn.Parameter(weight.detach().clone(), requires_grad=False))
        for name, buffer in list(module.named_buffers(recurse=False)):
            if buffer.is_inference():
                setattr(module, name, buffer.clone())
