"""The betas of the forward process by the names of diffusers, in float64. Imports only config."""

from __future__ import annotations

import torch
from torch import Tensor

from ..config.schedule import COSINE_OFFSET, ScheduleConfig, cosine_betas


def betas_of(config: ScheduleConfig) -> Tensor:
    """(T,) float64 betas, rescaled to zero terminal SNR where the configuration says so.

    Source: diffusers schedulers/scheduling_ddim.py:188-208, where they are float32.
    """
    if config.trained_betas is not None:
        betas = torch.tensor(config.trained_betas, dtype=torch.float64)
    else:
        betas = _NAMED[config.beta_schedule](config)
    return _with_zero_snr(betas) if config.rescale_betas_zero_snr else betas


def _linear(config: ScheduleConfig) -> Tensor:
    return torch.linspace(config.beta_start, config.beta_end, config.num_train_timesteps, dtype=torch.float64)


def _scaled_linear(config: ScheduleConfig) -> Tensor:
    """Linear in the square root, which CompVis and ComfyUI call "linear".

    Source: CompVis ldm/modules/diffusionmodules/util.py:21-26.
    """
    start, end = config.beta_start**0.5, config.beta_end**0.5
    return torch.linspace(start, end, config.num_train_timesteps, dtype=torch.float64) ** 2


def _squaredcos(config: ScheduleConfig) -> Tensor:
    return torch.tensor(cosine_betas(config.num_train_timesteps, COSINE_OFFSET), dtype=torch.float64)


def _with_zero_snr(betas: Tensor) -> Tensor:
    """The same betas, moved so that nothing of the image is left at the last timestep.

    Source: Lin et al., arXiv 2305.08891 algorithm 1.
    """
    roots = torch.cumprod(1.0 - betas, dim=0).sqrt()
    roots = (roots - roots[-1]) * roots[0] / (roots[0] - roots[-1])
    signal = roots**2
    return 1.0 - torch.cat([signal[:1], signal[1:] / signal[:-1]])


_NAMED = {"linear": _linear, "scaled_linear": _scaled_linear, "squaredcos_cap_v2": _squaredcos}
