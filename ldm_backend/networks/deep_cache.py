"""Reuse of deep features between timesteps. Source: DeepCache (Ma et al., arXiv 2312.00858), section 3.2."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from ..errors import InputError, TooLargeError
from ..memory.chunks import attempt
from .unet import UNet, one_per_image


class DeepCache:
    """A `Denoiser` for one run that evaluates the whole UNet only at every `interval`-th call.

    The features that a UNet computes at its coarser levels change little between neighbouring timesteps. The calls in
    between compute the `depth` finest levels on the way down and up, and take what comes up to them from below from
    the last whole evaluation.

    An instance holds those features, so each run needs its own; the network is left as it is. The samplers call it
    once a step, but for plms, which calls it twice in its first step.

    Args:
        unet: The network.
        interval: 1 evaluates everything at each call, 2 at every second one, ...
        depth: 1 computes the finest level only: its resnets (and attentions, if any) down and up. Each more adds the
            next coarser level and the change of size between. The number of levels leaves out only the middle block.

    Raises:
        InputError: Interval below 1, depth outside 1..levels, or a UNet that attends to a context.
    """

    def __init__(self, unet: UNet, interval: int, depth: int = 1) -> None:
        unet.check_context(None, 1)
        levels = len(unet.config.block_out_channels)
        if interval < 1:
            raise InputError(f"cache_interval is {interval}; expected 1 (no cache) or more, for example 3.")
        if not 1 <= depth <= levels:
            raise InputError(
                f"cache_depth is {depth}, but this UNet has {levels} levels; set it to 1 (fastest) to {levels}."
            )
        self._unet, self._interval = unet, interval
        self._whole, self._outside = partial(UNet.whole, depth=depth), partial(UNet.outside, depth=depth)
        self._calls = 0
        self._deep: Tensor | None = None  # what `UNet.inner` last returned
        self._shape: torch.Size | None = None  # of the latents that it belongs to

    def __call__(self, x_t: Tensor, t: Tensor | float) -> Tensor:
        """Predict eps; arguments, shapes and errors are those of `UNet.forward`.

        Raises:
            InputError: The batch differs from that of the call before, so this is not the same run, or memory ran out:
                the features belong to the whole batch, so it cannot be taken in parts.
        """
        self._unet.check_input(x_t.shape)
        if self._shape not in (None, x_t.shape):
            raise InputError(
                f"The latents have shape {tuple(x_t.shape)}, but the cached features belong to latents of shape "
                f"{tuple(self._shape)}. Use a new DeepCache for each run."
            )
        eps = attempt(lambda: self._evaluate(x_t, one_per_image(t, x_t)))
        if eps is None:
            raise TooLargeError(
                f"UNet: out of memory with {len(x_t)} images at once. With a cache a batch is taken whole: make it "
                "smaller, or set cache_interval to 1."
            )
        self._shape = x_t.shape
        self._calls += 1
        return eps

    def _evaluate(self, x_t: Tensor, t: Tensor) -> Tensor:
        if self._deep is None or self._calls % self._interval == 0:
            eps, self._deep = self._unet.run(self._whole, x_t, t)
            return eps
        return self._unet.run(self._outside, x_t, t, self._deep)
