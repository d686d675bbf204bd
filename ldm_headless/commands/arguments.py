"""The door of every command: texts and paths that nothing could use end here, before anything is read or written."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from typer.core import TyperCommand

from ldm_backend.errors import is_text, printable

from ..errors import ArgumentError

_MOST_LEVELS = 200  # of folders in each other; what makes or walks them takes a call for each
_MOST_DIGITS = 18  # hexadecimal ones of a whole number; seeds have 16
_TEXTS_WITH_PATHS = ("checkpoint", "model", "config", "features")  # or a name on the hub, of a preset, of features


class DoorCommand(TyperCommand):
    """A command that looks at all of its values before it runs."""

    def invoke(self, ctx: Any) -> Any:
        """Run it.

        Raises:
            ArgumentError: A value that nothing could use; the message names the option.
        """
        for parameter in self.params:
            for value in _each(ctx.params.get(parameter.name or "")):
                _check(str(parameter.name), parameter.opts[0], value)
        return super().invoke(ctx)


def _each(value: Any) -> Iterator[Any]:
    yield from value if isinstance(value, list | tuple) else [value]


def _check(name: str, option: str, value: Any) -> None:
    where = option if option.startswith("-") else option.upper()
    is_path = isinstance(value, Path) or (name in _TEXTS_WITH_PATHS and isinstance(value, str))
    if isinstance(value, int) and len(f"{abs(value):x}") > _MOST_DIGITS:
        raise ArgumentError(f"{where} is a number of extreme size; give one that a machine can count to")
    if isinstance(value, str | Path):
        _check_text(where, str(value), is_path)
    if is_path:
        _check_path(where, str(value))


def _check_text(where: str, text: str, is_path: bool) -> None:
    if "\0" in text:
        raise ArgumentError(f"{where} holds a NUL, which no text or name of a file can: {printable(text)!r}")
    if not is_path and not is_text(text):  # names of files may be any bytes
        raise ArgumentError(f"{where} is no UTF-8 text: {printable(text)!r}; correct its encoding")


def _check_path(where: str, text: str) -> None:
    """Refuse what the system takes for no path, and devices, which have no end."""
    if not text:
        raise ArgumentError(f"{where} is empty; give a path or name")
    if len(Path(text).parts) > _MOST_LEVELS:
        raise ArgumentError(
            f"{where} leads through more than {_MOST_LEVELS} folders in each other: {printable(text)!r}; give a "
            "shorter path"
        )
    try:
        mode = os.stat(text).st_mode
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return  # whoever uses it says so, or makes it
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or type(error).__name__
        raise ArgumentError(f"{where}: {printable(text)!r} is no path here ({reason}); give another one") from error
    if stat.S_ISCHR(mode) or stat.S_ISBLK(mode):
        raise ArgumentError(f"{where}: {printable(text)} is a device; expected a file or folder")
