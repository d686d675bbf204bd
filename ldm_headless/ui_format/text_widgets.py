"""What the editor does to texts when it queues a graph: prompt choices, and placeholders in file names.

Imports the errors only.
"""

import re
from collections.abc import Callable
from datetime import datetime

from ..errors import WorkflowError

Lookup = Callable[[str, str], object]

_COMMENT = re.compile(r"/\*[\s\S]*?\*/|//.*")
_PLACEHOLDER = re.compile(r"%([^%]+)%")
_UNSAFE_IN_NAMES = re.compile(r'[/?<>\\:*|"\x00-\x1F\x7F]')
_DATE_PART = re.compile(r"dd?|MM?|hh?|mm?|ss?|yyy?y?")
MISSING = object()
"""What a `Lookup` gives for a node or widget that is not there."""


def plain_prompt(text: str) -> str:
    """A text without its comments, its escapes, and braces that hold one choice.

    Raises:
        WorkflowError: Braces hold several choices. The editor draws one at each run; a rerun would differ.
    """
    text = _COMMENT.sub("", text)
    done, position = "", 0
    while position < len(text):
        if text[position] == "{":
            content, position = _braces(text, position + 1)
            done += plain_prompt(content)
        else:
            length = 2 if text[position] == "\\" else 1
            done += text[position : position + length]
            position += length
    return re.sub(r"\\([{}|])", r"\1", done)


def _braces(text: str, position: int) -> tuple[str, int]:
    """What stands up to the matching brace, and the position behind it."""
    start, depth = position, 0
    while position < len(text):
        character = text[position]
        position += 2 if character == "\\" else 1
        if character == "{":
            depth += 1
        elif character == "}":
            if depth == 0:
                return text[start : position - 1], position
            depth -= 1
        elif character == "|" and depth == 0:
            raise WorkflowError(
                f"the text {text!r} leaves a choice in braces, which the editor draws anew for each run; "
                r"write one of them, or \{ and \} for plain braces"
            )
    return text[start:], position


def fill_placeholders(text: str, lookup: Lookup, now: datetime) -> str:
    """Replace `%node.widget%` and `%date:yyyy-MM-dd%`, as the editor does in the file names of saving nodes.

    Args:
        text: The name.
        lookup: The value of the widget of a node, or `MISSING`.
        now: The time for dates.

    Returns:
        The text. Placeholders that lead nowhere stay, since the host fills `%width%` and `%height%` itself.
    """

    def fill(match: re.Match[str]) -> str:
        node, dot, widget = match[1].partition(".")
        if not dot or "." in widget:
            return _format_date(node[5:], now) if node.startswith("date:") else match[0]
        value = lookup(node, widget)
        return match[0] if value is MISSING else _UNSAFE_IN_NAMES.sub("_", _as_text(value))

    return _PLACEHOLDER.sub(fill, text)


def _format_date(pattern: str, now: datetime) -> str:
    numbers = {"d": now.day, "M": now.month, "h": now.hour, "m": now.minute, "s": now.second}

    def part(match: re.Match[str]) -> str:
        found = match[0]
        if found[0] == "y":
            return {"yy": f"{now.year:04d}"[2:], "yyyy": str(now.year)}.get(found, found)
        return str(numbers[found[0]]).rjust(len(found), "0")

    return _DATE_PART.sub(part, pattern)


def _as_text(value: object) -> str:
    """As JavaScript writes a value."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)
