"""The one place where text leaves for the terminal: what is in it can neither steer the terminal nor speak in our name.

Texts come from workflows, servers, checkpoints and host logs. Imports rich and typer.
"""

import logging
import unicodedata

import typer
from rich.console import Console

console = Console(stderr=True)
_HARMLESS = "\n\t\u200c\u200d"  # the last two join letters and emoji
_STEERING = ("Cc", "Cf", "Cs", "Zl", "Zp")


def cleaned(text: str) -> str:
    """The text with everything that steers a terminal as escapes: control characters, directions, half characters."""
    if text.isascii() and text.replace("\n", "").isprintable():
        return text
    return "".join(
        char if char in _HARMLESS or unicodedata.category(char) not in _STEERING else _escaped(char) for char in text
    )


def one_line(text: str) -> str:
    """The same as `cleaned`, without a new line."""
    return cleaned(text).replace("\n", "\\n").replace("\t", " ")


def block(text: str) -> str:
    """The same, with every line but the first set in: one at the margin is ours, whatever the text says."""
    first, *others = cleaned(text).split("\n")
    return "\n".join([first, *(line if not line or line.startswith(" ") else f"  {line}" for line in others)])


def note(text: str, style: str | None = None) -> None:
    """Say something on standard error, as `ldm: ...`."""
    say(f"ldm: {text}", style)


def say(text: str, style: str | None = None) -> None:
    """Print a text on standard error."""
    console.print(block(text), style=style, markup=False, highlight=False, emoji=False, soft_wrap=True)


def result(text: object) -> None:
    """Print a result on standard output."""
    typer.echo(cleaned(str(text)))


def guard_logging() -> None:
    """Have what is logged without a handler of somebody's own leave in the same way."""
    if logging.lastResort is not None:
        logging.lastResort.setFormatter(_Printable())


class _Printable(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return block(super().format(record))


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode("ascii")
