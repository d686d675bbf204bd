"""Tensors of the pretended card, and what happens when an operator meets them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any, NoReturn

import torch
from torch import Tensor

from .arguments import mapped, tensors
from .host_memory import pinned, transfers
from .log import Copy, recorder, where
from .streams import current_stream, refuse_in_capture, wait

_COMPOSED = torch._C.DispatchKey.CompositeImplicitAutograd
_COPY = torch.ops.aten.copy_.default
DEVICE = torch.device("cuda", 0)

_ATTENTION = "scaled_dot_product_attention"  # one kernel on a card, though torch could take it apart
# Operators that take memory and do not write to it. All others but views launch a kernel.
_ALLOCATIONS = {"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided"}
_VIEWS = {"_unsafe_view", "_reshape_alias", "lift_fresh", "detach_", "set_"}
_NO_KERNEL = _ALLOCATIONS | _VIEWS | {"_local_scalar_dense"}
# Those that take a lone number of the CPU, beside the pointwise ones.
_TAKE_NUMBERS = {"fill_", "masked_fill", "masked_fill_", "index_put", "index_put_", "_index_put_impl_"}
_INDEX = {"index", "index_put", "index_put_", "_index_put_impl_"}
# Those whose kernels want a single format.
_ONE_FORMAT = {"mm", "addmm", "bmm", "baddbmm", "convolution", "native_group_norm", "native_layer_norm", _ATTENTION}


class CudaTensor(Tensor):
    """A tensor on the pretended card, around the one on the CPU that has its values."""

    held: Tensor
    # What is copied to the CPU is a plain tensor.
    __torch_function__ = torch._C._disabled_torch_function_impl  # pyright: ignore[reportAssignmentType]

    @staticmethod
    def __new__(cls, held: Tensor) -> CudaTensor:
        shape: dict[str, Any] = {"strides": held.stride(), "storage_offset": held.storage_offset()}
        made = Tensor._make_wrapper_subclass(cls, held.size(), **shape, dtype=held.dtype, device=DEVICE)
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return run(func, args, kwargs or {})

    def __repr__(self, **_: Any) -> str:  # pyright: ignore[reportIncompatibleMethodOverride]
        return f"CudaTensor({self.held!r})"

    def data_ptr(self) -> int:
        return self.held.data_ptr()

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def numpy(self, *_: Any, **__: Any) -> NoReturn:  # pyright: ignore[reportIncompatibleMethodOverride]
        raise TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first. (pretended card)")

    def record_stream(self, stream: Any) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Nothing is freed early here."""


@dataclass(frozen=True)
class _Kind:
    """What is known of an operator before it meets tensors; torch takes its time to tell."""

    name: str
    composed: bool  # of others, which torch has not taken apart in inference mode
    written: tuple[tuple[int, str], ...]  # place and name of the arguments that it writes to
    launches: bool
    waits: bool  # the CPU must know values before it can go on
    takes_numbers: bool  # of the CPU


@cache
def _kind(func: Any) -> _Kind:
    schema, tags = func._schema, set(func.tags)
    name = schema.name.removeprefix("aten::")
    in_place_view = torch.Tag.inplace_view in tags
    return _Kind(
        name=name,
        composed=name != _ATTENTION and torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), _COMPOSED.name),
        written=tuple(
            (index, argument.name)
            for index, argument in enumerate(schema.arguments)
            if argument.alias_info is not None and argument.alias_info.is_write
        ),
        launches=not (func.is_view or in_place_view or name in _NO_KERNEL),
        waits=bool({torch.Tag.data_dependent_output, torch.Tag.dynamic_output_shape} & tags) and name not in _INDEX,
        takes_numbers=torch.Tag.pointwise in tags or name in _TAKE_NUMBERS,
    )


def run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Do an operator of which at least one tensor is on the card."""
    kind = _kind(func)
    if kind.composed:
        return func._op_dk(_COMPOSED, *args, **kwargs)
    if kind.name == "_has_compatible_shallow_copy_type":
        return False
    if kind.name in ("copy_", "_to_copy"):
        return _copied(func, kind, args, kwargs)
    _check(kind, args, kwargs)
    if kind.name in _INDEX:
        args = (args[0], _indices_on_card(args[1]), *args[2:])
    if kind.waits or (kind.name in _INDEX and any(_is_mask(index) for index in args[1])):
        wait(kind.name)
    return _computed(func, kind, args, kwargs)


def _computed(func: Any, kind: _Kind, args: Any, kwargs: dict[str, Any]) -> Any:
    asked = kwargs.get("device")
    to_card = asked is None or torch.device(asked).type == "cuda"
    if asked is not None:
        kwargs = kwargs | {"device": torch.device("cpu")}
    if torch.Tag.inplace_view in func.tags:
        with torch._C._DisableTorchDispatch():
            func(*args, **kwargs)  # shape and strides of the outer tensor
    made = _done(func, kind, args, kwargs, kind.launches and to_card)
    if kind.written:
        written = [args[index] if index < len(args) else kwargs[name] for index, name in kind.written]
        returns = len(func._schema.returns)
        return None if returns == 0 else written[0] if returns == 1 else tuple(written)
    if not to_card:
        return made
    # torch wants the view of a tensor from outside of inference mode to be one from outside, too.
    inference = args[0].is_inference() if func.is_view else torch.is_inference_mode_enabled()
    with torch.inference_mode(inference):
        return mapped(lambda tensor: CudaTensor(tensor), made)


def _done(func: Any, kind: _Kind, args: Any, kwargs: dict[str, Any], launches: bool) -> Any:
    """The operator on the tensors of the CPU, recorded if this thread captures."""
    capture = current_stream().capture
    if launches:
        recorder.note("launch", kind.name)

    def inner(tensor: Tensor) -> Tensor:
        if isinstance(tensor, CudaTensor):
            return tensor.held
        return capture.number(tensor) if capture is not None and tensor.ndim == 0 else tensor

    args, kwargs = mapped(inner, args), {name: mapped(inner, value) for name, value in kwargs.items()}
    return func(*args, **kwargs) if capture is None else capture.run(func, args, kwargs, kind.written, launches)


def _copied(func: Any, kind: _Kind, args: Any, kwargs: dict[str, Any]) -> Any:
    """`copy_` and `_to_copy`, within the card or between it and the CPU."""
    into = args[0] if kind.name == "copy_" else None
    source = args[0] if into is None else args[1]
    asked = kwargs.get("device")
    non_blocking = bool(kwargs.get("non_blocking") or (into is not None and len(args) > 2 and args[2]))
    if into is None:
        to_card = torch.device(asked).type == "cuda" if asked is not None else isinstance(source, CudaTensor)
    else:
        to_card = isinstance(into, CudaTensor)
    if to_card == isinstance(source, CudaTensor):
        made = _done(func, kind, args, kwargs | ({} if asked is None else {"device": torch.device("cpu")}), True)
        return CudaTensor(made) if into is None else into
    if into is None:  # only ever to the CPU: torch makes the others of an empty tensor and `copy_`
        into = torch.empty_like(
            source.held, dtype=kwargs.get("dtype"), memory_format=kwargs.get("memory_format") or torch.preserve_format
        )
        if non_blocking:
            pinned.pin(into)
    on_cpu = source if to_card else into
    if into.dtype != source.dtype:
        recorder.note("launch", "conversion")
    _note_copy("H2D" if to_card else "D2H", on_cpu, non_blocking)
    _transfer(into, source, non_blocking and pinned.holds(on_cpu))
    return into


def _note_copy(direction: str, on_cpu: Tensor, non_blocking: bool) -> None:
    act = Copy("copy", direction, where(), non_blocking, pinned.holds(on_cpu), tuple(on_cpu.shape))
    if act.waits:
        refuse_in_capture(f"copy {direction}")
    recorder.add(act)
    # A card takes unpinned memory that nobody waits for through memory of its own, without looking at what runs.
    if not non_blocking or (direction == "D2H" and act.waits):
        wait(f"copy {direction}")


def _transfer(into: Tensor, source: Tensor, later: bool) -> None:
    if current_stream().capture is not None:
        _done(_COPY, _kind(_COPY), (into, source), {}, True)
    elif isinstance(source, CudaTensor):
        if later:
            transfers.to_host(into, source.held)
        else:
            into.copy_(source.held)
    else:
        assert isinstance(into, CudaTensor)
        into.held.copy_(source)
        if later:
            transfers.to_card(source)


def _indices_on_card(indices: Any) -> Any:
    """A card takes indices of the CPU too, after copying them and waiting for that."""
    for index in indices:
        if isinstance(index, Tensor) and not isinstance(index, CudaTensor):
            _note_copy("H2D", index, False)
    return [CudaTensor(index) if type(index) is Tensor else index for index in indices]


def _is_mask(index: Any) -> bool:
    return isinstance(index, Tensor) and index.dtype in (torch.bool, torch.uint8)


def _check(kind: _Kind, args: Any, kwargs: dict[str, Any]) -> None:
    """Raise as a card does unless all tensors are there and have formats that go together."""
    found = tensors((args, tuple(kwargs.values())))
    elsewhere = [tensor for tensor in found if not isinstance(tensor, CudaTensor)]
    if kind.name in _INDEX and isinstance(args[0], CudaTensor):
        elsewhere = [tensor for tensor in elsewhere if all(tensor is not index for index in args[1])]
    written = [args[index] if index < len(args) else kwargs.get(name) for index, name in kind.written]
    for tensor in elsewhere:
        if tensor.ndim or not kind.takes_numbers or any(tensor is target for target in written):
            _mismatch("Expected all tensors to be on the same device, but found cuda:0 and cpu", kind.name, found)
    if kind.name in _ONE_FORMAT and len({tensor.dtype for tensor in found}) > 1:
        _mismatch("Expected all tensors to have the same dtype", kind.name, found)


def _mismatch(what: str, name: str, found: list[Tensor]) -> NoReturn:
    told = [(tuple(tensor.shape), str(tensor.dtype), str(tensor.device)) for tensor in found]
    recorder.note("mismatch", f"{name} {told}")
    raise RuntimeError(f"{what}! {name} at {where()} found {told} (pretended card)")


def empty(
    size: Any,
    dtype: Any = None,
    layout: Any = None,
    device: Any = None,
    pin_memory: Any = None,
    memory_format: Any = None,
) -> CudaTensor:
    """`aten::empty.memory_format` on the card, of which torch makes zeros, ranges and all else that is new there."""
    return CudaTensor(
        _new(torch.ops.aten.empty.memory_format, (size,), {"dtype": dtype, "memory_format": memory_format})
    )


def empty_strided(
    size: Any, stride: Any, dtype: Any = None, layout: Any = None, device: Any = None, pin_memory: Any = None
) -> CudaTensor:
    """`aten::empty_strided` on the card, which copies to it begin with."""
    return CudaTensor(_new(torch.ops.aten.empty_strided.default, (size, stride), {"dtype": dtype}))


def copy(into: CudaTensor, source: Tensor, non_blocking: bool = False) -> CudaTensor:
    """`aten::copy_`, where torch goes past the tensors' own: with new numbers, `torch.tensor(..., device="cuda")`."""
    return _copied(_COPY, _kind(_COPY), (into, source), {"non_blocking": non_blocking})


def attention(*args: Any, **kwargs: Any) -> Any:
    """`scaled_dot_product_attention`, before torch takes it apart."""
    return run(torch.ops.aten.scaled_dot_product_attention.default, args, kwargs)


def _new(func: Any, args: Any, kwargs: dict[str, Any]) -> Tensor:
    return _done(func, _kind(func), args, kwargs | {"device": torch.device("cpu")}, launches=False)
