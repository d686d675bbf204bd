"""JSON out of files: what nothing could use is refused with its place, whatever reads it."""

import ast
import json
import math
from pathlib import Path
from typing import Any

import pytest

from ldm_backend.json_text import MAX_LEVELS, not_finite, parse_json
from ldm_headless import load_workflow
from ldm_headless.errors import HostError, JSONError, WorkflowError
from ldm_headless.host.install import install_host
from ldm_headless.ui_format.export import export_prompt

ROOT = Path(__file__).parents[2]
GRAPH = {"nodes": [{"id": 1, "type": "A", "properties": {}}], "links": []}


@pytest.mark.parametrize("value", [None, 3, -1.5, "caf\u00e9 \U0001f600", [], {"a": [{"b": 1}]}, 2**64])
def test_what_is_json_is_read(value: Any) -> None:
    for text in (json.dumps(value), json.dumps(value).encode(), json.dumps(value, ensure_ascii=False).encode("utf-16")):
        assert parse_json(text) == value


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "Expecting property name"),
        ("[" * 200_000, f"more than {MAX_LEVELS} levels deep"),
        ('{"a":' * 200_000, f"more than {MAX_LEVELS} levels deep"),
        ("[" * (MAX_LEVELS + 1) + "]" * (MAX_LEVELS + 1), f"more than {MAX_LEVELS} levels deep"),
        ('{"a": [1, {"b": 1, "b": 2}]}', "the key 'b' twice"),
        ('{"a": [0, ' + "9" * 400 + "]}", "the number at a.1 has more than 308 digits"),
        ("9" * 5000, "thousands of digits"),
        ('{"a": "\\ud800"}', "the text at a holds half of a character"),
        ('{"\\ud800": 1}', "half of a character"),
        (b'{"a": "\xe9"}', "byte 7 is no UTF-8 text"),
    ],
)
def test_what_nothing_could_use_is_refused(text: str | bytes, message: str) -> None:
    with pytest.raises(JSONError, match=message) as caught:
        parse_json(text)
    assert len(str(caught.value)) < 300


def test_the_deepest_that_is_taken_can_be_written() -> None:
    text = "[" * MAX_LEVELS + "]" * MAX_LEVELS
    assert json.dumps(parse_json(text)) == text


def test_numbers_that_are_none_are_found() -> None:
    assert not_finite(parse_json('{"a": [1, {"b": NaN}]}')) == "a.1.b"
    assert not_finite(parse_json("[0, 1e400]")) == "1"
    assert not_finite(math.inf) == "the top"
    assert not_finite({"a": [1.5, "NaN", 2**80]}) is None


@pytest.mark.parametrize("number", ["NaN", "Infinity", "-Infinity", "1e400"])
@pytest.mark.parametrize(
    ("text", "place"),
    [
        ('{"7": {"class_type": "A", "inputs": {"x": [[0, #]]}}}', "7.inputs.x.0.1"),
        ('{"7": {"class_type": "A", "inputs": {}, "_meta": {"title": #}}}', "7._meta.title"),
        (json.dumps(GRAPH).replace('"properties": {}', '"properties": {"p": #}'), "nodes.0.properties.p"),
        (json.dumps(GRAPH).replace('"properties": {}', '"widgets_values": [#]'), "nodes.0.widgets_values.0"),
    ],
)
def test_a_workflow_with_such_a_number_is_explained(tmp_path: Path, text: str, place: str, number: str) -> None:
    (tmp_path / "a.json").write_text(text.replace("#", number))
    with pytest.raises(WorkflowError, match=rf"a\.json: {place} is NaN or infinite; expected a finite number"):
        load_workflow(tmp_path / "a.json")


def test_what_a_host_noted_may_be_such_a_number(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"7": {"class_type": "A", "inputs": {}, "is_changed": [NaN]}}')
    assert load_workflow(tmp_path / "a.json").prompt == {"7": {"class_type": "A", "inputs": {}}}


def test_a_deep_workflow_is_explained(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text("[" * 200_000)
    with pytest.raises(WorkflowError, match=r"a\.json is not JSON: lists and objects lie in each other"):
        load_workflow(tmp_path / "a.json")


def test_views_that_are_not_json_are_explained() -> None:
    inside = {"id": "sub", "name": "S", "nodes": [], "links": []}
    for text in ("{", "[" * 200_000):
        node = {"id": 1, "type": "sub", "properties": {"proxyWidgets": text}}
        graph = {"nodes": [node], "links": [], "definitions": {"subgraphs": [inside]}}
        with pytest.raises(WorkflowError, match=r"proxyWidgets of a subgraph's node is not JSON"):
            export_prompt(graph, {}, "x")


def test_a_mark_of_a_private_host_that_is_damaged_is_none(tmp_path: Path) -> None:
    for text in ("{", "[" * 200_000, "[]"):
        (tmp_path / ".installed-from.json").write_text(text)
        with pytest.raises(HostError, match="is in the way and is no private host"):
            install_host(tmp_path)


def test_there_is_one_parser_of_files() -> None:
    """`json.loads` by itself stands in that, and in the one of what servers answer; PyYAML in one place."""
    found = {"json": set(), "yaml": set()}
    for package in ("ldm_backend", "ldm_headless", "nodes"):
        for file in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
                called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
                module, _, name = called.partition(".")
                if module in found and name in (
                    "load",
                    "loads",
                    "safe_load",
                    "JSONDecoder",
                    "load_all",
                    "safe_load_all",
                ):
                    found[module].add(file.relative_to(ROOT).as_posix())
    assert found == {
        "json": {"ldm_backend/json_text.py", "ldm_headless/client/answers.py"},
        "yaml": {"ldm_backend/config/omega_yaml.py"},
    }
