"""Evaluations recorded as CUDA graphs: the card is told once what to do, and repeats it at a word.

A small batch keeps a card busy for less time than Python takes to launch its hundreds of kernels. A graph launches all
of them at once. It needs no compiler. The numbers are those of the evaluation that was recorded, bit for bit.

torch.compile has a mode with graphs of its own ("reduce-overhead"); it insists on one thread, and a host runs its
prompts in several.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

logger = logging.getLogger("comfyui_ldm")

# Cells of latents, all recorded shapes together: 16 images of 64x64. Above, the card is busy longer than the launches
# take (one evaluation of one image is 202 GFLOP), and a graph holds on to the memory of all that it computes.
MAX_CELLS = 16 * 64 * 64

Outputs = Tensor | tuple[Tensor, ...]


@dataclass(frozen=True)
class _Recorded:
    """A graph, and the memory that it reads and writes."""

    graph: torch.cuda.CUDAGraph
    inputs: tuple[Tensor, ...]
    outputs: Outputs
    cells: int


class CudaGraphs:
    """The recorded evaluations of one network, for the time of one run.

    The first call of a kind is made as it is, which also lets the libraries choose their kernels and torch.compile
    translate; the second is recorded; all others repeat that. Where recording fails, the calls are made as they are.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()  # a graph's memory is written, run and read by one caller after the other
        self._weights: Hashable = None
        self._forget()

    def __reduce__(self) -> tuple[type[CudaGraphs], tuple[()]]:
        """Copied and pickled as what has recorded nothing."""
        return CudaGraphs, ()

    def clear(self) -> None:
        """Forget everything, and free its memory."""
        with self._lock:
            self._forget()

    def _forget(self) -> None:
        self._recorded: dict[Hashable, _Recorded] = {}
        self._called: set[Hashable] = set()
        self._failing = False

    def __call__(self, evaluate: Callable[..., Outputs], network: Any, weights: Hashable, *inputs: Tensor) -> Outputs:
        """What `evaluate(network, *inputs)` returns.

        Args:
            evaluate: Reads tensors and returns tensors, and does nothing else; with other inputs of the same shapes it
                launches the same kernels. The same object at each call.
            network: First argument; part of what is recorded.
            weights: Stands for all memory that `evaluate` reads beside the inputs; when this changes, all graphs are
                void.
            inputs: (N, ...) on one card, latents first.
        """
        with self._lock:
            if weights != self._weights:
                self._forget()
                self._weights = weights
            key = _key(evaluate, inputs)
            recorded = self._recorded.get(key) or self._record(key, evaluate, network, inputs)
            if recorded is not None:
                return _repeated(recorded, inputs)
        return evaluate(network, *inputs)

    def _record(
        self, key: Hashable, evaluate: Callable[..., Outputs], network: Any, inputs: tuple[Tensor, ...]
    ) -> _Recorded | None:
        """Record the second call of a kind, where there is room for it."""
        cells = len(inputs[0]) * math.prod(inputs[0].shape[2:])
        full = cells + sum(other.cells for other in self._recorded.values()) > MAX_CELLS
        if key not in self._called or full or self._failing or torch.cuda.is_current_stream_capturing():
            self._called.add(key)
            return None
        device = inputs[0].device
        back = torch.cuda.stream(torch.cuda.current_stream(device))  # a recording that fails leaves its own stream
        graph, memory = torch.cuda.CUDAGraph(), tuple(x.clone() for x in inputs)
        try:
            # Only what this thread does counts: others may ask the card for its free memory meanwhile.
            with (
                torch.cuda.device(device),
                back,
                torch.cuda.graph(graph, stream=torch.cuda.Stream(device), capture_error_mode="thread_local"),
            ):
                outputs = evaluate(network, *memory)
        except RuntimeError as error:  # torch has no class of its own for what cannot be recorded
            reason = str(error).strip().partition("\n")[0]
            logger.warning("This run could not be recorded as a CUDA graph, and goes on without: %s", reason)
            self._failing = True
            return None
        self._recorded[key] = _Recorded(graph, memory, outputs, cells)
        return self._recorded[key]


def _key(evaluate: Callable[..., Outputs], inputs: tuple[Tensor, ...]) -> Hashable:
    """All that decides which kernels are launched, and where."""
    return (
        evaluate,
        threading.get_ident(),  # cuDNN remembers what it chose per thread
        torch.cuda.current_stream(inputs[0].device),
        torch.is_inference_mode_enabled(),  # tensors that were made within must not be written to without
        torch.is_autocast_enabled("cuda"),
        *((x.shape, x.dtype, x.device) for x in inputs),
    )


def _repeated(recorded: _Recorded, inputs: tuple[Tensor, ...]) -> Outputs:
    """What the graph makes of other inputs, in memory of its own."""
    for place, x in zip(recorded.inputs, inputs, strict=True):
        place.copy_(x)
    recorded.graph.replay()
    if isinstance(recorded.outputs, Tensor):
        return recorded.outputs.clone()
    return tuple(output.clone() for output in recorded.outputs)
