"""The tensors among an operator's arguments and results, which may stand in lists and tuples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor


def mapped(change: Callable[[Tensor], Tensor], value: Any) -> Any:
    """The same with other tensors."""
    if isinstance(value, Tensor):
        return change(value)
    if type(value) in (list, tuple):
        return type(value)(mapped(change, part) for part in value)
    return value


def tensors(value: Any) -> list[Tensor]:
    """All of them, in order."""
    if isinstance(value, Tensor):
        return [value]
    return [tensor for part in value for tensor in tensors(part)] if type(value) in (list, tuple) else []
