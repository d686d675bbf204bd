"""Workflow files of which something is odd: whatever it is, a prompt comes out or an error of the family, soon."""

from __future__ import annotations

import copy
import json
import os
import random
import time
from pathlib import Path
from typing import Any

import pytest
from editor_records import RECORDS, record

from ldm_backend.errors import LDMError
from ldm_headless.errors import WorkflowError
from ldm_headless.workflows.workflow import load_workflow, to_prompt

GRAPHS = int(os.environ.get("LDM_GRAPHS", "700"))  # 6000 in the long form
ODD: tuple[Any, ...] = (
    None, True, -1, 0, 2**70, 0.5, 1e308, "", "x", "7", "-10", "%a.b%", "{a|{b|c}}", "/*", [], [[]], [1, 2], {},
    {"a": 1}, {"nodes": []}, [[1, 1, 0, 2, 0, "IMAGE"]], float("nan"), float("inf"), "\x1b[2J", "é" * 50,
)  # fmt: skip


def places(value: Any, above: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [above, *(place for key, inner in items for place in places(inner, (*above, key)))]


def changed(graph: Any, chance: random.Random) -> Any:
    graph = copy.deepcopy(graph)
    for _ in range(chance.choice((1, 1, 2, 4))):
        place = chance.choice(places(graph)[1:])
        holder = graph
        for key in place[:-1]:
            holder = holder[key]
        match chance.randrange(4):
            case 0:
                del holder[place[-1]]
            case 1 if isinstance(holder, list):
                holder.insert(place[-1], copy.deepcopy(chance.choice(holder)))
            case _:
                holder[place[-1]] = copy.deepcopy(chance.choice(ODD))
    return graph


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_graphs_of_which_something_is_odd(tmp_path: Path, path: Path) -> None:
    known, chance, messages = record(path.stem), random.Random(path.stem), []
    for number in range(GRAPHS // len(RECORDS)):
        graph = changed(known["graph"], chance)
        (tmp_path / "a.json").write_text(json.dumps(graph))
        start = time.monotonic()
        try:
            to_prompt(load_workflow(tmp_path / "a.json"), known["object_info"])
        except LDMError as error:
            messages.append(str(error))
        assert time.monotonic() - start < 5, number
    assert messages
    assert [message for message in messages if "a.json" not in message or not message.isprintable()] == []


@pytest.mark.parametrize(
    ("link", "words"),
    [([1], "link has the id"), ({}, "link has the id"), (1.5, "link has the id"), (True, "link has the id")],
)
def test_an_odd_id_of_a_link_is_told(tmp_path: Path, link: object, words: str) -> None:
    graph = {"nodes": [{"id": 1, "type": "A", "inputs": [{"name": "a", "type": "X", "link": link}]}], "links": []}
    (tmp_path / "a.json").write_text(json.dumps(graph))
    with pytest.raises(WorkflowError, match=words):
        to_prompt(load_workflow(tmp_path / "a.json"), {})


def test_two_nodes_of_one_id_are_told(tmp_path: Path) -> None:
    nodes = [{"id": 1, "type": kind, "inputs": []} for kind in ("A", "B")]
    (tmp_path / "a.json").write_text(json.dumps({"nodes": nodes, "links": []}))
    with pytest.raises(WorkflowError, match="several nodes have the id 1"):
        to_prompt(load_workflow(tmp_path / "a.json"), {})


def nested(levels: int, uses: int) -> dict[str, Any]:
    """A subgraph that is used so many times in each of so many levels."""
    definitions = []
    for level in range(levels):
        inner = "Leaf" if level == 0 else f"level-{level - 1}"
        nodes = [{"id": index, "type": inner, "inputs": [], "outputs": []} for index in range(1, uses + 1)]
        definitions.append({"id": f"level-{level}", "name": f"L{level}", "nodes": nodes, "links": []})
    top = {"id": 1, "type": f"level-{levels - 1}", "inputs": [], "outputs": []}
    return {"nodes": [top], "links": [], "definitions": {"subgraphs": definitions}}


@pytest.mark.parametrize(("levels", "uses"), [(15, 10), (40, 2), (3, 60)])
def test_subgraphs_that_grow_without_end_are_refused(tmp_path: Path, levels: int, uses: int) -> None:
    (tmp_path / "a.json").write_text(json.dumps(nested(levels, uses)))
    start = time.monotonic()
    with pytest.raises(WorkflowError, match="unfold into more than 20000 nodes"):
        to_prompt(load_workflow(tmp_path / "a.json"), {"Leaf": {"input": {}, "output": [], "output_node": True}})
    assert time.monotonic() - start < 5


def test_thousands_of_missing_types_make_a_short_message(tmp_path: Path) -> None:
    nodes = [{"id": index, "type": f"Type {index}" * 50, "inputs": []} for index in range(2000)]
    (tmp_path / "a.json").write_text(json.dumps({"nodes": nodes, "links": []}))
    start = time.monotonic()
    with pytest.raises(WorkflowError, match="and 1988 more types") as caught:
        to_prompt(load_workflow(tmp_path / "a.json"), {})
    assert len(str(caught.value)) < 5000
    assert time.monotonic() - start < 5
