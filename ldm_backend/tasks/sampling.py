"""What every task does before it computes, and how it samples unless others ask."""

from __future__ import annotations

from ..config.conditioning import check_task
from ..pipeline import LatentDiffusion

STEPS, SAMPLER = 20, "dpmpp_2m"
UPSCALE_STEPS, UPSCALE_SAMPLER = 15, "ddim"  # with eta 1; measured, see `upscale`


def begin(model: LatentDiffusion, task: str, caller: str) -> None:
    """What every task checks before it computes anything.

    Args:
        model: From `load`.
        task: That the model must be for.
        caller: Named in errors.

    Raises:
        InputError: A model of another task.
        CheckpointError: A file of the model was changed since it was loaded.
    """
    check_task(model.task, task, caller)
    for file in model.files:
        file.check()
