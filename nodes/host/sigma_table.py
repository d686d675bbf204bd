"""The host's sigma table of a model, without the rounding to whole timesteps."""

from __future__ import annotations

import comfy.model_sampling
import torch
from torch import Tensor

_WHOLE = 1e-3  # how near a whole timestep counts as that one, as in `Schedule.timestep`


class LDMModelSampling(comfy.model_sampling.ModelSamplingDiscrete):
    """As the host's own, with any table, and except that a sigma between two timesteps is given to the network as such.

    The host takes the nearest timestep, so that karras sigmas, for example, tell the network a noise level that the
    latent does not have. At the sigmas of the table nothing changes.

    Args:
        alphas_cumprod: (T,) float64, all above 0.
    """

    log_sigmas: Tensor  # the host registers it as a buffer: (T,) float32, rising

    def __init__(self, alphas_cumprod: Tensor) -> None:
        super().__init__()
        self.num_timesteps = len(alphas_cumprod)
        self.set_sigmas(((1 - alphas_cumprod) / alphas_cumprod) ** 0.5)

    def timestep(self, sigma: Tensor) -> Tensor:
        """Inverse of `sigma`, which interpolates the logarithm.

        Args:
            sigma: Noise levels of any shape; outside of the table the nearest end counts.

        Returns:
            float32 timesteps 0..T-1 of that shape, on its device.
        """
        table = self.log_sigmas
        log_sigma = sigma.detach().to(table.device, table.dtype).log().reshape(-1)
        above = torch.searchsorted(table, log_sigma).clamp(1, len(table) - 1)
        low, high = table[above - 1], table[above]
        t = above - 1 + ((log_sigma - low) / (high - low)).clamp(0.0, 1.0)
        nearest = t.round()
        return torch.where((t - nearest).abs() < _WHOLE, nearest, t).view(sigma.shape).to(sigma.device)


class _Eps(LDMModelSampling, comfy.model_sampling.EPS):
    """For networks that predict the noise."""


class _V(LDMModelSampling, comfy.model_sampling.V_PREDICTION):
    """For networks that predict v."""


class _X0(LDMModelSampling, comfy.model_sampling.EPS):
    """For networks that predict the clean latent; not every supported host has a class for them."""

    def calculate_denoised(self, sigma: Tensor, model_output: Tensor, model_input: Tensor) -> Tensor:
        """The clean latent: what the network gave."""
        return model_output


_KINDS = {"epsilon": _Eps, "v_prediction": _V, "sample": _X0}


def make_model_sampling(prediction_type: str, alphas_cumprod: Tensor) -> LDMModelSampling:
    """For networks of this `prediction_type`, with this table."""
    return _KINDS[prediction_type](alphas_cumprod)
