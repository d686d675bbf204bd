"""Progress bar, preview picture and cancel button, driven from the backend's step callback."""

from __future__ import annotations

from typing import Any

import comfy.model_management
import comfy.utils
import latent_preview
from comfy.model_patcher import ModelPatcher
from torch import Tensor

from ...ldm_backend.sampling.samplers import StepInfo


class StepsAndTiles:
    """Reports steps, and the tiles that a step goes through, to the host; `step` and `tile` are callbacks.

    Args:
        model: Whose latent format says how to preview; the host's --preview-method decides whether.
        steps: Length of the progress bar.
        node_id: Node that shows it.
    """

    def __init__(self, model: ModelPatcher, steps: int, node_id: str | None) -> None:
        self._bar = comfy.utils.ProgressBar(steps, node_id=node_id)
        self._previewer = latent_preview.get_previewer(model.load_device, model.get_model_object("latent_format"))
        self._steps, self._done, self._tiles = steps, 0, 1

    def step(self, info: StepInfo) -> None:
        """After each step.

        Raises:
            InterruptProcessingException: The user has cancelled.
        """
        self.host_step(info.index, info.pred_x0)

    def host_step(self, index: int, pred_x0: Tensor, *_: Any) -> None:
        """Likewise, as the host's samplers report: which step of them it was, and x_0 as predicted.

        Raises:
            InterruptProcessingException: The user has cancelled.
        """
        comfy.model_management.throw_exception_if_processing_interrupted()
        self._done = index + 1
        preview = self._previewer.decode_latent_to_preview_image("JPEG", pred_x0) if self._previewer else None
        self._bar.update_absolute(self._done * self._tiles, self._steps * self._tiles, preview)

    def tile(self, done: int, tiles: int) -> None:
        """After each tile of an evaluation: the bar has a place for each tile of each step.

        Raises:
            InterruptProcessingException: The user has cancelled.
        """
        comfy.model_management.throw_exception_if_processing_interrupted()
        self._tiles = tiles
        place = min(self._done * tiles + done, self._steps * tiles)  # some samplers evaluate twice in a step
        self._bar.update_absolute(place, self._steps * tiles)
