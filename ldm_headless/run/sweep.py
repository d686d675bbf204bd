"""Many runs of one workflow: the product of value lists, table rows and seeds.

Imports seed_ranges, the targets of workflows and the errors.
"""

import csv
import io
import itertools
import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ldm_backend.errors import first_names, repeated
from ldm_backend.json_text import parse_json

from ..errors import JSONError, WorkflowError
from ..seed_ranges import parse_seeds
from ..workflows.targets import parse_target, split_assignment

MAX_JOBS, MAX_VALUES = 200_000, 2_000_000
"""Jobs of one command, and inputs that they set: more are a slip of the pen, such as seeds with too many digits."""

_MAX_TABLE = 64 * 2**20  # bytes

_ALTERNATIVES = re.compile(r"(?<!\\)\|")


@dataclass(frozen=True)
class Job:
    """One run.

    Args:
        name_values: What names of files may show: the values of `assignments` by the input's name, or by `node.input`
            where two nodes have an input of that name; and the seed as `seed`.
        assignments: `node.input` -> value, as `overrides.set_inputs` takes it.
        seed: For `overrides.set_seed`; None leaves the seeds of the workflow.
    """

    name_values: dict[str, str]
    assignments: dict[str, str]
    seed: int | None


def expand(
    sweeps: Sequence[str], seeds: str | None = None, table: Path | None = None, sets: Sequence[str] = ()
) -> list[Job]:
    r"""The runs that options describe: every sweep value with every other, with every table row, with every seed.

    Args:
        sweeps: `NODE.INPUT=a|b|c` (`\|` is a plain bar) or `NODE.INPUT=[1, 2, 3]` with a JSON list.
        seeds: Such as `0-99` or `3,5,8-10`, in this order.
        table: A CSV file with a header of `node.input`, or a file of JSON objects, one a line; a column named `seed`
            without a node sets the seed. An empty CSV cell leaves the input as it is.
        sets: `NODE.INPUT=VALUE`, for all runs.

    Returns:
        At least one job. Seeds change fastest, then table rows, then the last sweep.

    Raises:
        WorkflowError: Something cannot be read, says a thing twice, or there are more than `MAX_JOBS` or `MAX_VALUES`.
        JobError: Seeds that cannot be read.
    """
    axes = [*([_set(text)] for text in sets), *(_sweep(text) for text in sweeps)]
    if table is not None:
        axes.append(_table(table))
    numbers = parse_seeds(seeds) if seeds is not None else []
    _check_size(axes, len(numbers) or 1)
    keys = [key for axis in axes for key in dict.fromkeys(key for row in axis for key in row)]
    twice = set(repeated(keys)) | ({"seed"} if numbers and "seed" in keys else set())
    if twice:
        raise WorkflowError(
            f"{', '.join(sorted(twice))} is given twice by --set, --sweep, --table and the seeds; keep one"
        )
    seed_axis = [{"seed": str(number)} for number in numbers] or [{}]
    inputs = {key: key if key == "seed" else parse_target(key)[1] for key in keys}
    counts = Counter(inputs.values())
    named = {key: short if counts[short] == 1 else key for key, short in inputs.items()}
    return [_job(row, named) for row in itertools.product(*axes, seed_axis)]


def _job(parts: tuple[dict[str, str], ...], named: Mapping[str, str]) -> Job:
    values = {key: value for part in parts for key, value in part.items()}
    seed = values.pop("seed", None)
    names = {named[key]: value for key, value in values.items()}
    return Job(names if seed is None else {**names, "seed": seed}, values, None if seed is None else int(seed))


def _set(text: str) -> dict[str, str]:
    parts = split_assignment(text)
    if parts is None:
        raise WorkflowError(f"cannot read --set {text!r}; expected NODE.INPUT=VALUE")
    return dict([parts])


def _sweep(text: str) -> list[dict[str, str]]:
    parts = split_assignment(text)
    if parts is None:
        raise WorkflowError(f"cannot read --sweep {text!r}; expected NODE.INPUT=a|b|c or NODE.INPUT=[1, 2, 3]")
    target, values = parts
    listed = _json_list(values)
    if listed is None:
        listed = [part.replace("\\|", "|") for part in _ALTERNATIVES.split(values)]
    if not listed:
        raise WorkflowError(f"--sweep {text!r} has no values; expected at least one")
    return [{target: _text(value)} for value in listed]


def _json_list(text: str) -> list[Any] | None:
    try:
        value = parse_json(text)
    except JSONError:
        return None
    return value if isinstance(value, list) else None


def _check_size(axes: Sequence[Sequence[dict[str, str]]], count: int) -> None:
    for axis in axes:
        count *= len(axis)
    if count > MAX_JOBS:
        raise WorkflowError(f"these options make {count:,} runs; at most {MAX_JOBS:,} are taken: split them")
    values = sum(count // len(axis) * sum(map(len, axis)) for axis in axes if axis)
    if values > MAX_VALUES:
        raise WorkflowError(
            f"these options set {values:,} inputs in {count:,} runs; at most {MAX_VALUES:,} are taken: split them"
        )


def _table(path: Path) -> list[dict[str, str]]:
    try:
        if (size := path.stat().st_size) > _MAX_TABLE:
            raise WorkflowError(f"the table {path} has {size:,} bytes; at most {_MAX_TABLE:,} are taken: split it")
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise WorkflowError(f"cannot read the table {path}: {error.strerror}; check the path") from error
    except UnicodeDecodeError as error:
        raise WorkflowError(f"the table {path} is not UTF-8 text; save it as such") from error
    rows = _json_rows(text, path) if text.lstrip().startswith("{") else _csv_rows(text, path)
    if not rows:
        raise WorkflowError(f"the table {path} has no rows; expected a header and a line for each run")
    for number, row in enumerate(rows, 1):
        wrong = [key for key in row if key != "seed" and "." not in key]
        if wrong:
            raise WorkflowError(f"{path}: the columns {first_names(wrong)} are no inputs; expected NODE.INPUT, or seed")
        if not row.get("seed", "0").isdecimal():
            raise WorkflowError(
                f"{path}, row {number}: the seed {row['seed']!r} is no whole number of 0 or more; correct it"
            )
    return rows


def _csv_rows(text: str, path: Path) -> list[dict[str, str]]:
    try:
        lines = [line for line in csv.reader(io.StringIO(text, newline="")) if line]
    except csv.Error as error:
        raise WorkflowError(
            f"the table {path} cannot be read as CSV: {error}; take JSON lines for long texts"
        ) from error
    header = [cell.strip() for cell in lines[0]] if lines else []
    if len(set(header)) < len(header):
        raise WorkflowError(f"the header of {path} names a column twice: {first_names(repeated(header))}; keep one")
    for number, line in enumerate(lines[1:], 1):
        if len(line) != len(header):
            raise WorkflowError(
                f"{path}, row {number}: {len(line)} cells; the header has {len(header)}; correct the row"
            )
    return [{key: cell for key, cell in zip(header, line, strict=True) if cell != ""} for line in lines[1:]]


def _json_rows(text: str, path: Path) -> list[dict[str, str]]:
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = parse_json(line)
        except JSONError as error:
            raise WorkflowError(f"{path}, line {number} is not JSON: {error}; expected one object a line") from error
        if not isinstance(row, dict):
            raise WorkflowError(f"{path}, line {number} is no JSON object of NODE.INPUT and value; correct it")
        rows.append({str(key): _text(value) for key, value in row.items()})
    return rows


def _text(value: object) -> str:
    """As `set_inputs` reads it again: texts as they are, other values as JSON."""
    return value if isinstance(value, str) else json.dumps(value)
