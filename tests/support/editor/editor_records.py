"""Exports of the editor, recorded by `pytest tests/browser --record-exports`."""

import json
from pathlib import Path
from typing import Any

RECORDS = sorted((Path(__file__).parents[2] / "data" / "exports").glob("*.json"))


def record(name: str) -> dict[str, Any]:
    """A graph, the editor's export of it, and the part of the host's `/object_info` that it needs."""
    return json.loads(next(path for path in RECORDS if path.stem == name).read_text())
