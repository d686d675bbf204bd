"""UI format to API format, against exports recorded in the editor (tests/browser records them), and its errors."""

import copy
import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from editor_records import RECORDS, record

from ldm_headless.errors import MissingNodesError, WorkflowError
from ldm_headless.ui_format.export import export_prompt
from ldm_headless.ui_format.text_widgets import MISSING, fill_placeholders, plain_prompt

HOST: dict[str, Any] = {
    "Source": {"input": {}, "output": ["IMAGE"], "display_name": "A source"},
    "Sink": {"input": {"required": {"images": ["IMAGE"], "size": ["INT", {"default": 4}]}}, "output": ["IMAGE"]},
    "Camera": {"input": {"required": {"image": ["WEBCAM", {}]}}, "output": ["IMAGE"]},
    "Text": {"input": {"required": {"text": ["STRING", {"dynamicPrompts": True}]}}, "output": []},
}


def node(node_id: int, kind: str, link: int | None = None, **more: Any) -> dict[str, Any]:
    return {"id": node_id, "type": kind, "inputs": [{"name": "images", "type": "IMAGE", "link": link}], **more}


def graph(*nodes: dict[str, Any], links: list[Any] | None = None, **more: Any) -> dict[str, Any]:
    return {"nodes": list(nodes), "links": links or [], "version": 0.4, **more}


@pytest.mark.parametrize("path", RECORDS, ids=lambda path: path.stem)
def test_recorded_exports(path: Path) -> None:
    known = record(path.stem)
    prompt = export_prompt(known["graph"], known["object_info"], path.stem)
    assert prompt == known["expected"]
    assert [(key, list(entry["inputs"])) for key, entry in prompt.items()] == [
        (key, list(entry["inputs"])) for key, entry in known["expected"].items()
    ]


def test_there_are_enough_records() -> None:
    assert len(RECORDS) >= 10
    assert any(":" in key for key in record("nested-subgraphs")["expected"])


def test_instances_keep_their_values_in_any_order_of_definitions() -> None:
    """Frontend 1.32.9 itself loses those of nested instances when the outer definition comes first."""
    known = record("nested-subgraphs")
    turned = copy.deepcopy(known["graph"])
    turned["definitions"]["subgraphs"].reverse()
    assert export_prompt(turned, known["object_info"], "x") == known["expected"]


def test_widget_values_may_be_named() -> None:
    prompt = export_prompt(
        graph(node(1, "Sink", widgets_values={"size": 9, "videopreview": {"hidden": False}})), HOST, "x"
    )
    assert prompt["1"]["inputs"] == {"size": 9}
    with pytest.raises(WorkflowError, match=r"node 1 \(Sink\): it was saved with values of other"):
        export_prompt(graph(node(1, "Sink", widgets_values={"size": 9, "other": 1})), HOST, "x")


def test_a_title_comes_from_the_node_or_its_type() -> None:
    prompt = export_prompt(graph(node(1, "Source"), node(2, "Source", title="Mine")), HOST, "x")
    assert [entry["_meta"]["title"] for entry in prompt.values()] == ["A source", "Mine"]


def test_both_kinds_of_links_are_read() -> None:
    as_object = {"id": 1, "origin_id": 1, "origin_slot": 0, "target_id": 2, "target_slot": 0, "type": "IMAGE"}
    for link in ([1, 1, 0, 2, 0, "IMAGE"], as_object):
        prompt = export_prompt(graph(node(1, "Source"), node(2, "Sink", 1), links=[link]), HOST, "x")
        assert prompt["2"]["inputs"]["images"] == ["1", 0]


def test_missing_types_are_all_named_with_their_places_but_not_where_they_would_not_run() -> None:
    inside = {"id": "sub", "name": "S", "nodes": [node(7, "Lost")], "links": []}
    nodes = (node(1, "Gone"), node(2, "sub"), node(3, "Gone"), node(4, "Muted", mode=2))
    with pytest.raises(MissingNodesError, match=r"\(Gone: node 1, node 3; Lost: node 2:7\)") as caught:
        export_prompt(graph(*nodes, definitions={"subgraphs": [inside]}), HOST, "x")
    assert "Muted" not in str(caught.value)
    assert list(export_prompt(graph(node(4, "Muted", mode=2), node(5, "Source")), HOST, "x")) == ["5"]


@pytest.mark.parametrize(
    ("document", "message"),
    [
        (graph(node(1, "workflow/Pair")), r"group nodes \(workflow/Pair\).*Convert to nodes"),
        (graph({"id": 1}), r"damaged UI-format workflow \(KeyError: 'type'\)"),
        (graph({"id": 1, "type": "Source", "inputs": [3]}), "damaged UI-format workflow"),
        (graph(node(1, "Sink", 8)), "input 'images' has link 8, which is not in the file"),
        (graph(node(1, "Sink", 8), links=[[8, 5, 0, 1, 0, "IMAGE"]]), "linked to node 5, which is missing"),
        (graph(node(1, "Camera")), "takes a picture of the camera, which only a browser makes"),
        (graph(node(1, "Text", widgets_values=["a {b|c}"])), r"node 1 \(Text\): input 'text': .* choice in braces"),
        (
            graph(node(1, "Sink", 1, mode=4), node(2, "Sink", 2), links=[[1, 1, 0, 1, 0, "*"], [2, 1, 0, 2, 0, "*"]]),
            "run in a circle",
        ),
        (
            graph(node(1, "a"), definitions={"subgraphs": [{"id": "a", "name": "A", "nodes": [node(1, "a")]}]}),
            "'A' contains itself",
        ),
    ],
)
def test_what_cannot_be_converted_is_explained(document: dict[str, Any], message: str) -> None:
    with pytest.raises(WorkflowError, match=message):
        export_prompt(document, HOST, "file.json")


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("a /* b\nc */ d // e\nf", "a  d \nf"),
        (r"\{a|b\}", "{a|b}"),
        ("{a} {b {c}}", "a b c"),
        ("{open", "open"),
        ('{"key": 1}', '"key": 1'),
    ],
)
def test_prompts_lose_comments_and_single_braces(text: str, plain: str) -> None:
    assert plain_prompt(text) == plain


def test_placeholders_are_filled() -> None:
    values = {("A", "x"): 2.0, ("A", "path"): "a/b:c", ("A", "on"): True}
    text = "%A.x%_%A.path%_%A.on%_%B.x%_%width%_%date:yyyy-MM-dd hh:m%"
    filled = fill_placeholders(text, lambda *key: values.get(key, MISSING), datetime(2026, 3, 4, 5, 6))  # noqa: DTZ001
    assert filled == "2_a_b_c_true_%B.x%_%width%_2026-03-04 05:6"


def test_records_are_whole() -> None:
    for path in RECORDS:
        assert json.loads(path.read_text()).keys() == {"graph", "frontend", "object_info", "expected"}
