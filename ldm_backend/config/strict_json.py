"""Between configuration dataclasses and JSON objects, without guessing. Imports only checks and errors.

A key is a field of the dataclass, or a key whose one supported value is known, or one known to be without influence;
anything else is refused. Keys whose diffusers default is not what this family has must be written down: an absent one
would be read differently by different programs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields
from types import NoneType, UnionType
from typing import Any, get_args, get_origin, get_type_hints

from ..errors import ConfigError, first_names, short_repr
from .checks import AS_TRAINED, NOT_IMPLEMENTED

# Of fields that came after the first release: files of before do not hold them, and mean their defaults.
LATER = {"later": True}
# Of diffusers: whose file it is and where it came from. The class is checked where it matters.
_HOUSEKEEPING = {"_class_name", "_diffusers_version", "_name_or_path", "_commit_hash", "_use_default_values"}


@dataclass(frozen=True)
class JsonRules:
    """How one class of diffusers is written in JSON.

    Attributes:
        class_names: Accepted `_class_name`s; the first is written.
        fixed: Keys with the only values that the family uses. A list in a file is checked entry by entry.
        ignored: Keys without influence here.
        required: Keys that a file must hold.
        reasons: Of fixed keys, why other values are refused, where it is not that nobody has implemented them.
    """

    class_names: tuple[str, ...]
    fixed: Mapping[str, tuple[Any, ...]]
    ignored: tuple[str, ...] = ()
    required: tuple[str, ...] = ()
    reasons: Mapping[str, str] = field(default_factory=dict)


def read_json_object(cls: Any, data: Mapping[str, Any], source: str, rules: JsonRules) -> Any:
    """Build the dataclass `cls`.

    Raises:
        ConfigError: A key that is unknown, missing or has an unsupported value; the message names `source`.
    """
    found_class = data.get("_class_name", rules.class_names[0])
    if found_class not in rules.class_names:
        raise ConfigError(
            f"{source}: _class_name is {short_repr(found_class)}; expected {' or '.join(rules.class_names)}. "
            f"{NOT_IMPLEMENTED}"
        )
    _check_keys(cls, data, source, rules)
    for key, allowed in rules.fixed.items():
        values = data[key] if isinstance(data.get(key), list | tuple) else [data.get(key, allowed[0])]
        for value in values:
            if value not in allowed:
                raise ConfigError(
                    f"{source}: {key} is {short_repr(value)}; supported is {' or '.join(map(repr, allowed))}. "
                    f"{rules.reasons.get(key, NOT_IMPLEMENTED)}"
                )
    return read_fields(cls, data, source)


def read_fields(cls: Any, data: Mapping[str, Any], source: str) -> Any:
    """Build the dataclass `cls` from the keys of `data` that are its fields, each of the declared type.

    Raises:
        ConfigError: A value of another type, or out of range.
    """
    hints = get_type_hints(cls)
    names = [item.name for item in fields(cls) if item.name in data]
    return build(cls, source, {name: _typed(data[name], hints[name], f"{source}: {name}") for name in names})


def build(cls: Any, source: str, values: Mapping[str, Any]) -> Any:
    """`cls(**values)`; an error of its checks names `source`, which the dataclass does not know."""
    try:
        return cls(**values)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error


def in_their_names(names: Mapping[str, str], source: str, make: Callable[[], Any]) -> Any:
    """What `make` returns; its errors speak of our fields, and then of the settings of the file that they came from.

    Args:
        names: Ours -> those of the file.
        source: At the beginning of its errors; it stays as it is.
        make: Reads the settings.
    """
    try:
        return make()
    except ConfigError as error:
        text = str(error).removeprefix(source)
        for ours, theirs in names.items():
            text = re.sub(rf"\b{ours}\b", theirs, text)
        raise ConfigError(f"{source}{text}") from error


def write_json_object(config: Any, rules: JsonRules) -> dict[str, Any]:
    """The inverse of `read_json_object`; lists stand for tuples."""
    fixed = {key: allowed[0] for key, allowed in rules.fixed.items()}
    return {"_class_name": rules.class_names[0]} | fixed | write_fields(config)


def write_fields(config: Any) -> dict[str, Any]:
    """The fields of a dataclass; lists stand for tuples."""
    return {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(config).items()}


def later_defaults(cls: Any) -> dict[str, Any]:
    """Name and default of each field that is marked LATER."""
    return {item.name: item.default for item in fields(cls) if item.metadata.get("later")}


def _check_keys(cls: Any, data: Mapping[str, Any], source: str, rules: JsonRules) -> None:
    missing = [key for key in rules.required if key not in data]
    if missing:
        defaults = write_json_object(cls(), rules)
        known = ", ".join(f"{key} {defaults[key]!r}" for key in missing)
        raise ConfigError(
            f"{source}: {first_names(missing)} missing; it cannot be told from the weights. Add what the model was "
            f"trained with ({cls.__name__}'s defaults are {known})."
        )
    known_keys = {item.name for item in fields(cls)} | set(rules.fixed) | set(rules.ignored)
    unknown = data.keys() - known_keys - _HOUSEKEEPING
    if unknown:
        raise ConfigError(
            f"{source}: unknown keys {first_names(unknown)}. It is of another family, or newer than this release; "
            "remove keys that have no effect."
        )


def _typed(value: Any, kind: Any, where: str) -> Any:
    """`value` as the field's type; JSON lists become tuples, whole numbers pass as floats, nothing else converts."""
    allowed = get_args(kind) if isinstance(kind, UnionType) else (kind,)
    for one in allowed:
        if get_origin(one) is tuple:  # of any length, all of one type
            if isinstance(value, list | tuple):
                inner = get_args(one)[0]
                return tuple(_typed(item, inner, f"{where}[{index}]") for index, item in enumerate(value))
        elif type(value) is one:
            return value
        elif one is float and type(value) is int and abs(value) < 2**53:
            return float(value)
    expected = " or ".join(map(_in_words, allowed))
    raise ConfigError(f"{where} is {short_repr(value)}; expected {expected}. {AS_TRAINED}")


def _in_words(kind: Any) -> str:
    if get_origin(kind) is tuple:
        return f"a list of {get_args(kind)[0].__name__}"
    return "null" if kind is NoneType else kind.__name__
