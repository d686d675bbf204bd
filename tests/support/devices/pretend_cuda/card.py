"""Puts the card into torch, and takes it out again."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

import torch
import torch._dynamo  # noqa: F401 - when it is first imported it keeps functions of torch, which must be torch's own
from torch import Tensor

from . import graphs, streams
from .host_memory import cudart, pinned, transfers
from .log import Log, recorder
from .tensors import CudaTensor, attention, copy, empty, empty_strided

MEMORY = 80 * 2**30  # bytes, all of them always free

_PROPERTIES = SimpleNamespace(
    name="Pretended card", major=9, minor=0, total_memory=MEMORY, multi_processor_count=132, warp_size=32,
    gcnArchName="", uuid="0",
)  # fmt: skip


def _constant(value: Any) -> Callable[..., Any]:
    return lambda *_, **__: value


def _query(name: str, value: Any, asks_the_driver: bool = False) -> Callable[..., Any]:
    """A question about memory; those that go to the driver are refused during a capture."""

    def ask(*_: Any, **__: Any) -> Any:
        if asks_the_driver:
            streams.refuse_in_capture(name)
        recorder.note("query", name)
        return value

    return ask


def _functions() -> dict[str, Any]:
    """What stands in torch.cuda while the card is there."""
    state = torch.zeros(16, dtype=torch.uint8)
    constants = {
        "is_available": True, "is_initialized": True, "device_count": 1, "current_device": 0, "_lazy_init": None,
        "get_device_properties": _PROPERTIES, "get_device_name": _PROPERTIES.name, "get_device_capability": (9, 0),
        "get_allocator_backend": "native", "is_bf16_supported": True, "ipc_collect": None, "manual_seed": None,
        "manual_seed_all": None, "get_rng_state": state, "get_rng_state_all": [state], "set_rng_state": None,
        "set_rng_state_all": None, "set_device": None, "device": nullcontext(),
    }  # fmt: skip
    queries = {name: _query(name, 0) for name in ("memory_allocated", "memory_reserved", "max_memory_allocated")}
    return {name: _constant(value) for name, value in constants.items()} | queries | {
        "mem_get_info": _query("mem_get_info", (MEMORY, MEMORY), asks_the_driver=True),
        "empty_cache": _query("empty_cache", None, asks_the_driver=True),
        "memory_stats": _query("memory_stats", {"active_bytes.all.current": 0, "reserved_bytes.all.current": 0}),
        "synchronize": streams.synchronize,
        "cudart": cudart,
        "Stream": streams.Stream,
        "Event": streams.Event,
        "stream": streams.use_stream,
        "current_stream": streams.current_stream,
        "default_stream": streams.default_stream,
        "CUDAGraph": graphs.CUDAGraph,
        "graph": graphs.capture_graph,
        "is_current_stream_capturing": streams.is_capturing,
    }  # fmt: skip


def _pinning(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A function that makes tensors, which may be asked for pinned ones."""

    @functools.wraps(make)
    def made(*args: Any, pin_memory: bool = False, **kwargs: Any) -> Tensor:
        tensor = make(*args, **kwargs)
        return pinned.pin(tensor) if pin_memory else tensor

    return made


def _is_pinned(tensor: Tensor, _device: Any = None) -> bool:
    return tensor.device.type == "cpu" and pinned.holds(tensor)


def _pin_memory(tensor: Tensor, _device: Any = None) -> Tensor:
    return tensor if _is_pinned(tensor) else pinned.pin(tensor.clone())


def _compatible(check: Callable[[Tensor, Tensor], bool]) -> Callable[[Tensor, Tensor], bool]:
    """Modules move by new parameters: a tensor of torch's own cannot become one of ours in its place."""
    return lambda one, other: (
        not isinstance(one, CudaTensor) and not isinstance(other, CudaTensor) and check(one, other)
    )


@contextmanager
def pretend_card(log: Log | None = None) -> Iterator[Log]:
    """Until the end of the block torch has one card, "cuda:0", in all threads.

    What was put on the card is lost with it. Two things of torch's cannot be taken back, and need not be: it keeps a
    guard of the current device that does nothing, and its mark that CUDA was initialised.

    Args:
        log: one of another class, to hear of things as they happen.
    """
    if recorder.log is not None:
        raise RuntimeError("There is a pretended card already.")
    recorder.log = log or Log()
    with ExitStack() as stack:
        stack.callback(setattr, recorder, "log", None)
        stack.callback(pinned.clear)
        stack.callback(transfers.finish)
        for name, function in _functions().items():
            stack.enter_context(patch.object(torch.cuda, name, function))
        for name in ("empty", "empty_like", "zeros"):
            stack.enter_context(patch.object(torch, name, _pinning(getattr(torch, name))))
        for name, method in (("is_pinned", _is_pinned), ("pin_memory", _pin_memory)):
            stack.enter_context(patch.object(Tensor, name, method))
        compatible = _compatible(torch._has_compatible_shallow_copy_type)  # pyright: ignore[reportPrivateImportUsage]
        stack.enter_context(patch.object(torch, "_has_compatible_shallow_copy_type", compatible))
        stack.enter_context(patch.object(torch.version, "cuda", torch.version.cuda or "13.0"))
        _register(stack)
        yield recorder.log


def _register(stack: ExitStack) -> None:
    """Give torch's dispatcher, which all threads share, what makes new tensors on the card."""
    torch._C._ensureCUDADeviceGuardSet()
    kernels = {
        "empty.memory_format": (empty, "CUDA"),
        "empty_strided": (empty_strided, "CUDA"),
        "copy_": (copy, "CUDA"),
        "scaled_dot_product_attention": (attention, "AutogradCUDA"),
    }
    library = torch.library.Library("aten", "IMPL")
    stack.callback(library._destroy)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # it overrides the real card's, as it means to
        for name, (function, key) in kernels.items():
            library.impl(name, function, key)
