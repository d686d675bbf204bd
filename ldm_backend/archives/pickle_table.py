"""Read the table of contents in an archive of `torch.save`, a pickle, without unpickling it. Standard library only.

torch's `weights_only` reader runs no code of the file, but its list of allowed functions is long: a few bytes can make
it allocate gigabytes (`bytearray(10**12)`), hash for years (a dictionary whose key is a tuple of tuples of tuples), or
compare for hours (numbers with equal hashes as keys). And a check before it checks only what the check reads. Here the
pickle is followed, opcode by opcode, and nothing is called, imported or hashed but texts. What comes out says where in
the archive each tensor is: nobody else reads the pickle.
"""

from __future__ import annotations

import pickletools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
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
    """Whatever else a call or an opcode would build; only its kind matters."""

    kind: str


@dataclass(frozen=True)
class Storage:
    """Numbers of one format in a record of the archive."""

    key: str  # of the record, below `data/`
    kind: str  # "Float", "Half", ...
    count: int


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a storage; counts of numbers, not of bytes."""

    storage: Storage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


@dataclass(eq=False)
class Table:
    """A dictionary."""

    entries: dict[str, Any] = field(default_factory=dict)  # by those keys that are texts
    other_keys: bool = False  # there are others, which are not kept


def read_pickle_table(data: bytes, records: Mapping[str, int], inert: Iterable[str]) -> Any:
    """What a pickle describes.

    Args:
        data: The pickle.
        records: Bytes of each storage of the archive, by the key that the pickle uses.
        inert: Names of classes and functions that training checkpoints mention; what they would make is left out.

    Returns:
        A `Table`, whose entries are tables, `StoredTensor`s, numbers, texts, tuples or something of no use.

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
        return machine.stack[-1]
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
            "EMPTY_DICT": lambda _: self.stack.append(Table()),
            "EMPTY_LIST": lambda _: self.stack.append(_Made("list")),
            "APPEND": lambda _: self._append(self._pop(1)),
            "APPENDS": lambda _: self._append(self._since_mark()),
            "SETITEM": lambda _: self._set(self._pop(2)),
            "SETITEMS": lambda _: self._set(self._since_mark()),
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

    def _append(self, _items: list[Any]) -> None:
        if self.stack[-1] != _Made("list"):
            raise ValueError("the pickle puts items into something that is no list")

    def _set(self, items: list[Any]) -> None:
        table = self.stack[-1]
        if not isinstance(table, Table):
            raise ValueError("the pickle puts items into something that is no table")
        keys, values = items[::2], items[1::2]
        if len(keys) != len(values) or not all(isinstance(key, str | int | float | _Global) for key in keys):
            raise ValueError("a key of a table in the pickle is neither a text nor a number")
        # Only texts are hashed: a file cannot choose texts whose hashes are equal, but it can choose such numbers.
        table.entries.update((key, value) for key, value in zip(keys, values, strict=True) if isinstance(key, str))
        table.other_keys |= not all(isinstance(key, str) for key in keys)

    def _call(self) -> None:
        function, args = self._pop(2)
        if not isinstance(function, _Global) or not isinstance(args, tuple):
            raise ValueError("the pickle calls something that is no function")
        name = function.name
        if name in self.inert:
            made: Any = _Made("inert")
        elif name == _TABLE and args == ():
            made = Table()
        elif name == _ENCODE and len(args) == 2 and isinstance(args[0], str) and args[1] == "latin1":
            made = _Made("bytes")
        elif name == _TENSOR and _is_tensor(args):
            made = StoredTensor(*args[:4])
        elif name == _PARAMETER and _is_parameter(args):
            made = args[0]
        else:
            raise ValueError(f"the pickle calls {name} in a way that torch.save does not write")
        self.stack.append(made)

    def _build(self) -> None:
        state, target = self._pop(1)[0], self.stack[-1]
        # The attributes of a table: `state_dict()` of a module keeps version numbers there.
        if target != _Made("inert") and not (isinstance(target, Table) and isinstance(state, Table)):
            raise ValueError("the pickle sets the state of something other than a table")

    def _storage(self) -> None:
        match self._pop(1)[0]:
            case ("storage", _Global(name=name), str(key), str(), int(count)) if name in _STORAGES:
                kind = name
                if self.records.get(key) != count * _STORAGES[kind]:
                    raise ValueError(
                        f"storage {key[:40]!r} claims {count * _STORAGES[kind]} bytes, the archive holds "
                        f"{self.records.get(key, 'none')}"
                    )
            case _:
                raise ValueError("the pickle refers to something other than a storage of its archive")
        self.stack.append(Storage(key, kind.removeprefix("torch.").removesuffix("Storage"), count))


def _is_parameter(args: tuple[Any, ...]) -> bool:
    return len(args) == 3 and isinstance(args[0], StoredTensor) and _are_flags(args[1:])


def _is_tensor(args: tuple[Any, ...]) -> bool:
    """Storage, offset, size, strides, flags; whether they fit is checked when the tensor is made."""
    if len(args) != 6 or not isinstance(args[0], Storage) or not _are_flags(args[4:]):
        return False
    if not all(isinstance(sides, tuple) and len(sides) <= _MAX_DIMENSIONS for sides in args[2:4]):
        return False
    return len(args[2]) == len(args[3]) and all(type(n) is int and n >= 0 for n in (args[1], *args[2], *args[3]))


def _are_flags(args: tuple[Any, ...]) -> bool:
    """requires_grad, and the hooks, which are an empty table."""
    return len(args) == 2 and isinstance(args[0], bool) and isinstance(args[1], Table)
