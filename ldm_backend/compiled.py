"""torch.compile for a network, with a way back."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

Evaluation = Callable[[Any, Tensor, Tensor], Tensor]


class Compiled:
    """An evaluation that is compiled at its first call, and again for each new shape.

    Not in float32 on the CPU: there the layers of `fast_conv` are faster than what is made of them by compiling.
    torch keeps what it compiled in a folder of its own (TORCHINDUCTOR_CACHE_DIR), where the next process finds it. No
    CUDA graphs: they need weights that stay in their place, and a host may move them to the CPU and back.

    Args:
        evaluate: (network, x, t) to eps. A function, so that this object does not keep a network alive.
    """

    def __init__(self, evaluate: Evaluation) -> None:
        self._plain = evaluate

    @cached_property
    def _compiled(self) -> Evaluation:
        return torch.compile(self._plain, dynamic=False)  # imports its compiler, which takes seconds

    def __call__(self, network: Any, x: Tensor, t: Tensor) -> Tensor:
        """As the evaluation; where compiling fails, for want of a C++ compiler for example, it is called as it is."""
        if x.device.type == "cpu" and network.dtype == torch.float32:
            return self._plain(network, x, t)
        from torch._dynamo.exc import TorchDynamoException  # likewise

        try:
            return self._compiled(network, x, t)
        except TorchDynamoException as error:
            reason = str(error).strip().partition("\n")[0]
            logger.warning("torch.compile failed, so the network runs uncompiled: %s", reason)
            self._compiled = self._plain
            return self._plain(network, x, t)
