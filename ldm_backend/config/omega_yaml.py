"""YAML as OmegaConf reads it, which wrote and read the configurations of CompVis. Imports errors and PyYAML.

Beside YAML 1.1, as PyYAML reads it, OmegaConf knows numbers such as 15e-4 (a text for PyYAML), refuses a key that is
there twice, and replaces `${a.b}` by the value that is there. References to a value are followed; whatever else stands
in `${...}`, such as a variable of the environment or a part of a text, stays as it is, and is refused where it matters.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from ..errors import ConfigError, printable, repeated

_MAX_BYTES = 2**16  # a configuration has about 2 kB; PyYAML takes seconds for a megabyte
_MAX_DEPTH = 20  # it has 7 levels, and no aliases
_MAX_NODES = 20_000  # values after all references were followed; a configuration has about 100

_FLOAT = re.compile(r"[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9][0-9_]*)[eE][-+]?[0-9]+")
_REFERENCE = re.compile(r"\$\{ *([A-Za-z_]\w*(?:\.\w+)*) *\}")


class _Loader(yaml.SafeLoader):
    """PyYAML's safe loader, with the numbers of OmegaConf, and without keys that are there twice."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """A mapping; an error names a key that is there twice."""
        keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if twice := repeated(keys):
            raise ConfigError(f"{printable(str(twice[0]))} is there twice in one section. Remove one of them.")
        return super().construct_mapping(node, deep)


_Loader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))


def read_omega_yaml(file: Path) -> Mapping[str, Any]:
    """A file's mapping, with references replaced by what they name.

    Raises:
        ConfigError: No readable YAML, or more than a configuration can need; the message names the file.
    """
    try:
        with file.open("rb") as opened:
            size = os.fstat(opened.fileno()).st_size
            if size > _MAX_BYTES:
                raise ConfigError(f"{size} bytes; a configuration has a few thousand. Give the YAML of the model.")
            text = opened.read(_MAX_BYTES).decode("utf-8")
        depth = 0
        for event in yaml.parse(text, yaml.SafeLoader):
            depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
            # A few lines of aliases can stand for billions of entries, and deep nesting takes PyYAML quadratic time.
            if depth > _MAX_DEPTH or isinstance(event, yaml.AliasEvent):
                raise ConfigError(f"has aliases (*name) or deeper levels than {_MAX_DEPTH}; write it plainly.")
        data = yaml.load(text, _Loader)  # nosec B506  # noqa: S506 - a safe loader, see above
        if not isinstance(data, Mapping):
            raise ConfigError(
                f"holds a {type(data).__name__}; expected a mapping with the entry `model`. Give the YAML of the model."
            )
        return _Resolver(data).resolved(data, 0)
    except ConfigError as error:
        raise ConfigError(f"{file}: {error}") from error
    # Beside its own errors PyYAML passes on those of values that are not what their tags promise (`!!bool 3`).
    except (
        *(yaml.YAMLError, RecursionError, OSError, ValueError),
        *(LookupError, AttributeError, OverflowError, TypeError),
    ) as error:
        reason = printable(str(error), 300)
        raise ConfigError(f"{file}: not readable as YAML ({reason}). Download the file again.") from error


class _Resolver:
    """Follows the references of one file."""

    def __init__(self, root: Mapping[str, Any]) -> None:
        self.root, self.nodes = root, 0

    def resolved(self, value: Any, depth: int) -> Any:
        """The value with references replaced; one that leads nowhere, or in a circle, stays."""
        self.nodes += 1
        if self.nodes > _MAX_NODES:
            raise ConfigError(f"its references stand for more than {_MAX_NODES} values; write it plainly.")
        if isinstance(value, Mapping):
            return {key: self.resolved(item, depth) for key, item in value.items()}
        if isinstance(value, list):
            return [self.resolved(item, depth) for item in value]
        match = _REFERENCE.fullmatch(value) if isinstance(value, str) else None
        if match is None or depth >= _MAX_DEPTH:
            return value
        found = self._at(match[1].split("."))
        return value if found is None else self.resolved(found, depth + 1)

    def _at(self, names: list[str]) -> Any:
        place: Any = self.root
        for name in names:
            if isinstance(place, list) and name.isdecimal() and int(name) < len(place):
                place = place[int(name)]
            elif isinstance(place, Mapping) and name in place:
                place = place[name]
            else:
                return None
        return place
