"""Progress bar, preview picture and cancel button, driven from the backend's step callback."""

from __future__ import annotations

from collections.abc import Callable

import comfy.model_management
import comfy.utils
import latent_preview
from comfy.model_patcher import ModelPatcher

from ...ldm_backend.sampling.samplers import StepInfo


def step_callback(model: ModelPatcher, steps: int, node_id: str | None) -> Callable[[StepInfo], None]:
    """A callback that reports each step to the host.

    Args:
        model: Whose latent format says how to preview; the host's --preview-method decides whether.
        steps: Length of the progress bar.
        node_id: Node that shows it.

    Returns:
        A function that raises the host's InterruptProcessingException once the user has cancelled.
    """
    bar = comfy.utils.ProgressBar(steps, node_id=node_id)
    previewer = latent_preview.get_previewer(model.load_device, model.get_model_object("latent_format"))

    def report(info: StepInfo) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        preview = previewer.decode_latent_to_preview_image("JPEG", info.pred_x0) if previewer else None
        bar.update_absolute(info.index + 1, steps, preview)

    return report
