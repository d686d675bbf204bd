"""What the editor does to texts when it queues a graph: prompt choices, and placeholders in file names.

Imports the errors only.
"""

import re
from collections.abc import Callable
from datetime import datetime

from ldm_backend.errors import short_repr

from ..errors import WorkflowError

Lookup = Callable[[str, str], object]

_COMMENT = re.compile(r"/\*|//.*")  # the beginning of one kind, and the whole of the other
MOST_BRACES = 100
"""Levels of braces in each other. Texts have two."""
_LINE_COMMENT = re.compile(r"//.*")
_SPECIAL = re.compile(r"\{|\\[\s\S]?")  # what begins a choice, and escapes
_IN_BRACES = re.compile(r"[{}|]|\\[\s\S]?")
_PLACEHOLDER = re.compile(r"%([^%]+)%")
_UNSAFE_IN_NAMES = re.compile(r'[/?<>\\:*|"\x00-\x1F\x7F]')
_DATE_PART = re.compile(r"dd?|MM?|hh?|mm?|ss?|yyy?y?")
MISSING = object()
"""What a `Lookup` gives for a node or widget that is not there."""


def plain_prompt(text: str) -> str:
    """A text without its comments, its escapes, and braces that hold one choice.

    Raises:
        WorkflowError: Braces hold several choices, of which the editor draws one at each run, so that a rerun would
            differ. Or they lie in each other too deep.
    """
    text = _without_comments(text)
    done, position = [], 0
    for match in _SPECIAL.finditer(text):
        if match.start() < position:
            continue
        done.append(text[position : match.start()])
        if match[0] == "{":
            content, position = _braces(text, match.end())
            done.append(plain_prompt(content))
        else:
            done.append(match[0])
            position = match.end()
    done.append(text[position:])
    return re.sub(r"\\([{}|])", r"\1", "".join(done))


def _without_comments(text: str) -> str:
    """A comment that is not closed is none."""
    done, position = [], 0
    while (match := _COMMENT.search(text, position)) is not None:
        done.append(text[position : match.start()])
        position = match.end()
        if match[0] == "/*":
            end = text.find("*/", position)
            if end < 0:  # nor is any other one closed
                done.append(_LINE_COMMENT.sub("", text[match.start() :]))
                return "".join(done)
            position = end + 2
    return "".join([*done, text[position:]])


def _braces(text: str, position: int) -> tuple[str, int]:
    """What stands up to the matching brace, and the position behind it."""
    start, depth = position, 0
    for match in _IN_BRACES.finditer(text, position):
        if match[0] == "{":
            depth += 1
            if depth == MOST_BRACES:
                raise WorkflowError(
                    f"the text has braces in each other, more than {MOST_BRACES} levels deep; "
                    r"write \{ and \} for plain braces"
                )
        elif match[0] == "}":
            if depth == 0:
                return text[start : match.start()], match.end()
            depth -= 1
        elif match[0] == "|" and depth == 0:
            raise WorkflowError(
                f"the text {short_repr(text)} leaves a choice in braces, which the editor draws anew for each run; "
                r"write one of them, or \{ and \} for plain braces"
            )
    return text[start:], len(text)


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
