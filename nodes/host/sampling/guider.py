"""A GUIDER that needs no conditioning."""

from __future__ import annotations

from typing import Any

from comfy.model_patcher import ModelPatcher
from comfy.samplers import CFGGuider
from torch import Tensor

from ..model import ldm_model_of


class UnconditionalGuider(CFGGuider):
    """Evaluates the model once a step.

    Raises:
        InputError: The MODEL is of another family.
    """

    def __init__(self, model: ModelPatcher) -> None:
        ldm_model_of(model)
        super().__init__(model)
        # One entry that says nothing: without any, the host would take a prediction of zero for granted.
        self.inner_set_conds({"positive": [[None, {}]]})

    def sample(
        self, noise: Tensor, latent_image: Tensor, sampler: Any, sigmas: Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        """As the host's. Its uni_pc replaces the last of the sigmas, which other nodes may have on their wires too."""
        sigmas = sigmas.clone() if isinstance(sigmas, Tensor) else sigmas  # what they are, the sampler says
        return super().sample(noise, latent_image, sampler, sigmas, *args, **kwargs)
