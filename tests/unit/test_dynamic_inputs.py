"""Inputs that depend on choices and links: what is not known or does not suit is refused, never guessed."""

from typing import Any

import pytest
from editor_records import record

from ldm_headless.errors import WorkflowError
from ldm_headless.ui_format.editors import MARK
from ldm_headless.ui_format.export import export_prompt

_EXACT = {"required": {"width": ["INT", {"default": 5}], "height": ["INT", {}]}}
_FIT = {"required": {"how": ["COMBO", {"options": ["a", "b"]}]}, "optional": {"on": ["BOOLEAN"]}}
_OPTIONS = {"exact": _EXACT, "match": {"required": {"other": ["IMAGE"]}}, "fit": _FIT}
_SIZE = ["COMFY_DYNAMICCOMBO_V3", {"options": [{"key": key, "inputs": inputs} for key, inputs in _OPTIONS.items()]}]


def growing(*inputs: Any, **more: Any) -> list[Any]:
    template = {"input": {"required": {f"in{number}": spec for number, spec in enumerate(inputs)}}, **more}
    return ["COMFY_AUTOGROW_V3", {"template": template}]


def host(today: bool = True, **inputs: Any) -> dict[str, Any]:
    mark = {MARK: False} if today else {}
    return {
        "Source": {"input": {}, "output": ["IMAGE"], **mark},
        "Node": {"input": {"required": inputs}, "output": ["IMAGE"], **mark},
    }


def saved(values: list[Any] | None = None, *slots: tuple[str, int | None, bool], **more: Any) -> dict[str, Any]:
    """A graph of a source and a node; slots have a name, a link or none, and perhaps a widget."""
    inputs = [
        {"name": name, "type": "*", "link": link, **({"widget": {"name": name}} if widget else {})}
        for name, link, widget in slots
    ]
    node = {"id": 2, "type": "Node", "inputs": inputs, "widgets_values": values, **more}
    links = [[link, 1, 0, 2, index, "IMAGE"] for index, (_, link, _) in enumerate(slots) if link is not None]
    outputs = [{"name": "IMAGE", "type": "IMAGE", "links": [link[0] for link in links]}]
    return {"nodes": [{"id": 1, "type": "Source", "outputs": outputs}, node], "links": links, "version": 0.4}


def inputs_of(graph: dict[str, Any], described: dict[str, Any]) -> dict[str, Any]:
    return export_prompt(graph, described, "x")["2"]["inputs"]


def test_each_option_takes_its_own_values_and_leaves_the_rest_to_the_neighbours() -> None:
    described = host(before=["INT"], size=_SIZE, after=["STRING"])
    exact = inputs_of(saved([1, "exact", 640, 480, "text"]), described)
    assert exact == {"before": 1, "size": "exact", "size.width": 640, "size.height": 480, "after": "text"}
    assert inputs_of(saved([1, "match", "text"]), described) == {"before": 1, "size": "match", "after": "text"}
    fit = inputs_of(saved([1, "fit", "b", True, "text"]), described)
    assert fit == {"before": 1, "size": "fit", "size.how": "b", "size.on": True, "after": "text"}


def test_values_that_a_file_does_not_have_yet_are_the_defaults() -> None:
    described = host(size=_SIZE, after=["STRING", {"default": "new"}])
    assert inputs_of(saved(["exact", 640]), described) == {
        "size": "exact", "size.width": 640, "size.height": 0, "after": "new"
    }  # fmt: skip
    assert inputs_of(saved(None), described)["size.width"] == 5
    named = inputs_of(saved({"size": "fit", "size.how": "b"}), described)  # type: ignore[arg-type]
    assert named == {"size": "fit", "size.how": "b", "size.on": False, "after": "new"}


def test_links_to_the_inputs_of_an_option_stay() -> None:
    graph = saved(["match"], ("size", None, True), ("size.other", 7, False))
    assert inputs_of(graph, host(size=_SIZE)) == {"size": "match", "size.other": ["1", 0]}


def test_a_growing_input_keeps_its_links_together() -> None:
    slots = [("a.x0", 1, False), ("a.x1", 2, False), ("b.p", 3, False), ("a.x2", 4, False), ("b.q", 5, False)]
    described = host(a=growing(["IMAGE"], prefix="x", min=1, max=5), b=growing(["IMAGE"], names=["p", "q"], min=0))
    assert list(inputs_of(saved([], *slots), described)) == ["a.x0", "a.x1", "a.x2", "b.p", "b.q"]


def test_a_type_of_a_pack_is_a_socket() -> None:
    assert inputs_of(saved([4], ("wire", 3, False)), host(wire=["SOME_PACKS_OWN"], count=["INT"])) == {
        "count": 4, "wire": ["1", 0]
    }  # fmt: skip


@pytest.mark.parametrize(
    ("spec", "kind"),
    [
        (["COMFY_DYNAMICSLOT_V3", {}], "COMFY_DYNAMICSLOT_V3"),
        (["COMFY_DYNAMICGROUP_V3", {"template": {}}], "COMFY_DYNAMICGROUP_V3"),
        (["COMFY_AUTOGROW_V4", {}], "COMFY_AUTOGROW_V4"),
        (["RESOLUTION_PREVIEW", {}], "RESOLUTION_PREVIEW"),
        (["STRING", {"widgetType": "LIGHT_INFO_PREVIEW"}], "LIGHT_INFO_PREVIEW"),
    ],
)
def test_kinds_that_are_not_known_are_named(spec: list[Any], kind: str) -> None:
    message = rf"^node 2 \(Node\): input 'new' is of kind {kind}, which this version cannot convert"
    with pytest.raises(WorkflowError, match=message):
        inputs_of(saved([1]), host(count=["INT"], new=spec))
    inside = ["COMFY_DYNAMICCOMBO_V3", {"options": [{"key": "k", "inputs": {"required": {"new": spec}}}]}]
    with pytest.raises(WorkflowError, match=message.replace("'new'", "'choice.new'")):
        inputs_of(saved(["k"]), host(choice=inside))


@pytest.mark.parametrize(
    ("described", "graph", "message"),
    [
        (host(a=growing(["INT"], prefix="x")), saved(), "'a' grows by inputs of kind INT, but only by one socket each"),
        (host(a=growing(["IMAGE"], ["MASK"])), saved(), "'a' grows by inputs of kind IMAGE, MASK, but"),
        (host(size=_SIZE), saved(["fit", "a", True, 3]), "with 4 values, but has 3 here: size, size.how, size.on"),
        (host(size=_SIZE), saved(["other"]), "'size' was saved with 'other', but takes one of 'exact', 'match', 'fit'"),
        (host(size=_SIZE), saved(["exact", "center"]), "'size.width' was saved with 'center', but takes a number"),
        (host(size=_SIZE), saved(["exact", True]), "'size.width' was saved with True, but takes a number"),
        (host(size=_SIZE), saved(["fit", {}]), "'size.how' was saved with {}, but takes a choice"),
        (host(size=_SIZE), saved(["fit", "a", "b"]), "'size.on' was saved with 'b', but takes true or false"),
        (host(size=_SIZE, text=["STRING"]), saved(["match", 3]), "'text' was saved with 3, but takes a text"),
        (host(size=_SIZE), saved(["exact"], ("size.other", 3, False)), "input 'size.other' is linked, but is no input"),
        (
            host(size=_SIZE),
            saved(["exact", 1, 2], ("size", None, True), ("size.depth", None, True), ("size.width", None, True)),
            "inputs size.depth, size.height are not the same in the file",
        ),
        (
            host(size=_SIZE),
            saved(["exact", 1, 2], widgets_values_named=dict.fromkeys(("size", "size.height", "size.width", "size.x"))),
            "inputs size.x are not the same in the file",
        ),
    ],
)
def test_what_does_not_suit_is_refused(described: dict[str, Any], graph: dict[str, Any], message: str) -> None:
    with pytest.raises(WorkflowError, match=rf"^node 2 \(Node\): .*{message}"):
        inputs_of(graph, described)


@pytest.mark.parametrize("today", [True, False])
def test_a_file_of_a_host_with_choices_is_refused_where_there_are_none(today: bool) -> None:
    described = host(today, size=["COMBO", {"options": ["exact"]}], after=["STRING"])
    message = "saved with an input 'size.width', which belongs to a choice 'size'"
    with pytest.raises(WorkflowError, match=message):
        inputs_of(saved(["exact", 640, "text"], ("size", None, True), ("size.width", None, True)), described)
    named = {"size": "exact", "size.width": 640, "after": "text"}
    with pytest.raises(WorkflowError, match=message):
        inputs_of(saved(["exact", 640, "text"], widgets_values_named=named), described)


def test_a_primitive_does_not_choose() -> None:
    graph = saved(["exact", 1, 2], ("size", 3, True))
    graph["nodes"][0] |= {"type": "PrimitiveNode", "widgets_values": ["fit"]}
    with pytest.raises(WorkflowError, match="sets 'size' to 'fit', a choice that brings inputs of its own"):
        inputs_of(graph, host(size=_SIZE))


def test_the_older_editor_has_sockets_for_the_kinds_of_today() -> None:
    described = host(False, curve=["CURVE"], count=["INT"])
    assert inputs_of(saved([4]), described) == {"count": 4}
    assert inputs_of(saved([[[0, 0]], 4]), host(curve=["CURVE"], count=["INT"])) == {
        "curve": {"__type__": "CURVE", "__value__": [[0, 0]]}, "count": 4
    }  # fmt: skip


def test_the_insides_of_a_muted_subgraph_are_sent_by_the_older_editor_only() -> None:
    inside = {"id": "sub", "name": "S", "nodes": [{"id": 7, "type": "Source"}], "links": []}
    graph = {"nodes": [{"id": 1, "type": "sub", "mode": 2}], "links": [], "definitions": {"subgraphs": [inside]}}
    assert list(export_prompt(graph, host(False), "x")) == ["1:7"]
    assert list(export_prompt(graph, host(), "x")) == []


def views_of_today() -> tuple[dict[str, Any], dict[str, Any]]:
    known = record("views-of-today")
    return known["graph"], known["object_info"]


def test_values_that_the_editor_gives_to_the_wrong_widget_are_refused() -> None:
    graph, described = views_of_today()
    graph["nodes"][0] |= {"widgets_values": [5], "properties": {"proxyWidgets": [["-1", "wide"]]}}
    with pytest.raises(
        WorkflowError, match=r"^node 1 \(Inner\): its 1 saved values belong to 1 other widgets than .*'width'"
    ):
        export_prompt(graph, described, "x")
    graph, described = views_of_today()
    nested = next(each for each in graph["definitions"]["subgraphs"] if each["name"] == "Outer")["nodes"][0]
    nested["properties"]["proxyWidgets"].append(["31", "color"])
    with pytest.raises(
        WorkflowError, match=r"^node 2 \(Inner\): it was saved with 4 values, more than its inputs have"
    ):
        export_prompt(graph, described, "x")


def test_a_primitive_that_the_editor_does_not_let_into_a_subgraph_is_refused() -> None:
    known = record("primitive-into-subgraph")
    described = {kind: {**entry, MARK: False} for kind, entry in known["object_info"].items()}
    with pytest.raises(
        WorkflowError, match="its value 333 does not get into the subgraph of node 4 .* sends the 8 of node 4:1"
    ):
        export_prompt(known["graph"], described, "x")
