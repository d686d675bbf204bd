"""CUDA graphs: a capture records operators without doing them, a replay does them again in the same memory."""

from __future__ import annotations

import gc
from collections import Counter
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import Tensor

from .arguments import mapped, tensors
from .log import recorder
from .streams import DEFAULT, Stream, current_stream, synchronize, use_stream


@dataclass(frozen=True)
class _Step:
    """One operator on tensors of the CPU, and where its results belong."""

    func: Any
    args: Any
    kwargs: dict[str, Any]
    results: list[Tensor]

    def tensors(self) -> list[Tensor]:
        return tensors((self.args, tuple(self.kwargs.values())))

    def run(self) -> None:
        made = tensors(self.func(*self.args, **self.kwargs))
        for result, place in zip(made, self.results, strict=True):
            if result.data_ptr() != place.data_ptr():
                place.copy_(result)


class Capture:
    """Records the operators of a stream.

    They are computed, for the sake of their shapes; at the end all that they wrote is taken back: what was there before
    the capture has its old values, and what was made in it has none.

    Attributes:
        void: something was asked for that cannot be captured.
    """

    def __init__(self) -> None:
        self.void = False
        self.steps: list[_Step] = []
        self._made: list[Tensor] = []
        self._own: set[int] = set()  # addresses of memory that the capture allocated
        self._numbers: list[Tensor] = []
        self._before: dict[int, tuple[Tensor, Tensor]] = {}  # address -> memory from elsewhere, and what was in it

    def run(
        self, func: Any, args: Any, kwargs: dict[str, Any], written: tuple[tuple[int, str], ...], launches: bool
    ) -> Any:
        """Do an operator on tensors of the CPU.

        Args:
            func: the operator.
            args, kwargs: its arguments.
            written: place and name of the arguments that it writes to.
            launches: it runs a kernel; else it only makes views or takes memory.
        """
        args, kwargs = mapped(_alias, args), {name: mapped(_alias, kwargs[name]) for name in kwargs}
        for index, name in written:
            self._keep_overwritten(args[index] if index < len(args) else kwargs[name])
        given = {_address(tensor) for tensor in tensors((args, tuple(kwargs.values())))}
        made = func(*args, **kwargs)
        results = tensors(made)
        for result in results:
            if _address(result) not in given:
                self._own.add(_address(result))
                self._made.append(result)
        if launches:
            self.steps.append(_Step(func, args, kwargs, [result.detach() for result in results]))
        return made

    def number(self, tensor: Tensor) -> Tensor:
        """A lone number of the CPU as it is now: that is what each replay takes."""
        self._numbers.append(tensor.clone())
        self._own.add(_address(self._numbers[-1]))
        return self._numbers[-1]

    def _keep_overwritten(self, tensor: Tensor) -> None:
        address = _address(tensor)
        if address and address not in self._own and address not in self._before:
            whole = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())
            self._before[address] = (whole, whole.clone())

    def take_back(self) -> None:
        """At the end: nothing of it has happened."""
        for tensor in self._made:
            tensor.fill_(float("nan") if tensor.is_floating_point() else True if tensor.dtype == torch.bool else -1)
        for memory, old in self._before.values():
            memory.copy_(old)
        self._before.clear()

    def from_elsewhere(self) -> list[_Foreign]:
        """Memory that it uses and did not allocate."""
        held = Counter[int]()
        storages: dict[int, Any] = {}
        for step in self.steps:
            for tensor in (*step.tensors(), *step.results):
                address = _address(tensor)
                if address and address not in self._own:
                    held[address] += 1
                    storages.setdefault(address, tensor.untyped_storage())
        return [_Foreign(storage, held[address] + 1) for address, storage in storages.items()]


@dataclass(frozen=True)
class _Foreign:
    storage: Any
    held: int  # references that are the capture's

    def freed(self) -> bool:
        """Whether all others have let go of it: a card would have given it to somebody else."""
        return torch._C._storage_Use_Count(self.storage._cdata) <= self.held


class CUDAGraph:
    """`torch.cuda.CUDAGraph`."""

    def __init__(self) -> None:
        self._capture: Capture | None = None
        self._stream = DEFAULT
        self._foreign: list[_Foreign] = []

    def capture_begin(self, pool: Any = None, capture_error_mode: str = "global") -> None:
        """Record what this thread's stream is given from now on."""
        stream = current_stream()
        if stream is DEFAULT:
            raise RuntimeError("CUDA graphs must be captured on a non-default stream.")
        if self._capture is not None:
            raise RuntimeError("This CUDAGraph instance already owns a captured graph.")
        self._stream, self._capture = stream, Capture()
        stream.capture = self._capture

    def capture_end(self) -> None:
        """End that, and take back what it seemed to do."""
        capture, self._stream.capture = self._stream.capture, None
        if capture is None:
            raise RuntimeError("CUDA error: the stream is not being captured (pretended card)")
        with torch.inference_mode():
            capture.take_back()
        if capture.void:
            self._capture = None
            raise RuntimeError("CUDA error: operation failed due to a previous error during capture (pretended card)")
        self._foreign = capture.from_elsewhere()

    def replay(self) -> None:
        """Do it all again, in the same memory."""
        if self._capture is None or self._stream.capture is self._capture:
            raise RuntimeError("Called CUDAGraph::replay without a preceding successful capture.")
        if any(foreign.freed() for foreign in self._foreign):
            raise RuntimeError("the graph uses memory that was freed since its capture (pretended card)")
        recorder.note("launch", "CUDAGraph.replay")
        with torch.inference_mode():
            for step in self._capture.steps:
                step.run()

    def reset(self) -> None:
        """Let go of the graph and its memory."""
        self._capture = None
        self._foreign = []


class capture_graph:  # noqa: N801 - it stands for torch.cuda.graph
    """`torch.cuda.graph`: capture what is in the block."""

    def __init__(
        self, cuda_graph: CUDAGraph, pool: Any = None, stream: Stream | None = None, capture_error_mode: str = "global"
    ) -> None:
        self._graph, self._mode, self._block = cuda_graph, capture_error_mode, use_stream(stream or Stream())

    def __enter__(self) -> None:
        synchronize()
        gc.collect()
        torch.cuda.empty_cache()
        self._block.__enter__()
        self._graph.capture_begin(capture_error_mode=self._mode)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self._graph.capture_end()
        finally:
            self._block.__exit__(kind, error, trace)


def _alias(tensor: Tensor) -> Tensor:
    """A tensor under another that is the recording's, so that the owners of memory can be counted.

    Not an empty one: it may be a result, which the operator gives its size.
    """
    return tensor.detach() if tensor.numel() else tensor


def _address(tensor: Tensor) -> int:
    return tensor.untyped_storage().data_ptr()
