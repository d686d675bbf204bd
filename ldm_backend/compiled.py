"""torch.compile for a network, with a way back."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

logger = logging.getLogger(__name__)

Evaluation = Callable[[Any, Tensor, Tensor], Tensor]


class Compiled:
    """An evaluation that is compiled at its first call, and again for each new shape.

    In float32 on the CPU the convolutions stay as they are, being faster than what is made of them by compiling.
    torch keeps what it compiled in a folder of its own (TORCHINDUCTOR_CACHE_DIR), where the next process finds it. No
    CUDA graphs: they need weights that stay in their place, and a host may move them to the CPU and back.

    Args:
        evaluate: (network, x, t) to eps. A function, so that this object does not keep a network alive.
        layers: convolutions of the network, by their numbers, see `fast_conv.numbered`.
    """

    def __init__(self, evaluate: Evaluation, layers: Sequence[Any]) -> None:
        from .conv_operator import running  # only who compiles waits for the operator to be made

        self._plain = evaluate
        self._running, self._layers = running, layers
        self._compiled: Evaluation | None = torch.compile(evaluate, dynamic=False)

    def __call__(self, network: Any, x: Tensor, t: Tensor) -> Tensor:
        """As the evaluation; where compiling fails, for want of a C++ compiler for example, it is called as it is."""
        from torch._dynamo.exc import TorchDynamoException  # seconds to import, and there by now

        if self._compiled is not None:
            try:
                with self._running(self._layers):
                    return self._compiled(network, x, t)
            except TorchDynamoException as error:
                reason = str(error).strip().partition("\n")[0]
                logger.warning("torch.compile failed, so the network runs uncompiled: %s", reason)
                self._compiled = None
        return self._plain(network, x, t)
