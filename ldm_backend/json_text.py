"""JSON out of files, for both packages: one way to parse it, whatever it holds. Imports the errors only.

Python's own parser ends in a RecursionError in deep lists, and gives values that later break what uses them: numbers
that no float holds, texts that no encoding writes, an object of which one key of two counts.
"""

import json
import math
from collections.abc import Iterator
from typing import Any

from .errors import JSONError, printable, repeated

MAX_LEVELS = 100
"""Of lists and objects in each other. Workflows have ten; what copies or writes them takes several calls a level."""

_MAX_NUMBER = 10**308  # what a float holds, and so JavaScript


def parse_json(text: str | bytes) -> Any:
    """What a JSON text says.

    NaN and infinities are taken, as Python writes them: see `not_finite`.

    Args:
        text: As bytes, in UTF-8, UTF-16 or UTF-32.

    Raises:
        JSONError: It is not JSON, too deep, names a key twice, or holds a number or text that nothing can use. The
            message goes on after "... is not JSON: ".
    """
    try:
        value = json.loads(text, object_pairs_hook=_object)
    except RecursionError as error:
        raise JSONError(f"lists and objects lie in each other, more than {MAX_LEVELS} levels deep") from error
    except JSONError:
        raise
    except UnicodeDecodeError as error:
        raise JSONError(f"byte {error.start} is no {error.encoding.upper()} text") from error
    except ValueError as error:
        # Python refuses to read numbers of thousands of digits, in words about its own settings.
        long = "integer string" in str(error)
        raise JSONError("a number has thousands of digits" if long else str(error)) from error
    _check(value)
    return value


def not_finite(value: Any) -> str | None:
    """The place of the first NaN or infinity in a parsed document, such as `nodes.3.properties.x`; None without any."""
    for place, each in _walk(value):
        if isinstance(each, float) and not math.isfinite(each):
            return _path(place)
    return None


_Place = tuple[Any, ...]  # (place of what it lies in, key or index); () for the whole


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise JSONError(f"an object has the key {printable(repeated(key for key, _ in pairs)[0])!r} twice")
    return found


def _check(value: Any) -> None:
    for place, each in _walk(value):
        if isinstance(each, int) and not -_MAX_NUMBER <= each <= _MAX_NUMBER:
            raise JSONError(f"the number at {_path(place)} has more than 308 digits")
        if isinstance(each, str) and not _is_text(each):
            raise JSONError(f"the text at {_path(place)} holds half of a character (a lone surrogate)")


def _is_text(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _walk(value: Any) -> Iterator[tuple[_Place, Any]]:
    """All values that are no list or object, and all keys, with their places.

    Raises:
        JSONError: More levels than `MAX_LEVELS`.
    """
    waiting: list[tuple[_Place, int, Any]] = [((), 0, value)]
    while waiting:
        place, level, each = waiting.pop()
        if not isinstance(each, dict | list):
            yield place, each
            continue
        if level >= MAX_LEVELS:
            raise JSONError(f"lists and objects lie in each other, more than {MAX_LEVELS} levels deep")
        items = each.items() if isinstance(each, dict) else enumerate(each)
        for key, inner in items:
            if isinstance(key, str):
                yield (place, key), key
            waiting.append(((place, key), level + 1, inner))


def _path(place: _Place) -> str:
    parts = []
    while place:
        place, key = place
        parts.append(printable(str(key)))
    return ".".join(reversed(parts)) or "the top"
