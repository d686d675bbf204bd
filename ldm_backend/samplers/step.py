"""What all samplers share: the model they call, what they report after each step, and the check of each evaluation."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..errors import SamplingError, ScheduleError
from ..schedule import CLEAN, Pairs, Schedule

# Predicts the noise in (N, C, H, W) float32 latents x_t at timestep t, a whole number or, on the grid "log_snr", not.
EpsModel = Callable[[Tensor, float], Tensor]

# Gives (N, C, H, W) fresh standard normal noise at each call, one stream for each image; see `noise.StepNoise`.
NoiseSource = Callable[[], Tensor]

# (lambda, D) of earlier evaluations, the newest first: half the log-SNR and the clean latent predicted there.
History = list[tuple[float, Tensor]]

# Below so many steps the last ones are taken at lower order: they are long, and extrapolating over them overshoots.
SHORT_RUN = 15


@dataclass(frozen=True)
class StepInfo:
    """State after one step, for progress and previews; the tensors are the sampler's own, so do not write to them."""

    index: int  # 0..steps-1
    steps: int
    t: float  # timestep of the model call
    x_prev: Tensor  # (N, C, H, W) float32, the result of the step
    pred_x0: Tensor  # (N, C, H, W) float32, the clean latent as predicted at t


Callback = Callable[[StepInfo], None]


def predict_eps(eps_model: EpsModel, x_t: Tensor, t: float, index: int, steps: int) -> Tensor:
    """One evaluation of the model.

    Args:
        eps_model: the model.
        x_t: (N, C, H, W) float32 latents.
        t: their timestep.
        index: of the step, from 0, for the message.
        steps: of the whole run, for the message.
    Returns: (N, C, H, W) float32 noise, finite.
    Raises: SamplingError: the model gave NaN or infinity, which would end as a black picture.
    """
    eps = eps_model(x_t, t).float()
    finite = torch.isfinite(eps).flatten(1).all(dim=1)
    if not finite.all():
        bad = [image for image, good in enumerate(finite.tolist()) if not good]
        cause = "its input was finite" if torch.isfinite(x_t).all() else "its input was already not finite"
        raise SamplingError(
            f"The model returned NaN or infinity in step {index + 1} of {steps} (timestep {t:g}), for "
            f"{len(bad)} of {len(eps)} images, the first at index {bad[0]}; {cause}. "
            "Check the latent that the sampler starts from, the checkpoint (LDM Model Info, or `ldm inspect`) and "
            "whatever patches the model; if it runs in half precision, try float32."
        )
    return eps


def predict_x0(eps_model: EpsModel, x_t: Tensor, schedule: Schedule, t: float, index: int, steps: int) -> Tensor:
    """One evaluation of the model, as the clean latent that its noise implies.

    Args:
        eps_model: the model.
        x_t: (N, C, H, W) float32 latents.
        schedule: tables.
        t: their timestep.
        index: of the step, from 0, for the message.
        steps: of the whole run, for the message.
    Returns: (N, C, H, W) float32 latents, finite.
    Raises: SamplingError: the model gave NaN or infinity.
    """
    a_t = schedule.alpha_cumprod(t)
    eps = predict_eps(eps_model, x_t, t, index, steps)
    return (x_t - math.sqrt(1.0 - a_t) * eps) / math.sqrt(a_t)


def order_of_step(order: int, index: int, pairs: Pairs) -> int:
    """Order that a step can have.

    Args:
        order: of the solver.
        index: of the step, from 0.
        pairs: of the run.
    Returns: 1 for the first step and for one that ends at a clean image (its h is infinite, so nothing can be
        extrapolated), else as many as there are evaluations, up to `order`; less at the end of a short run.
    """
    if pairs[index][1] == CLEAN:
        return 1
    left = len(pairs) - index if len(pairs) < SHORT_RUN else order
    return min(order, index + 1, left)


def need_noise(step_noise: NoiseSource | None, sampler: str) -> NoiseSource:
    """`step_noise`, which this sampler cannot do without.

    Raises: ScheduleError: it is None.
    """
    if step_noise is None:
        raise ScheduleError(
            f"{sampler} adds noise at each step but no step noise was given; give a seed for each image."
        )
    return step_noise


def noise_of_eta(step_noise: NoiseSource | None, sampler: str, eta: float) -> NoiseSource | None:
    """`step_noise` where eta asks for it, else None.

    Raises: ScheduleError: eta out of range, or above 0 without `step_noise`.
    """
    if not 0.0 <= eta <= 1.0:
        raise ScheduleError(f"eta is {eta!r}; expected 0 (deterministic) to 1 (as noisy as DDPM).")
    return need_noise(step_noise, f"{sampler} with eta {eta:g}") if eta > 0.0 else None
