"""What all samplers share: the model they call, what they report after each step, and the order of a step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from torch import Tensor

from .schedule import CLEAN, Pairs

# What the network gives for (N, C, H, W) float32 latents x_t at timestep t, a whole number or, on the grid "log_snr",
# not: the noise in them, or what else the schedule's `prediction_type` says.
Denoiser = Callable[[Tensor, float], Tensor]


@runtime_checkable
class Correcting(Protocol):
    """A denoiser that also corrects the clean latent that its output implies, as guides do.

    DDIM and PLMS go on with the noise as it was predicted, as where the clean latent is clipped.
    """

    def corrected(self, pred_x0: Tensor, t: float) -> Tensor:
        """The clean latent (N, C, H, W) of the evaluation just made, at timestep t, corrected."""
        ...


# (lambda, D) of earlier evaluations, the newest first: half the log-SNR and the clean latent predicted there.
History = list[tuple[float, Tensor]]

# Below so many steps the last ones are taken at lower order: they are long, and extrapolating over them overshoots.
SHORT_RUN = 15


@dataclass(frozen=True)
class StepInfo:
    """State after one step, for progress and previews; the tensors are the sampler's own, so do not write to them.

    On a card they may not be computed yet, and the evaluation not be checked yet, see `Evaluations`.
    """

    index: int  # 0..steps-1
    steps: int
    t: float  # timestep of the model call
    x_prev: Tensor  # (N, C, H, W) float32, the result of the step
    pred_x0: Tensor  # (N, C, H, W) float32, the clean latent as predicted at t


Callback = Callable[[StepInfo], None]


def runs_ahead(device: torch.device) -> bool:
    """Whether the CPU may go on while a device works: on cards of CUDA (and ROCm, which torch calls so too)."""
    return device.type == "cuda"


def order_of_step(order: int, index: int, pairs: Pairs) -> int:
    """Order that a step can have.

    Args:
        order: Of the solver.
        index: Of the step, from 0.
        pairs: Of the run.

    Returns:
        1 for the first step and for one that ends at a clean image (its h is infinite, so nothing can be extrapolated),
        else as many as there are evaluations, up to `order`; less at the end of a short run.
    """
    if pairs[index][1] == CLEAN:
        return 1
    left = len(pairs) - index if len(pairs) < SHORT_RUN else order
    return min(order, index + 1, left)
