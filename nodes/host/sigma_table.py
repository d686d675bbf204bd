"""The host's sigma table of a model, without the rounding to whole timesteps."""

from __future__ import annotations

import comfy.model_sampling
import torch
from torch import Tensor

_WHOLE = 1e-3  # how near a whole timestep counts as that one, as in `Schedule.timestep`


class LDMModelSampling(comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.EPS):
    """As the host's own for eps models, except that a sigma between two timesteps is given to the network as such.

    The host takes the nearest timestep, so that karras sigmas, for example, tell the network a noise level that the
    latent does not have. At the sigmas of the table nothing changes.
    """

    log_sigmas: Tensor  # the host registers it as a buffer: (T,) float32, rising

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
