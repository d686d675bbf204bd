"""The error family. Every message says what was found, what was expected and what to do.

Imports only the standard library. What comes out of a file goes into a message through the functions at the end.
"""

from __future__ import annotations

import reprlib
from collections import Counter
from collections.abc import Iterable
from typing import Any

# ComfyUI names a pack's modules by its folder, and shows the name of an error's module before what it says.
_FOLDER = __name__.removesuffix("ldm_backend.errors")


class LDMError(ValueError):
    """Base of everything this project raises on purpose; catch this one to catch them all."""

    def __init_subclass__(cls) -> None:
        cls.__module__ = cls.__module__.removeprefix(_FOLDER)


class ConfigError(LDMError):
    """A configuration file or value that describes no model this project can build."""


class CheckpointError(LDMError):
    """A checkpoint that is missing, damaged, refused for safety, or whose tensors do not fit its configuration."""


class JSONError(LDMError):
    """A text that is not JSON, or JSON that nothing can use. Readers say of which file it is, in an error of theirs."""


class ScheduleError(LDMError):
    """A step count, grid, eta or sampler that is not defined for this schedule."""


class SamplingError(LDMError):
    """A run that cannot go on, because the model returned numbers that are none."""


class SaveError(LDMError):
    """A file of the output folder that cannot be written."""


class InputError(LDMError):
    """A latent, image, size, seed or model handed to a function or node that cannot take it."""


class TooLargeError(InputError):
    """A request that needs more memory than there is, refused before it begins or given up after smaller attempts."""


_BRIEF = reprlib.Repr()
_BRIEF.maxlevel, _BRIEF.maxdict, _BRIEF.maxlist, _BRIEF.maxtuple = 2, 6, 12, 12
_BRIEF.maxstring = _BRIEF.maxother = 100


def short_repr(value: Any) -> str:
    """A value out of a file as Python writes it, without the middle of a long one and the depths of a nested one."""
    try:
        return _BRIEF.repr(value)
    except ValueError:  # Python refuses to write a number of thousands of digits
        return f"{type(value).__name__} of extreme size"


def check_choice(name: str, value: Any, choices: Iterable[str], error: type[LDMError]) -> None:
    """Raise `error` unless a value, which may be any of JSON, is one of these names."""
    names = tuple(choices)  # compared, not hashed: a list or an object is no key
    if value not in names:
        raise error(f"{name} is {short_repr(value)}; choose one of {', '.join(names)}.")


def printable(text: str, limit: int = 100) -> str:
    """A text out of a file, fit for a message or a terminal: cut after `limit`, control characters as escapes."""
    cut = text if len(text) <= limit else f"{text[:limit]}..."
    return cut if cut.isprintable() else cut.encode("unicode_escape").decode("ascii")


def is_text(text: str) -> bool:
    """Whether it can be written as UTF-8: it holds no half of a character, as names of files with other bytes do."""
    if text.isascii():
        return True
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def repeated(names: Iterable[str]) -> list[str]:
    """Those names that are there more than once, each once, in the order in which they first come."""
    return [name for name, count in Counter(names).items() if count > 1]


def first_names(names: list[str] | set[str] | tuple[str, ...], limit: int = 5) -> str:
    """Sorted names for a message, cut after `limit`: 'a, b, c (and 4 more)'."""
    ordered = [printable(name) for name in sorted(names)]
    more = f" (and {len(ordered) - limit} more)" if len(ordered) > limit else ""
    return ", ".join(ordered[:limit]) + more
