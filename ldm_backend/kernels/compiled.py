"""torch.compile for a network, with a way back."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

logger = logging.getLogger("comfyui_ldm")

Evaluation = Callable[..., Tensor]  # of a network and its inputs, latents first


# Shapes that one network is compiled for: a batch of 64 in parts has two, a user who tries sizes a dozen. Each costs
# minutes at most and some memory.
MAX_SHAPES = 32

# torch counts over all networks of the process, and stops at 8 without an error.
_LIMITS: dict[str, Any] = {"cache_size_limit": 4096, "accumulated_cache_size_limit": 4096}


class Compiled:
    """An evaluation that is compiled at its first call, and again for each new shape.

    Not in float32 on the CPU: there the layers of `fast_conv` are faster than what is made of them by compiling. Nor
    where a gradient is taken: that would be compiled once more, and the way back too.
    torch keeps what it compiled in a folder of its own (TORCHINDUCTOR_CACHE_DIR), where the next process finds it. On
    cards the kernels are chosen by trying them out, and weights are laid out as these read them. Launching them as one
    graph is left to `cuda_graphs`.

    Args:
        evaluate: (network, x, t, and the context where there is one) to eps. A function, so that this object does not
            keep a network alive.
    """

    def __init__(self, evaluate: Evaluation) -> None:
        self._plain = evaluate
        self._shapes: set[tuple[Any, ...]] = set()
        self._refused: set[torch.Size] = set()
        self._given_up = False

    def __call__(self, network: Any, x: Tensor, *others: Tensor) -> Tensor:
        """As the evaluation; where compiling fails, for want of a C++ compiler for example, it is called as it is."""
        if self._given_up or not self._wanted(network, x, others):
            return self._plain(network, x, *others)
        import torch._dynamo.config as dynamo  # takes seconds
        from torch._dynamo.exc import TorchDynamoException

        on_card = x.device.type == "cuda"
        if on_card:
            _lay_channels_last(network, x.device)
        try:
            with dynamo.patch(_LIMITS):
                return _compiled(self._plain, on_card)(network, x, *others)
        except TorchDynamoException as error:
            reason = str(error).strip().partition("\n")[0]
            logger.warning("torch.compile failed, so the network runs uncompiled: %s", reason)
            self._given_up = True
            return self._plain(network, x, *others)

    def _wanted(self, network: Any, x: Tensor, others: tuple[Tensor, ...]) -> bool:
        if (x.device.type == "cpu" and network.dtype == torch.float32) or (torch.is_grad_enabled() and x.requires_grad):
            return False
        shape = (x.shape, x.dtype, x.device, *(other.shape for other in others))
        if shape in self._shapes:
            return True
        if len(self._shapes) == MAX_SHAPES:
            if x.shape in self._refused:
                return False
            self._refused.add(x.shape)
            logger.warning(
                "The network has been compiled for %d shapes of latents. For a batch of shape %s it runs uncompiled: "
                "the same picture, more slowly. Load the checkpoint again to compile for other shapes.",
                MAX_SHAPES, tuple(x.shape),
            )  # fmt: skip
            return False
        self._shapes.add(shape)
        return True


@cache
def _compiled(evaluate: Evaluation, on_card: bool) -> Evaluation:
    """The evaluation translated; one for all networks, as torch keeps it."""
    mode = "max-autotune-no-cudagraphs" if on_card else "default"
    return torch.compile(evaluate, dynamic=False, mode=mode)


def _lay_channels_last(network: nn.Module, device: torch.device) -> None:
    """Have the kernels of convolutions in memory as compiled code reads them, or it turns them in every evaluation.

    Not those that a host keeps elsewhere, perhaps pinned or mapped from a file, and hands over at each call.
    """
    with torch.inference_mode(False):
        for layer in network.modules():
            weight = layer._parameters.get("weight")
            if weight is None or weight.ndim != 4 or weight.device != device:
                continue
            if not weight.is_contiguous(memory_format=torch.channels_last):
                weight.data = weight.data.contiguous(memory_format=torch.channels_last)
