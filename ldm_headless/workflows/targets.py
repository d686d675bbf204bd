r"""What `--set`, `--sweep` and tables name: `NODE.INPUT`, where each of both may stand in double quotes.

    target = node "." input
    node   = quoted | characters without "=", up to the last dot
    input  = quoted | characters without "="; after a quoted node they may hold dots
    quoted = '"' { any character but '"' and '\' | '\"' | '\\' } '"'

Imports the errors.
"""

import re

from ldm_backend.errors import printable

from ..errors import WorkflowError

_QUOTED = re.compile(r'"((?:[^"\\]|\\["\\])*)"')
_ESCAPE = re.compile(r'\\(["\\])')


def split_assignment(text: str) -> tuple[str, str] | None:
    """The target and the value of `NODE.INPUT=VALUE`; None where it is no such text.

    Raises:
        WorkflowError: Quotes that are not closed, or that something follows which is neither a dot nor an equal sign.
    """
    first = _quoted_end(text, 0)
    dot = first if first else text.find(".")
    second = _quoted_end(text, dot + 1) if first and text[dot : dot + 1] == "." else 0
    if second and text[second : second + 1] != "=":
        raise _unclosed(text)
    sign = second if second else text.find("=", first)
    if sign < 0 or not 0 < dot < sign:
        return None
    return text[:sign], text[sign + 1 :]


def parse_target(target: str) -> tuple[str, str]:
    """The node (an id or a title) and the input that a target names, without their quotes.

    Raises:
        WorkflowError: It names no input, or its quotes are not closed.
    """
    end = _quoted_end(target, 0)
    if end:
        node, dot, name = _plain(target[:end]), target[end : end + 1], target[end + 1 :]
        name_end = _quoted_end(name, 0)
        if name_end and name_end < len(name):
            raise _unclosed(target)
        name = _plain(name) if name_end else name
    else:
        node, dot, name = target.rpartition(".")
    if not dot:
        raise WorkflowError(f"cannot set {printable(target)!r}; expected NODE.INPUT, for example KSampler.seed")
    return node, name


def quoted_target(node: str, name: str) -> str:
    """The target that names an input of a node, whatever characters both hold."""
    parts = (part.replace("\\", r"\\").replace('"', r"\"") for part in (node, name))
    return ".".join(f'"{part}"' for part in parts)


def _quoted_end(text: str, start: int) -> int:
    """The place behind the quoted name that begins at `start`; 0 where none begins there."""
    if text[start : start + 1] != '"':
        return 0
    found = _QUOTED.match(text, start)
    if found is None or text[found.end() : found.end() + 1] not in ("", ".", "="):
        raise _unclosed(text)
    return found.end()


def _plain(quoted: str) -> str:
    return _ESCAPE.sub(r"\1", quoted[1:-1])


def _unclosed(text: str) -> WorkflowError:
    return WorkflowError(
        f"cannot read {printable(text)!r}: a name that begins with a quote must end with one, before a dot or an "
        "equal sign; "
        'a quote in it is written \\" and a backslash \\\\, as in \'"My = title.x".seed=5\''
    )
