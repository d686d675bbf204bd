"""UniPC (Zhao et al., arXiv 2302.04867): a multistep predictor, and a corrector that costs no evaluation."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ..errors import ScheduleError
from .evaluations import Evaluations
from .schedule import Pairs, Schedule
from .step import Callback, Denoiser, History, StepInfo, order_of_step


@torch.no_grad()
def sample_unipc(
    denoiser: Denoiser,
    x_T: Tensor,
    schedule: Schedule,
    pairs: Pairs,
    order: int = 2,
    callback: Callback | None = None,
) -> Tensor:
    """Run UniPC (data prediction, B(h) = e^h - 1, "bh2") from x_T to x_0: one evaluation a step.

    Each evaluation serves twice: to correct the latent that it was made at, and to predict the next one.

    Args:
        denoiser: The network, see `step.Denoiser`.
        x_T: (N, C, H, W) standard normal start, on the device to work on.
        schedule: tables.
        pairs: (t, t_prev) for each step, from `schedule.timesteps`.
        order: Of the predictor, 1 to 3; the corrector's is one more.
        callback: Called after each step; whatever it raises ends the run.

    Returns:
        (N, C, H, W) float32 latents.

    Raises:
        ScheduleError: Another order.
        SamplingError: The model gave NaN.

    Source: UniPC algorithms 1 (corrector) and 2 (predictor), for data prediction.
    """
    if order not in (1, 2, 3):
        raise ScheduleError(f"order is {order!r}; expected 1, 2 or 3.")
    schedule = schedule.with_signal
    start = x_t = x_T.float()  # start: of the last step, corrected
    history: History = []
    last_order = 0
    with Evaluations(denoiser, schedule, len(pairs)) as model:
        for index, (t, t_prev) in enumerate(pairs):
            pred_x0 = model.predict_x0(x_t, t, index)
            if index > 0:
                x_t = _step(start, schedule, pairs[index - 1][0], t, history[:last_order], pred_x0)
            start = x_t
            history = [(schedule.half_log_snr(t), pred_x0), *history[: order - 1]]
            last_order = order_of_step(order, index, pairs)
            x_t = _step(start, schedule, t, t_prev, history[:last_order])
            if callback is not None:
                callback(StepInfo(index, len(pairs), t, x_t, pred_x0))
    return x_t


def _step(
    start: Tensor, schedule: Schedule, t: float, t_prev: float, history: History, arrived: Tensor | None = None
) -> Tensor:
    """From `start` at t to t_prev: predict, or correct if D at t_prev has `arrived`."""
    lambda_t, data = history[0]
    h = schedule.half_log_snr(t_prev) - lambda_t
    ratios = [(other - lambda_t) / h for other, _ in history[1:]]
    differences = [(earlier - data) / ratio for ratio, (_, earlier) in zip(ratios, history[1:], strict=True)]
    if arrived is not None:
        ratios.append(1.0)
        differences.append(arrived - data)
    for weight, difference in zip(_weights(h, ratios), differences, strict=True):
        data = data + weight * difference
    a_t, a_prev = schedule.alpha_cumprod(t), schedule.alpha_cumprod(t_prev)
    return math.sqrt((1.0 - a_prev) / (1.0 - a_t)) * start - math.sqrt(a_prev) * math.expm1(-h) * data


def _weights(h: float, ratios: list[float]) -> list[float]:
    """Weights of the differences D(lambda_t + r h) - D(lambda_t), each divided by its r.

    For one difference the paper's own choice, 1/2, which has the same order as the solution.
    """
    if len(ratios) < 2:
        return [0.5] * len(ratios)
    powers = np.vander(ratios, increasing=True).T
    # Integrals from 0 to h of e^(u - h) (u / h)^k du, each from the one before by parts.
    constant = integral = -math.expm1(-h)
    moments = []
    for k in range(1, len(ratios) + 1):
        integral = 1.0 - k / h * integral
        moments.append(integral / constant)
    return np.linalg.solve(powers, np.array(moments)).tolist()
