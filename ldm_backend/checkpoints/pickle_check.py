"""Judge the pickle inside an archive of `torch.save` before torch reads it. Imports nothing but the standard library.

torch's `weights_only` reader runs no code of the file, but its list of allowed functions is long: a few bytes can make
it allocate gigabytes (`bytearray(10**12)`) or hash for years (a dictionary whose key is a tuple of tuples of tuples).
Here the pickle is followed, opcode by opcode, without building anything from it. What gets through is a plain table of
tensors and settings that refers to nothing but the records of its archive.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

_MAX_OPCODES = 10**6  # a training checkpoint of the largest known model has about 90,000
_MAX_DIMENSIONS = 8  # our tensors have at most four

_ITEM_SIZES = {"Bool": 1, "Byte": 1, "Char": 1, "Short": 2, "Half": 2, "BFloat16": 2, "Int": 4, "Float": 4}
_STORAGES = {f"torch.{kind}Storage": size for kind, size in (_ITEM_SIZES | {"Long": 8, "Double": 8}).items()}
# Functions that are called with checked arguments.
_TENSOR, _PARAMETER, _TABLE, _ENCODE = (
    "torch._utils._rebuild_tensor_v2",
    "torch._utils._rebuild_parameter",
    "collections.OrderedDict",
    "_codecs.encode",
)


class RefusedError(ValueError):
    """The pickle names things that no table of tensors needs.

    Args:
        names: Modules and names, as the file gives them.
    """

    def __init__(self, names: Iterable[str]) -> None:
        super().__init__(", ".join(names))
        self.names = sorted(names)


@dataclass(frozen=True)
class _Global:
    """A class or function that the pickle names; it is not looked up."""

    name: str


@dataclass(frozen=True)
class _Made:
    """Whatever a call or an opcode would build; only its kind matters."""

    kind: str


def check_pickle(data: bytes, records: Mapping[str, int], inert: Iterable[str]) -> None:
    """Follow a pickle.

    Args:
        data: The pickle.
        records: Bytes of each storage of the archive, by the key that the pickle uses.
        inert: Names of classes and functions that the reader replaces by something without effect.

    Raises:
        RefusedError: It names anything beyond tensors and `inert`.
        ValueError: It is damaged, or of a form that torch.save does not write for a table of tensors.
    """
    names = {arg.replace(" ", ".") for op, arg, _ in _opcodes(data) if op == "GLOBAL"}
    if foreign := names - {_TENSOR, _PARAMETER, _TABLE, _ENCODE, *_STORAGES, *inert}:
        raise RefusedError(foreign)
    machine = _Machine(records, frozenset(inert) - {_ENCODE})
    try:
        for op, arg, _ in _opcodes(data):
            machine.step(op, arg)
    except (IndexError, KeyError) as error:
        raise ValueError("the pickle takes what it has not put there") from error


def _opcodes(data: bytes) -> Iterable[tuple[str, Any, int]]:
    for count, (op, arg, position) in enumerate(pickletools.genops(data)):
        if count >= _MAX_OPCODES:
            raise ValueError(f"the pickle has more than {_MAX_OPCODES} opcodes")
        yield op.name, arg, position or 0


class _Machine:
    """The stack and the memo of a pickle reader, with descriptions in place of objects."""

    def __init__(self, records: Mapping[str, int], inert: frozenset[str]) -> None:
        self.records, self.inert = records, inert
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.steps: dict[str, Callable[[Any], None]] = {
            "PROTO": lambda _: None,
            "STOP": lambda _: None,
            "MARK": lambda _: self.marks.append(len(self.stack)),
            "BINPUT": self._put,
            "LONG_BINPUT": self._put,
            "BINGET": lambda arg: self.stack.append(self.memo[arg]),
            "LONG_BINGET": lambda arg: self.stack.append(self.memo[arg]),
            "GLOBAL": lambda arg: self.stack.append(_Global(arg.replace(" ", "."))),
            "EMPTY_TUPLE": lambda _: self.stack.append(()),
            "TUPLE": lambda _: self.stack.append(tuple(self._since_mark())),
            "EMPTY_DICT": lambda _: self.stack.append(_Made("table")),
            "EMPTY_LIST": lambda _: self.stack.append(_Made("list")),
            "APPEND": lambda _: self._fill("list", self._pop(1)),
            "APPENDS": lambda _: self._fill("list", self._since_mark()),
            "SETITEM": lambda _: self._fill("table", self._pop(2)),
            "SETITEMS": lambda _: self._fill("table", self._since_mark()),
            "REDUCE": lambda _: self._call(),
            "NEWOBJ": lambda _: self._call(),
            "BUILD": lambda _: self._build(),
            "BINPERSID": lambda _: self._storage(),
        }
        for name, value in (("NONE", None), ("NEWTRUE", True), ("NEWFALSE", False)):
            self.steps[name] = lambda _, value=value: self.stack.append(value)
        for name in ("BININT", "BININT1", "BININT2", "LONG1", "BINFLOAT", "BINUNICODE", "SHORT_BINSTRING"):
            self.steps[name] = self.stack.append
        for size in (1, 2, 3):
            self.steps[f"TUPLE{size}"] = lambda _, size=size: self.stack.append(tuple(self._pop(size)))

    def step(self, op: str, arg: Any) -> None:
        """Follow one opcode."""
        if op not in self.steps:
            raise ValueError(f"the pickle has the opcode {op}, which torch.save does not write")
        self.steps[op](arg)

    def _put(self, index: int) -> None:
        self.memo[index] = self.stack[-1]

    def _pop(self, count: int) -> list[Any]:
        if len(self.stack) - count < (self.marks[-1] if self.marks else 0):
            raise IndexError
        items = self.stack[-count:]
        del self.stack[-count:]
        return items

    def _since_mark(self) -> list[Any]:
        start = self.marks.pop()
        items = self.stack[start:]
        del self.stack[start:]
        return items

    def _fill(self, kind: str, items: list[Any]) -> None:
        if self.stack[-1] != _Made(kind):
            raise ValueError(f"the pickle puts items into something that is no {kind}")
        # Plain keys only: the hash of nested tuples takes exponential time.
        if kind == "table" and not all(isinstance(key, str | int | float | _Global) for key in items[::2]):
            raise ValueError("a key of a table in the pickle is neither a text nor a number")

    def _call(self) -> None:
        function, args = self._pop(2)
        if not isinstance(function, _Global) or not isinstance(args, tuple):
            raise ValueError("the pickle calls something that is no function")
        name = function.name
        if name in self.inert:
            kind = "inert"
        elif name == _TABLE and args == ():
            kind = "table"
        elif name == _ENCODE and len(args) == 2 and isinstance(args[0], str) and args[1] == "latin1":
            kind = "bytes"
        elif (name == _TENSOR and _is_tensor(args)) or (name == _PARAMETER and _is_parameter(args)):
            kind = "tensor"
        else:
            raise ValueError(f"the pickle calls {name} in a way that torch.save does not write")
        self.stack.append(_Made(kind))

    def _build(self) -> None:
        state, target = self._pop(1)[0], self.stack[-1]
        # The attributes of a table: `state_dict()` of a module keeps version numbers there.
        if target != _Made("inert") and (target != _Made("table") or state != _Made("table")):
            raise ValueError("the pickle sets the state of something other than a table")

    def _storage(self) -> None:
        match self._pop(1)[0]:
            case ("storage", _Global(name=kind), str(key), str(), int(count)) if kind in _STORAGES:
                if self.records.get(key) != count * _STORAGES[kind]:
                    raise ValueError(
                        f"storage {key[:40]!r} claims {count * _STORAGES[kind]} bytes, the archive holds "
                        f"{self.records.get(key, 'none')}"
                    )
            case _:
                raise ValueError("the pickle refers to something other than a storage of its archive")
        self.stack.append(_Made("storage"))


def _is_parameter(args: tuple[Any, ...]) -> bool:
    return args[:1] == (_Made("tensor"),) and _are_flags(args[1:])


def _is_tensor(args: tuple[Any, ...]) -> bool:
    """Storage, offset, size, strides, flags; whether they fit is checked when the tensor is there, at no cost."""
    if len(args) != 6 or args[0] != _Made("storage") or not _are_flags(args[4:]):
        return False
    return isinstance(args[1], int) and all(
        isinstance(sides, tuple) and len(sides) <= _MAX_DIMENSIONS and all(isinstance(n, int) for n in sides)
        for sides in args[2:4]
    )


def _are_flags(args: tuple[Any, ...]) -> bool:
    """requires_grad, and the hooks, which are an empty table."""
    return len(args) == 2 and isinstance(args[0], bool) and args[1] == _Made("table")
