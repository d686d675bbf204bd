"""What float32 means while a network of ours runs: IEEE float32, or with TF32 where that was asked for.

By default torch lets cuDNN round the inputs of float32 convolutions to 10 bits (TF32) on cards that can, and a host may
have allowed the same, or bfloat16, for matrix products, on the CPU too. Pictures and codes would differ by that.

torch's settings belong to the whole process; there are none of a thread. So they are changed while one of our blocks
runs and put back after the last one, to the bit, also when an exception ends it. What other threads compute meanwhile
follows our settings: at most slower, never less exact than they asked for, but in a `tf32` block. What another thread
sets meanwhile is lost when the last block ends.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import wraps
from types import TracebackType
from typing import Any, ParamSpec, TypeVar

import torch

# (backend, operator) as torch's own setters know them. An operator that is "none" takes that of its backend's "all",
# which takes the generic one; so a reader is told what holds and not what was set. "rnn" only because the old flag
# stands for both and refuses to be read while they differ.
_GENERIC = ("generic", "all")
_BACKENDS = (("cuda", "all"), ("mkldnn", "all"))
_OPERATORS = (("cuda", "conv"), ("cuda", "rnn"), ("cuda", "matmul"), ("mkldnn", "conv"), ("mkldnn", "matmul"))
_NONE, _IEEE, _TF32 = "none", "ieee", "tf32"

# Not torch.backends, whose attributes for these differ between versions, and are frozen in torch's own tests.
_torch: Any = torch._C
_HAS_OPERATORS = hasattr(_torch, "_get_fp32_precision_getter")  # since 2.9

_Key = tuple[str, str]
_P = ParamSpec("_P")
_R = TypeVar("_R")


@dataclass(frozen=True)
class _Settings:
    """All that decides on float32.

    Attributes:
        convolutions: The old flag of cuDNN.
        products: The old word for matrix products, "highest", "high" or "medium".
        operators: What was set for each backend and operator; empty before torch 2.9.
    """

    convolutions: bool
    products: str
    operators: dict[_Key, str]


class _Arithmetic:
    """A block in which float32 is of one kind. Reentrant; one object may be used by many threads."""

    _lock = threading.Lock()
    _open = {_IEEE: 0, _TF32: 0}  # blocks of all threads
    _kind = ""  # that holds now; empty where no block is open
    _before: _Settings | None = None

    def __init__(self, kind: str) -> None:
        self._asked = kind

    def __enter__(self) -> None:
        with _Arithmetic._lock:
            if not _Arithmetic._kind:
                _Arithmetic._before = _taken()
            _Arithmetic._open[self._asked] += 1
            _Arithmetic._settle()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with _Arithmetic._lock:
            _Arithmetic._open[self._asked] -= 1
            _Arithmetic._settle()

    @classmethod
    def _settle(cls) -> None:
        """Set what the open blocks ask for: the exact kind if any does."""
        kind = _IEEE if cls._open[_IEEE] else _TF32 if cls._open[_TF32] else ""
        if kind == cls._kind:
            return
        if kind:
            _allow_tf32(kind == _TF32)
        elif cls._before is not None:
            _put_back(cls._before)
        cls._kind = kind


_ieee, _tf32 = _Arithmetic(_IEEE), _Arithmetic(_TF32)


def fp32(tf32: bool = False) -> AbstractContextManager[None]:
    """A block in which float32 convolutions and matrix products are IEEE float32.

    Blocks of several threads, or one within another, add up: as long as one of them is exact, all are. Code that
    torch.compile translates is left alone: enter the block outside.

    Args:
        tf32: Let cards compute them in TF32 instead; what the CPU does stays exact.
    """
    if torch.compiler.is_compiling():
        return nullcontext()
    return _tf32 if tf32 else _ieee


def in_fp32(function: Callable[_P, _R]) -> Callable[_P, _R]:
    """`function`, run in a block of IEEE float32."""

    @wraps(function)
    def run(*args: _P.args, **kwargs: _P.kwargs) -> _R:
        with fp32():
            return function(*args, **kwargs)

    return run


def _taken() -> _Settings:
    """What is set now. Afterwards some of it is exact already."""
    operators = _operators_laid_open() if _HAS_OPERATORS else {}
    convolutions, products = _told(_torch._get_cudnn_allow_tf32), _told(torch.get_float32_matmul_precision)
    if convolutions is None or products is None:
        # The old settings are refused where the new ones contradict them: for products where these allow more, so not
        # now; for convolutions where they differ, so that a flag which is still refused allows TF32.
        for key in (*_BACKENDS, *_OPERATORS):
            _set(key, _IEEE)
        convolutions = convolutions or _told(_torch._get_cudnn_allow_tf32) is not False
        products = torch.get_float32_matmul_precision()
    return _Settings(convolutions, products, operators)


def _told(read: Callable[[], _R]) -> _R | None:
    """What an old setting says; None where torch refuses to tell."""
    try:
        return read()
    except RuntimeError:
        return None


def _operators_laid_open() -> dict[_Key, str]:
    """What was set for each backend and operator, not what it inherits: each is read while nothing is above it.

    For the moment of reading, others compute more exactly than they asked for.
    """
    generic = _get(_GENERIC)
    if generic != _NONE:
        _set(_GENERIC, _NONE)
    found = {key: _get(key) for key in _BACKENDS}
    for key, value in found.items():
        if value != _NONE:
            _set(key, _NONE)
    found |= {key: _get(key) for key in _OPERATORS}
    if generic != _NONE:
        for key in _BACKENDS:
            _set(key, _IEEE)  # before the generic one is back, for it would reach down
        _set(_GENERIC, generic)
    return found


def _allow_tf32(allowed: bool) -> None:
    """Set everything to one kind, the old settings too, so that whoever reads those is told and not refused."""
    torch.set_float32_matmul_precision("high" if allowed else "highest")
    _torch._set_cudnn_allow_tf32(allowed)
    if _HAS_OPERATORS:
        kinds = {"cuda": _TF32 if allowed else _IEEE, "mkldnn": _IEEE}
        for key in (*_BACKENDS, *_OPERATORS):
            _set(key, kinds[key[0]])


def _put_back(settings: _Settings) -> None:
    torch.set_float32_matmul_precision(settings.products)
    _torch._set_cudnn_allow_tf32(settings.convolutions)
    for key, value in settings.operators.items():  # what the old settings have set of these is theirs again
        _set(key, value)


def _get(key: _Key) -> str:
    return _torch._get_fp32_precision_getter(*key)


def _set(key: _Key, value: str) -> None:
    _torch._set_fp32_precision_setter(*key, value)
