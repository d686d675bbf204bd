"""What a run has found so far, as one JSON file and the Markdown made of it; both are whole at any moment.

A stage and the program that runs it write the same file in turn, never at once. The standard library only.

    python benchmarks/gpu/record.py FIRST.json SECOND.json --out benchmarks/results

joins the results of several commands on the same device into one file.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

NAMED_BY = "LDM_GPU_RESULTS"
"""Environment variable that tells a stage which file to write."""


class Results:
    """The file of a run.

    Args:
        path: of the JSON; the Markdown lies beside it under the same name.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def read(self) -> dict[str, Any]:
        """Everything so far."""
        empty: dict[str, Any] = {"head": {}, "stages": {}}
        return json.loads(self.path.read_text(encoding="utf-8")) if self.path.is_file() else empty

    def write(self, found: dict[str, Any]) -> None:
        """Replace both files, each as a whole: whoever is ended in between leaves the last ones."""
        replace(self.path.with_suffix(".md"), markdown(found))
        replace(self.path, json.dumps(found, indent=1, ensure_ascii=False) + "\n")

    def head(self, **facts: Any) -> None:
        """Note facts of the whole run."""
        found = self.read()
        found["head"].update(facts)
        self.write(found)

    def note(self, stage: str, **facts: Any) -> None:
        """Note facts of a stage, such as its status."""
        found = self.read()
        found["stages"].setdefault(stage, {"tables": {}}).update(facts)
        self.write(found)

    def row(self, stage: str, table: str, **cells: Any) -> None:
        """Append a line to a table of a stage; the first line's names are the columns."""
        found = self.read()
        tables = found["stages"].setdefault(stage, {}).setdefault("tables", {})
        tables.setdefault(table, []).append(cells)
        self.write(found)


def replace(path: Path, text: str) -> None:
    """Write a file so that it is whole or absent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}-{os.getpid()}")
    new.write_text(text, encoding="utf-8")
    new.replace(path)


def spread(values: Sequence[float], form: str = ".3f") -> dict[str, float | str]:
    """Least, median and most as numbers; `text` for people."""
    low, middle, high = min(values), statistics.median(values), max(values)
    text = f"{format(middle, form)} ({format(low, form)} to {format(high, form)})"
    return {"min": low, "median": middle, "max": high, "runs": len(values), "text": text}


def cell(value: Any) -> str:
    """A value in a table."""
    if isinstance(value, dict):
        return str(value.get("text", value))
    if isinstance(value, float):
        return format(value, ".4g")
    return str(value).replace("|", "\\|").replace("\n", " ")


def table_lines(rows: list[dict[str, Any]]) -> list[str]:
    """A Markdown table."""
    columns = list(dict.fromkeys(name for row in rows for name in row))
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    return lines + ["| " + " | ".join(cell(row.get(name, "")) for name in columns) + " |" for row in rows]


def markdown(found: dict[str, Any]) -> str:
    """The report."""
    head = found["head"]
    lines = [f"# {head.get('device', 'GPU kit')}, {head.get('date', '')}", ""]
    lines += [f"- {name}: {cell(value)}" for name, value in head.items() if name not in ("device", "date")]
    lines += ["", "Times: median (least to most). `benchmarks/gpu/README.md` says what each stage is.", ""]
    summary = [
        {"stage": name, "status": stage.get("status", "?"), "seconds": stage.get("seconds", "")}
        for name, stage in found["stages"].items()
    ]
    lines += [*table_lines(summary), ""] if summary else []
    for name, stage in found["stages"].items():
        lines += [f"## {name}: {stage.get('status', '?')}", ""]
        lines += [f"{stage['text']}", ""] if stage.get("text") else []
        flags = ", ".join(f"{flag} {value}" for flag, value in stage.get("torch_flags", {}).items())
        lines += [f"torch: {flags}.", ""] if flags else []
        for title, rows in stage.get("tables", {}).items():
            lines += [f"### {title}", "", *table_lines(rows), ""]
    return "\n".join(lines)


def file_name(device: str) -> str:
    """gpu-<device>-<date>, in letters, digits and hyphens."""
    slug = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-")
    return f"gpu-{slug}-{time.strftime('%Y-%m-%d')}"


def join(files: Sequence[Path]) -> dict[str, Any]:
    """One run of several; a stage that is in more than one is taken from the last.

    Raises:
        SystemExit: They are of different devices or commits.
    """
    runs = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    for fact in ("device", "commit"):
        if len({run["head"].get(fact) for run in runs}) != 1:
            raise SystemExit(f"These runs differ in {fact}; they do not belong together.")
    joined: dict[str, Any] = {"head": runs[-1]["head"], "stages": {}}
    for run in runs:
        joined["stages"].update(run["stages"])
    return joined


def main() -> None:
    """Join."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("files", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"))
    given = parser.parse_args()
    joined = join(given.files)
    path = given.out / f"{file_name(joined['head']['device'])}.json"
    Results(path).write(joined)
    sys.stdout.write(f"{path}\n")


if __name__ == "__main__":
    main()
