"""Between latents and pictures, as a projection needs it: a picture now, and later the change of the latent."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, interpolate

from ..memory.chunks import Chunks
from ..memory.estimates import encoder_bytes
from ..networks.decoding import decoded, most_at_once
from ..networks.first_stage import FirstStage
from ..networks.vq import VQModel
from ..views.images import as_channels
from ..views.latent_rgb import fit_latent_rgb


class NetworkCodec:
    """The first stage itself.

    Args:
        first_stage: Of the model.
        device: To work on.
    """

    def __init__(self, first_stage: FirstStage, device: torch.device) -> None:
        self._first_stage, self._device = first_stage, device
        self._decoder, self._encoder = Chunks("Decoder"), Chunks("Encoder")

    def picture(self, z: Tensor) -> Tensor:
        """(N, C, H, W) in about [-1, 1], quantised where the first stage does so."""
        parts = decoded(self._first_stage, z, self._device, self._decoder, at_most=1)
        return torch.cat([images for _, images in parts])

    def change(self, before: Tensor, after: Tensor) -> Tensor:
        """The difference of the encodings of two pictures.

        Not the encoding of the second alone: what the first stage loses on the way through decoder and encoder would
        be lost at each step again, and in the difference it falls out.
        """
        return self._encoded(after) - self._encoded(before)

    def _encoded(self, x: Tensor) -> Tensor:
        config, itemsize = self._first_stage.config, self._first_stage.dtype.itemsize
        return self._encoder.whole(
            lambda part: self._first_stage.encode(x[part]),
            x.shape,
            self._device,
            lambda n: encoder_bytes(config, n, x.shape[2], x.shape[3], itemsize),
            most_at_once(self._device, elsewhere=1),
        )


class LinearCodec:
    """The linear colours of the previews: one for each latent cell, from no network.

    Args:
        first_stage: Whose colours are fitted, by one small decode.
    """

    def __init__(self, first_stage: FirstStage) -> None:
        fitted = fit_latent_rgb(first_stage)
        self._weight = torch.tensor(fitted.weight, dtype=torch.float64)  # (C, 3)
        self._bias = torch.tensor(fitted.bias, dtype=torch.float64)
        self._inverse = torch.linalg.pinv(self._weight)
        self._config = first_stage.config

    def picture(self, z: Tensor) -> Tensor:
        """(N, C, H, W) of flat squares."""
        colours = torch.einsum("nchw,ck->nkhw", z, self._weight.to(z)) + self._bias.to(z)[:, None, None]
        whole = interpolate(colours, scale_factor=self._config.downscale, mode="nearest")
        return as_channels(whole, self._config.out_channels)

    def change(self, before: Tensor, after: Tensor) -> Tensor:
        """The smallest change of the latents that changes the mean colour of each cell as much."""
        colours = avg_pool2d(as_channels(after - before, 3), self._config.downscale)
        return torch.einsum("nkhw,kc->nchw", colours, self._inverse.to(colours))


def smooth_picture(first_stage: FirstStage, z: Tensor) -> Tensor:
    """The picture of latents as a function that has a gradient.

    A codebook is left out: the nearest code is a step function, whose gradient is zero wherever it has one.

    Args:
        first_stage: Of the model.
        z: (N, C, h, w) latents.

    Returns:
        (N, C, H, W) in about [-1, 1].
    """
    return first_stage.decode(z, quantize=False) if isinstance(first_stage, VQModel) else first_stage.decode(z)
