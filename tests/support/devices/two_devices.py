"""A second device without hardware: tensors that compute on the CPU, say that they are elsewhere, and refuse to mix.

`with second_device():`, `x.to(ELSEWHERE)` and whatever is made from it lie on the second device; an operation that
finds tensors of both raises as one does with a card, but for copies and for single numbers. It borrows the name of
torch's device "meta", which every torch has and nothing else here uses within the block.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

ELSEWHERE = torch.device("meta")
_COPIES = ("aten::_to_copy", "aten::copy_")


class _Elsewhere(Tensor):
    """A tensor on the second device, around the one on the CPU that has its values."""

    values: Tensor  # pyright: ignore[reportIncompatibleMethodOverride] - torch's is for sparse tensors

    @staticmethod
    def __new__(cls, values: Tensor) -> _Elsewhere:
        shape: dict[str, Any] = {"strides": values.stride(), "storage_offset": values.storage_offset()}
        made = Tensor._make_wrapper_subclass(cls, values.size(), **shape, dtype=values.dtype, device=ELSEWHERE)
        made.values = values
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Mode(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})


class _Numbers(TorchFunctionMode):
    """Makes tensors of Python's numbers on the CPU and moves them: on "meta" torch would leave the numbers out."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is Tensor.new_tensor:
            return torch.tensor(args[1], dtype=kwargs.get("dtype", args[0].dtype)).to(args[0].device)
        if func in (torch.tensor, torch.as_tensor) and not isinstance(args[0], Tensor):
            return func(*args, **kwargs | {"device": None}).to(kwargs.get("device") or "cpu")
        return func(*args, **kwargs)


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    far = [tensor for tensor in tensors if isinstance(tensor, _Elsewhere)]
    near = [tensor for tensor in tensors if not isinstance(tensor, _Elsewhere) and tensor.ndim]
    name = func._schema.name
    if far and near and name not in _COPIES:
        raise RuntimeError(f"Expected all tensors to be on the same device: {name} found tensors of both.")
    asked = kwargs.get("device")
    to_far = bool(far) if asked is None else torch.device(asked) == ELSEWHERE
    if asked is not None:
        kwargs = kwargs | {"device": torch.device("cpu")}
    plain_args, plain = tree_map(lambda leaf: leaf.values if isinstance(leaf, _Elsewhere) else leaf, (args, kwargs))
    made = func(*plain_args, **plain)
    if name == "aten::copy_" or (name.endswith("_") and not name.startswith("aten::_")):
        return args[0]
    return tree_map(lambda leaf: _Elsewhere(leaf) if to_far and isinstance(leaf, Tensor) else leaf, made)


@contextmanager
def second_device() -> Iterator[None]:
    """Until the end of the block there are two devices."""
    with _Numbers(), _Mode():
        yield


def _handing_over(base: type[nn.Module]) -> type[nn.Module]:
    """A layer that calls its base with copies of its weights on the device of what it is called with."""

    def forward(self: nn.Module, x: Tensor) -> Tensor:
        weights = {name: weight.to(x.device) for name, weight in self.named_parameters()}
        kept = {name: self._parameters[name] for name in weights}
        try:
            self._parameters.update(weights)  # pyright: ignore[reportArgumentType, reportCallIssue] - no leaves, as torch wants them
            return base.forward(self, x)
        finally:
            self._parameters.update(kept)  # pyright: ignore[reportArgumentType, reportCallIssue]

    return type(base.__name__, (base,), {"forward": forward})


HANDING_OVER = SimpleNamespace(
    **{base.__name__: _handing_over(base) for base in (nn.Conv2d, nn.Linear, nn.GroupNorm, nn.Embedding)}
)
"""`operations` like those of a host that keeps weights on the CPU and hands them over at each call (`--novram`)."""
