"""The clean latent and the noise in a noisy one, whichever of them the network was trained to give."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ..config.model import ScheduleConfig
from ..errors import ScheduleError
from .schedule import Schedule


class Prediction(NamedTuple):
    """Of x_t = sqrt(a_t) * x_0 + sqrt(1 - a_t) * eps, both (N, C, H, W)."""

    pred_x0: Tensor
    eps: Tensor


def prediction_of(schedule: Schedule, output: Tensor, x_t: Tensor, t: float) -> Prediction:
    """The clean latent and the noise that an output of the network implies.

    Args:
        schedule: Tables; its configuration says what the network gives.
        output: (N, C, H, W) of the network at x_t and t.
        x_t: (N, C, H, W).
        t: timestep.

    Raises:
        ScheduleError: A network that gives the noise, where x_t is nothing else (zero SNR).

    Source: Salimans and Ho, arXiv 2202.00512 section 4 and appendix D, for v.
    """
    a_t = schedule.alpha_cumprod(t)
    if a_t == 0.0 and schedule.config.prediction_type == "epsilon":
        raise ScheduleError(
            f"timestep {t:g} holds nothing but noise (rescale_betas_zero_snr), so a network that predicts the noise "
            "(prediction_type epsilon) says nothing about the image there. Take the grid leading with fewer steps, "
            "which does not visit it."
        )
    return prediction_at(schedule.config, output, x_t, math.sqrt(a_t), math.sqrt(1.0 - a_t))


def prediction_at(
    config: ScheduleConfig, output: Tensor, x_t: Tensor, signal: float | Tensor, noise: float | Tensor
) -> Prediction:
    """The same with the factors of x_0 and of eps in x_t, which may have gradients; `signal` is not 0 for epsilon."""
    if config.prediction_type == "sample":
        return Prediction(output, (x_t - signal * output) / noise)
    if config.prediction_type == "v_prediction":
        return Prediction(signal * x_t - noise * output, signal * output + noise * x_t)
    return Prediction((x_t - noise * output) / signal, output)


def clipped(config: ScheduleConfig, pred_x0: Tensor) -> Tensor:
    """The clean latent as DDIM and DDPM take it: thresholded, or else clipped, where the configuration says so."""
    if config.clip_sample and not config.thresholding:
        return pred_x0.clamp(-config.clip_sample_range, config.clip_sample_range)
    return thresholded(config, pred_x0)


def thresholded(config: ScheduleConfig, pred_x0: Tensor) -> Tensor:
    """The clean latent as the solvers take it, which know no clipping.

    Each image is cut to the range that most of its numbers keep to, and where that exceeds 1 divided by it.

    Source: Imagen (arXiv 2205.11487) section 2.3; diffusers schedulers/scheduling_ddpm.py _threshold_sample.
    """
    if not config.thresholding:
        return pred_x0
    most = torch.quantile(pred_x0.abs().flatten(1), config.dynamic_thresholding_ratio, dim=1)
    most = most.clamp(min=1.0, max=config.sample_max_value).view(-1, 1, 1, 1)
    return torch.maximum(torch.minimum(pred_x0, most), -most) / most
