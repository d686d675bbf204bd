"""The small JSON file of fitted steps: every key is used, and another one is refused."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import InputError, JSONError, LDMError, SaveError, check_choice, first_names, short_repr
from ..json_text import parse_json
from ..sampling.fitted import (
    FITTED_SAMPLERS,
    LEAST_EVALUATIONS,
    MOST_EVALUATIONS,
    FittedSteps,
    Rows,
    check_coefficients,
    check_timesteps,
)  # fmt: skip
from ..whole_files import write_whole

_FORMAT = "ldm-fitted-steps-2"
_KEYS = ("format", "model", "sampler", "evaluations", "timesteps", "coefficients")
_MOST_BYTES = 64 * 2**10
_SHA256 = re.compile(r"[0-9a-f]{64}")


def write_fitted_steps(path: str | Path, steps: FittedSteps) -> None:
    """Write them, whole or not at all; a file that is there is replaced.

    Raises:
        SaveError: It cannot be written.
    """
    values = (_FORMAT, steps.model, steps.sampler, len(steps.timesteps), steps.timesteps, steps.coefficients)
    text = json.dumps(dict(zip(_KEYS, values, strict=True)), indent=2) + "\n"
    try:
        write_whole(Path(path), text.encode())
    except OSError as error:
        raise SaveError(f"{path}: cannot be written ({error.strerror}). Make room, or give another place.") from error


def read_fitted_steps(file: str | Path) -> FittedSteps:
    """What `write_fitted_steps` wrote.

    Raises:
        InputError: It is no such file, or holds what no fit makes; the message says what.
    """
    try:
        with Path(file).open("rb") as stream:
            data = stream.read(_MOST_BYTES + 1)
    except OSError as error:
        raise InputError(f"{file}: cannot be read ({error.strerror}). Check the path.") from error
    if len(data) > _MOST_BYTES:
        raise InputError(f"{file}: longer than {_MOST_BYTES} bytes; expected a file that `ldm fit-steps` wrote.")
    try:
        return _steps_in(parse_json(data))
    except JSONError as error:
        raise InputError(f"{file} is not JSON: {error}. Give a file that `ldm fit-steps` wrote.") from error
    except LDMError as error:
        raise InputError(f"{file}: {error}") from error


def _steps_in(found: Any) -> FittedSteps:
    if not isinstance(found, Mapping) or found.get("format") != _FORMAT:
        raise InputError(f"it is no object with the format {_FORMAT!r}; give a file that `ldm fit-steps` wrote.")
    if odd := {str(key) for key in found} ^ set(_KEYS):
        raise InputError(
            f"keys are missing or unknown: {first_names(odd)}; expected {', '.join(_KEYS)}. Give a file that "
            "`ldm fit-steps` wrote."
        )
    check_choice("sampler", found["sampler"], FITTED_SAMPLERS, InputError)
    model, count, timesteps = found["model"], found["evaluations"], found["timesteps"]
    if not isinstance(model, str) or not _SHA256.fullmatch(model):
        raise InputError(f"model is {short_repr(model)}; expected 64 hexadecimal digits. Fit the steps again.")
    if type(count) is not int or not LEAST_EVALUATIONS <= count <= MOST_EVALUATIONS:
        raise InputError(
            f"evaluations is {short_repr(count)}; expected {LEAST_EVALUATIONS} to {MOST_EVALUATIONS}. Fit the steps "
            "again."
        )
    if not isinstance(timesteps, list) or len(timesteps) != count or not all(map(_is_number, timesteps)):
        raise InputError(f"timesteps is {short_repr(timesteps)}; expected a list of {count} numbers. Fit them again.")
    # The schedule, which says where they begin, is known when they are used.
    check_timesteps(timesteps, int(min(timesteps[0], 2**53)) + 1)
    return FittedSteps(model, found["sampler"], tuple(map(float, timesteps)), _rows_in(found["coefficients"], count))


def _rows_in(rows: Any, steps: int) -> Rows:
    lists = isinstance(rows, list) and all(isinstance(row, list) for row in rows)
    if not lists or not all(_is_number(each) for row in rows for each in row):
        raise InputError(
            f"coefficients is {short_repr(rows)}; expected a list of numbers for each step. Fit them again."
        )
    check_coefficients(rows, steps)
    return tuple(tuple(map(float, row)) for row in rows)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
