"""Reuse of deep features between timesteps. Source: DeepCache (Ma et al., arXiv 2312.00858), section 3.2."""

from __future__ import annotations

from torch import Tensor

from .chunks import attempt
from .errors import InputError, TooLargeError
from .fp32 import fp32
from .unet import UNet


class DeepCache:
    """An `EpsModel` for one run that evaluates the whole UNet only at every `interval`-th call.

    The features that a UNet computes at its coarser levels change little between neighbouring timesteps. The calls in
    between compute the `depth` finest levels on the way down and up, and take what comes up to them from below from
    the last whole evaluation.

    An instance holds those features, so each run needs its own; the network is left as it is. The samplers call it
    once a step, but for plms, which calls it twice in its first step.

    Args:
        unet: the network.
        interval: 1 evaluates everything at each call, 2 at every second one, ...
        depth: 1 computes the finest level only: its resnets (and attentions, if any) down and up. Each more adds the
            next coarser level and the change of size between. The number of levels leaves out only the middle block.
    Raises: InputError: interval below 1, or depth outside 1..levels.
    """

    def __init__(self, unet: UNet, interval: int, depth: int = 1) -> None:
        levels = len(unet.config.block_out_channels)
        if interval < 1:
            raise InputError(f"cache_interval is {interval}; expected 1 (no cache) or more, for example 3.")
        if not 1 <= depth <= levels:
            raise InputError(
                f"cache_depth is {depth}, but this UNet has {levels} levels; set it to 1 (fastest) to {levels}."
            )
        self._unet, self._interval, self._depth = unet, interval, depth
        self._calls = 0
        self._deep: Tensor | None = None  # what `UNet.inner` last returned

    def __call__(self, x_t: Tensor, t: Tensor | float) -> Tensor:
        """Predict eps; arguments, shapes and errors are those of `UNet.forward`.

        Raises: InputError: the batch differs from that of the call before, so this is not the same run, or memory ran
            out: the features belong to the whole batch, so it cannot be taken in parts.
        """
        self._unet.check_input(x_t.shape)
        with fp32(self._unet.tf32):
            eps = attempt(lambda: self._evaluate(x_t, t))
        if eps is None:
            raise TooLargeError(
                f"UNet: out of memory with {len(x_t)} images at once. With a cache a batch is taken whole: make it "
                "smaller, or set cache_interval to 1."
            )
        return eps

    def _evaluate(self, x_t: Tensor, t: Tensor | float) -> Tensor:
        temb = self._unet.embed_timesteps(t, x_t)
        skips = self._unet.outer_down(x_t, temb, self._depth)
        if self._deep is None or self._calls % self._interval == 0:
            self._deep = self._unet.inner(skips[-1], temb, self._depth)
        if self._deep.shape[0] != x_t.shape[0] or self._deep.shape[2:] != skips[-1].shape[2:]:
            raise InputError(
                f"The latents have shape {tuple(x_t.shape)}, but the cached features belong to {self._deep.shape[0]} "
                "latents of another shape. Use a new DeepCache for each run."
            )
        self._calls += 1
        return self._unet.outer_up(self._deep, temb, skips, self._depth).to(x_t.dtype)
