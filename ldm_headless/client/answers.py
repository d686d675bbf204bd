"""The one checker of what a server answers: JSON, and the shapes in it. Imports the errors.

A server may answer anything. Each function gives back a value of the shape that its name says, or raises a ServerError
that says where in the answer something else was found.
"""

import json
import math
from typing import Any

from ldm_backend.errors import short_repr

from ..errors import ServerError

MAX_ANSWER = 64 * 2**20
"""Bytes of a JSON answer: larger ones are refused, for Python takes twenty times as much for some of them."""

_MAX_DEPTH = 200  # ComfyUI nests some 20 deep: what is deeper ends the stack of whoever walks through it
_MAX_TEXT = 20_000
_FLAT = (str, int, float, type(None))


def parse_json(data: str | bytes, where: str) -> Any:
    """The JSON in an answer.

    Raises:
        ServerError: There is none, or it is nested too deeply to be worked with.
    """
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ServerError(f"{where} did not answer JSON; is this a ComfyUI server?{_login_hint(data)}") from error
    depth, level = 0, [value]
    while level := [item for part in level for item in _parts(part) if not isinstance(item, _FLAT)]:
        depth += 1
        if depth > _MAX_DEPTH:
            raise ServerError(
                f"{where} answered JSON that is nested over {_MAX_DEPTH} deep; is this a ComfyUI server?"
                " Check the address"
            )
    return value


def parse_object(data: str | bytes, where: str) -> dict[str, Any]:
    """The JSON object in an answer; see `parse_json`."""
    value = parse_json(data, where)
    if not isinstance(value, dict):
        raise ServerError(f"{where} answered a JSON {type(value).__name__}; expected an object; check the address")
    return value


def an_object(value: Any, where: str) -> dict[str, Any]:
    """An object; ComfyUI says null for an empty one at times."""
    return {} if value is None else _typed(value, dict, "an object", where)


def a_list(value: Any, where: str) -> list[Any]:
    """A list, or null for an empty one."""
    return [] if value is None else _typed(value, list, "a list", where)


def a_text(value: Any, where: str, limit: int = _MAX_TEXT) -> str:
    """A text, cut after `limit`, that can be written as UTF-8; a number is taken as text, as ids may be either."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        value = short_repr(value)
    return _typed(value, str, "a text", where)[:limit].encode("utf-8", "replace").decode()


def a_number(value: Any, where: str) -> int | float:
    """A finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise _odd(value, "a number", where)
    return value


def _typed(value: Any, kind: type[Any], expected: str, where: str) -> Any:
    if not isinstance(value, kind):
        raise _odd(value, expected, where)
    return value


def _odd(value: Any, expected: str, where: str) -> ServerError:
    return ServerError(
        f"{where} is {short_repr(value)}; expected {expected}. Is this a ComfyUI server? Check the address"
    )


def _parts(value: Any) -> Any:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def _login_hint(data: str | bytes) -> str:
    start = data[:200].lstrip()
    is_page = start.startswith("<") if isinstance(start, str) else start.startswith(b"<")
    return " It answered a page, maybe of a login: see LDM_SERVER_TOKEN and --header-file." if is_page else ""
