"""A GUIDER that needs no conditioning."""

from __future__ import annotations

from comfy.model_patcher import ModelPatcher
from comfy.samplers import CFGGuider

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
