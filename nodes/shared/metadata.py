"""What a saved file carries beside its content: the prompt, the workflow and what else the host hands over, as JSON.

Anything may be in there, since whoever sends a prompt writes it. What `ldm run` and the loader would not take from the
file again is left out, with a line in the log; the file itself is always written.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping
from typing import Any

from ...ldm_backend.errors import first_names, short_repr
from ...ldm_backend.json_text import MAX_LEVELS, MAX_NUMBER
from ..host.outputs import extra_values

_LOG = logging.getLogger("comfyui_ldm")

MOST_IN_PNG = 32 * 2**20
"""Bytes of all texts of a picture. Pillow, and so Load Image, opens none with more than 64 MiB."""

MOST_IN_HEADER = 6 * 2**20
"""Bytes of all texts of a checkpoint, as its header holds them: the reader takes 8 MiB, with the table of tensors."""

_MOST_TEXTS = 64
_MOST_IN_A_NAME = 79  # Latin letters of the name of a text in a PNG


class _LeftOutError(ValueError):
    """Why a value is left out."""


def workflow_texts(hidden: Any, task: str, most: int, own: Mapping[str, Any] | None = None) -> dict[str, str]:
    """What the host itself writes into a saved image, `prompt`, `workflow` and other extra values, each as JSON.

    Args:
        hidden: Of the node; empty when the user has switched metadata off.
        task: The node, for the log.
        most: Bytes for all texts, as JSON holds them once more.
        own: This pack's, by name: no value of the host may take one of these names. They come first; empty ones are
            not written.

    Returns:
        Texts by name: those that can be read again.
    """
    given = extra_values(hidden)
    if given is None:
        return {}
    own = own or {}
    texts: dict[str, str] = {}
    left_out: dict[str, str] = {}
    for name, value in (*((name, value) for name, value in own.items() if value), *_named(given, own, left_out)):
        try:
            if len(texts) >= _MOST_TEXTS:
                raise _LeftOutError(f"there are more than {_MOST_TEXTS} texts")
            text, size = _json_text(value, most)
            if size > most:
                raise _LeftOutError(f"with it the texts would have more than {most >> 20} MiB")
        except _LeftOutError as reason:
            left_out[name] = str(reason)
            continue
        texts[name] = text
        most -= size
    if left_out:
        names, reason = first_names(set(left_out)), next(iter(left_out.values()))
        _LOG.warning("%s: saved without %s in the file's metadata: %s.", task, names, reason)
    return texts


def _named(given: list[Any], own: Mapping[str, Any], left_out: dict[str, str]) -> Iterator[tuple[str, Any]]:
    """What can be written under its name; what cannot goes into `left_out`, with the reason."""
    for values in given:
        if not isinstance(values, dict):
            left_out["extra_pnginfo"] = f"it is a {type(values).__name__}, no object"
            continue
        for name, value in values.items():
            if not isinstance(name, str) or not _is_name(name):
                left_out[short_repr(name)] = f"a name has 1 to {_MOST_IN_A_NAME} Latin letters"
            elif name in own:
                left_out[name] = "the name is this pack's own"
            else:
                yield name, value


def _is_name(name: str) -> bool:
    latin = all(" " <= letter <= "~" or "\xa1" <= letter <= "\xff" for letter in name)
    return 1 <= len(name) <= _MOST_IN_A_NAME and latin and name == name.strip()


def _json_text(value: Any, most: int) -> tuple[str, int]:
    """JSON of a value, NaN and infinities as Python and the host write them, and its length as JSON in JSON.

    Raises:
        _LeftOutError: JSON cannot hold the value, or readers do not take it.
    """
    _check(value, most)
    text = json.dumps(value)
    return text, len(json.dumps(text))


def _check(value: Any, most: int) -> None:
    """Walk through a value without recursion, as far as `most` letters go: it may be of any depth, or hold itself."""
    waiting = [(value, 0)]
    while waiting:
        each, level = waiting.pop()
        most -= len(each) if isinstance(each, str) else 1
        if most < 0:
            raise _LeftOutError("it is too large")
        if isinstance(each, dict | list | tuple):
            if level >= MAX_LEVELS:
                raise _LeftOutError(f"lists and objects lie in each other, more than {MAX_LEVELS} levels deep")
            if isinstance(each, dict):
                if not all(isinstance(key, str) for key in each):
                    raise _LeftOutError("an object in it has keys that are no texts")
                waiting += [(key, level + 1) for key in each]
            waiting += [(inner, level + 1) for inner in (each.values() if isinstance(each, dict) else each)]
        elif isinstance(each, str):
            if not each.isascii() and any("\ud800" <= letter <= "\udfff" for letter in each):
                raise _LeftOutError("a text in it holds half of a character (a lone surrogate)")
        elif isinstance(each, int) and not -MAX_NUMBER <= each <= MAX_NUMBER:
            raise _LeftOutError("a number in it has more than 308 digits")
        elif each is not None and not isinstance(each, int | float):
            raise _LeftOutError(f"it holds a {type(each).__name__}, which is none of JSON's kinds")
