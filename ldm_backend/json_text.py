"""JSON out of files, for both packages: one way to parse it, whatever it holds. Imports the errors only.

Python's own parser ends in a RecursionError in deep lists, and gives values that later break what uses them: numbers
that no float holds, texts that no encoding writes, an object of which one key of two counts.
"""

import json
import math
from collections.abc import Iterator
from typing import Any

from .errors import JSONError, is_text, printable, repeated

MAX_LEVELS = 100
"""Of lists and objects in each other. Workflows have ten; what copies or writes them takes several calls a level."""

MAX_VALUES = 4_000_000
"""Or so, in one text: all nodes of a host have less than a tenth. One C call makes them, deaf to signals."""

MAX_NUMBER = 10**308
"""What a float holds, and so JavaScript."""


def parse_json(text: str | bytes) -> Any:
    """What a JSON text says.

    NaN and infinities are taken, as Python writes them: see `not_finite`.

    Args:
        text: As bytes, in UTF-8, UTF-16 or UTF-32.

    Raises:
        JSONError: It is not JSON, too deep or too long, names a key twice, or holds a number or text that nothing can
            use. The message goes on after "... is not JSON: ".
    """
    if (text.count(",") if isinstance(text, str) else text.count(b",")) > MAX_VALUES:
        raise JSONError(f"it has more than {MAX_VALUES:,} values")
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


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise JSONError(f"an object has the key {printable(repeated(key for key, _ in pairs)[0])!r} twice")
    return found


def _check(value: Any) -> None:
    for place, each in _walk(value):
        if isinstance(each, int) and not -MAX_NUMBER <= each <= MAX_NUMBER:
            raise JSONError(f"the number at {_path(place)} has more than 308 digits")
        if isinstance(each, str) and not is_text(each):
            raise JSONError(f"the text at {_path(place)} holds half of a character (a lone surrogate)")


def _walk(value: Any) -> Iterator[tuple[list[Any], Any]]:
    """All values that are no list or object, and all keys, with their places: keys from the top, until the next.

    Raises:
        JSONError: More levels than `MAX_LEVELS`.
    """
    if not isinstance(value, dict | list):
        yield [], value
        return
    place: list[Any] = [None]
    entered = [_items(value)]  # what is left of each list and object that lies in the one before
    while entered:
        for key, each in entered[-1]:
            place[-1] = key
            if isinstance(key, str):
                yield place, key
            if isinstance(each, dict | list):
                if len(entered) >= MAX_LEVELS:
                    raise JSONError(f"lists and objects lie in each other, more than {MAX_LEVELS} levels deep")
                entered.append(_items(each))
                place.append(None)
                break
            yield place, each
        else:
            entered.pop()
            place.pop()


def _items(value: dict[str, Any] | list[Any]) -> Iterator[tuple[Any, Any]]:
    return iter(value.items() if isinstance(value, dict) else enumerate(value))


def _path(place: list[Any]) -> str:
    return ".".join(printable(str(key)) for key in place) or "the top"
