"""Group nodes, and nodes that exist in the editor only: opened, followed, left out, or refused by name.

The records `group-node*` are compared with the editor's own exports in test_ui_export.py.
"""

from __future__ import annotations

from typing import Any

import pytest

from ldm_headless.errors import MissingNodesError, WorkflowError
from ldm_headless.ui_format.export import export_prompt

INFO: dict[str, Any] = {
    "Source": {"input": {}, "output": ["IMAGE", "MASK"]},
    "Sink": {"input": {"required": {"image": ["IMAGE"], "size": ["INT", {"default": 4}]}}, "output": ["IMAGE"]},
    "Text": {"input": {"required": {"text": ["STRING", {"dynamicPrompts": True}]}}, "output": ["IMAGE"]},
    "Anything Everywhere": {"input": {"optional": {"anything": ["*"]}}, "output": []},
    "VHS_SelectLatest": {"input": {"required": {"name": ["STRING"]}}, "output": ["STRING"]},
}
UUID = "1f0c9a5e-5b1c-4c6e-9a53-2f6a3a6f9d10"


def node(node_id: int, kind: str, link: int | None = None, values: Any = (), **more: Any) -> dict[str, Any]:
    name = "image" if kind == "Sink" else "*"
    slots = [{"name": name, "type": "IMAGE", "link": link}] if link is not None or kind == "Sink" else []
    outputs = [{"name": "IMAGE", "type": "IMAGE", "links": more.pop("to", [])}]
    return {"id": node_id, "type": kind, "inputs": slots, "outputs": outputs, "widgets_values": list(values), **more}


def graph(*nodes: dict[str, Any], links: list[list[Any]] = [], **more: Any) -> dict[str, Any]:  # noqa: B006
    return {"nodes": list(nodes), "links": [[*link, "IMAGE"] for link in links], "version": 0.4, **more}


def converted(document: dict[str, Any]) -> dict[str, Any]:
    return {key: each["inputs"] for key, each in export_prompt(document, INFO, "file.json").items()}


# Set and Get


@pytest.mark.parametrize(("setter", "getter"), [("SetNode", "GetNode"), ("easy setNode", "easy getNode")])
def test_what_is_set_by_name_is_linked_to_where_it_is_got(setter: str, getter: str) -> None:
    document = graph(
        node(1, "Source"), node(2, setter, 1, ["a"]), node(3, getter, None, ["a"], to=[2]), node(4, "Sink", 2),
        node(5, "Reroute", 3), node(6, setter, 4, ["b"]), node(7, getter, None, ["b"], to=[5]), node(8, "Sink", 5),
        node(9, "Sink", 6),
        links=[[1, 1, 0, 2, 0], [2, 3, 0, 4, 0], [3, 3, 0, 5, 0], [4, 5, 0, 6, 0], [5, 7, 0, 8, 0], [6, 2, 0, 9, 0]],
    )  # fmt: skip
    assert converted(document) == {
        "1": {},
        **{key: {"size": 4, "image": ["1", 0]} for key in ("4", "8", "9")},
    }


def test_a_subgraph_gets_what_is_set_around_it() -> None:
    inside = {"id": "sub", "name": "S", "nodes": [node(1, "GetNode", None, ["a"]), node(2, "Sink", 1)], "links": [
        {"id": 1, "origin_id": 1, "origin_slot": 0, "target_id": 2, "target_slot": 0, "type": "IMAGE"}]}  # fmt: skip
    outer = graph(
        node(1, "Source"), node(2, "SetNode", 1, ["a"]), node(3, "sub"), links=[[1, 1, 0, 2, 0]],
        definitions={"subgraphs": [inside]},
    )  # fmt: skip
    assert converted(outer)["3:2"] == {"size": 4, "image": ["1", 0]}


@pytest.mark.parametrize(
    ("setters", "words"),
    [
        ([], r"node 3 \(GetNode\): nothing sets what it gets"),
        ([node(2, "SetNode", 1, ["b"])], r"node 3 \(GetNode\): nothing sets what it gets"),
        ([node(2, "easy setNode", 1, ["a"])], r"node 3 \(GetNode\): nothing sets what it gets"),
        ([node(2, "SetNode", 1, ["a"]), node(5, "SetNode", 5, ["a"])], r"several nodes set 'a' \(2, 5\)"),
        ([node(2, "SetNode", 9, ["a"])], "run in a circle"),
    ],
)
def test_names_that_lead_nowhere_are_refused(setters: list[dict[str, Any]], words: str) -> None:
    links = [[1, 1, 0, 2, 0], [2, 3, 0, 4, 0], [5, 1, 0, 5, 0], [9, 3, 0, 2, 0]]
    with pytest.raises(WorkflowError, match=words):
        converted(graph(node(1, "Source"), *setters, node(3, "GetNode", None, ["a"]), node(4, "Sink", 2), links=links))


# What cannot change the prompt, and what only a browser can tell

SILENT = [
    *("Note", "MarkdownNote", "Label (rgthree)", "Bookmark (rgthree)", "Fast Muter (rgthree)"),
    *("Fast Bypasser (rgthree)", "Fast Groups Muter (rgthree)", "Fast Groups Bypasser (rgthree)"),
    *("Fast Actions Button (rgthree)", "Mute / Bypass Relay (rgthree)", "Mute / Bypass Repeater (rgthree)"),
    *("Node Collector (rgthree)", "Note Plus (mtb)"),
]


@pytest.mark.parametrize("kind", SILENT)
def test_what_cannot_change_the_prompt_is_left_out(kind: str) -> None:
    document = graph(node(1, "Source"), node(2, "Sink", 1), node(3, kind, 2, ["any text", 3, True]),
                     links=[[1, 1, 0, 2, 0], [2, 2, 0, 3, 0]])  # fmt: skip
    assert converted(document) == {"1": {}, "2": {"size": 4, "image": ["1", 0]}}


def test_a_reroute_of_a_pack_is_followed() -> None:
    nodes = (node(1, "Source"), node(3, "Reroute (rgthree)", 1), node(2, "Sink", 2))
    assert converted(graph(*nodes, links=[[1, 1, 0, 3, 0], [2, 3, 0, 2, 0]]))["2"]["image"] == ["1", 0]


@pytest.mark.parametrize(
    "kind",
    ["Anything Everywhere", "Prompts Everywhere", "Seed Everywhere", "Random Unmuter (rgthree)", "VHS_SelectLatest"],
)
def test_what_only_a_browser_can_tell_is_refused_by_name(kind: str) -> None:
    """Also where the host has a node of that name, as it has for Anything Everywhere."""
    links = [[1, 1, 0, 2, 0], [2, 1, 0, 3, 0]]
    nodes = [node(1, "Source"), node(2, "Sink", 1), node(3, kind, 2)]
    with pytest.raises(WorkflowError, match=rf"node 3 .*{kind.split(' (')[0]}.*pack's JavaScript.*Export \(API\)"):
        converted(graph(*nodes, links=links))
    nodes[2]["mode"] = 4
    assert converted(graph(*nodes, links=links)) == {"1": {}, "2": {"size": 4, "image": ["1", 0]}}


def test_a_subgraph_without_its_definition_is_called_that() -> None:
    with pytest.raises(
        WorkflowError, match=rf"file.json: node 3 \(Upscale\) is a subgraph whose definition {UUID} is not"
    ):
        converted(graph(node(1, "Source"), node(3, UUID, title="Upscale")))
    with pytest.raises(MissingNodesError, match="node types that the host does not have"):
        converted(graph(node(1, "Source"), node(3, UUID[:-1])))
    assert converted(graph(node(1, "Source"), node(3, UUID, mode=2))) == {"1": {}}


# Group nodes


def group(nodes: list[dict[str, Any]], links: list[list[Any]], external: list[list[Any]] = []) -> dict[str, Any]:  # noqa: B006
    return {"groupNodes": {"G": {"nodes": nodes, "links": links, "external": external}}}


TWO = group([node(-1, "Sink"), node(-1, "Sink")], [[0, 0, 1, 0, 7, "IMAGE"]])


def grouped(kind: str = "workflow>G", values: tuple[int, ...] = (5, 6), **more: Any) -> dict[str, Any]:
    slots = {
        "inputs": [{"name": "image", "type": "IMAGE", "link": 1}],
        "outputs": [{"name": "IMAGE", "type": "IMAGE", "links": [2]}],
    }
    return {"id": 3, "type": kind, **slots, "widgets_values": list(values), **more}


LINKS = [[1, 1, 0, 3, 0], [2, 3, 0, 4, 0]]


@pytest.mark.parametrize("kind", ["workflow>G", "workflow/G"])
def test_a_group_node_is_opened(kind: str) -> None:
    assert converted(graph(node(1, "Source"), grouped(kind), node(4, "Sink", 2), links=LINKS, extra=TWO)) == {
        "1": {},
        "3:0": {"size": 5, "image": ["1", 0]},
        "3:1": {"size": 6, "image": ["3:0", 0]},
        "4": {"size": 4, "image": ["3:1", 0]},
    }


def test_a_bypassed_group_node_passes_on_what_comes_in() -> None:
    document = graph(node(1, "Source"), grouped(mode=4), node(4, "Sink", 2), links=LINKS, extra=TWO)
    assert converted(document)["4"]["image"] == ["1", 0]


def test_links_around_and_inside_of_group_nodes_are_followed() -> None:
    """The editor of ComfyUI's pinned frontend loses those through reroutes, other group nodes and bypassed parts."""
    parts = [node(-1, "Reroute", 0), node(-1, "Sink"), node(-1, "Sink", mode=4)]
    extra = group(parts, [[0, 0, 1, 0, 7, "IMAGE"], [1, 0, 2, 0, 8, "IMAGE"]])
    first = grouped(values=(5, 6), inputs=[{"name": "IMAGE", "type": "IMAGE", "link": 1}])
    second = {**first, "id": 6, "inputs": [{"name": "IMAGE", "type": "IMAGE", "link": 3}]}
    document = graph(node(1, "Source"), node(5, "Reroute", 1), first, second, node(4, "Sink", 2),
                     links=[[1, 1, 0, 3, 0], [3, 3, 0, 6, 0], [2, 6, 0, 4, 0]], extra=extra)  # fmt: skip
    prompt = converted(document)
    assert prompt["3:1"] == {"size": 5, "image": ["1", 0]}
    assert prompt["6:1"] == {"size": 5, "image": ["3:1", 0]}
    assert prompt["4"]["image"] == ["6:1", 0]


def test_texts_of_a_group_node_are_treated_as_those_of_its_parts() -> None:
    extra = group([node(-1, "Text", values=["x"])], [])
    text = grouped(values=(), inputs=[], widgets_values=["{red} // comment"])
    assert converted(graph(node(1, "Source"), text, extra=extra))["3:0"] == {"text": "red "}


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (graph(grouped()), r"group nodes \(workflow>G\) whose definition is not in the file.*Convert to nodes"),
        (graph(grouped("workflow/Other"), extra=TWO), r"group nodes \(workflow/Other\) whose definition"),
        (graph(grouped(), extra=group([node(-1, "workflow>G")], [])), "'G' holds another one"),
        (
            graph(grouped(), extra=group([node(-1, "Sink")], [[0, 0, 5, 0, 1, "IMAGE"]])),
            "a link from its part 0 to its part 5",
        ),
        (
            graph(grouped(), extra=group([node(-1, "Sink")], [[0, 10**6, 0, 0, 1, "IMAGE"]])),
            "'G' has a link from its part",
        ),
        (graph(grouped(), extra=group([node(-1, "Gone")], [])), "does not have .Gone: node 3:0"),
        (graph(grouped(values=(5, 6, 7)), extra=TWO), r"node 3 \(G\): it was saved with 3 values.*Nothing takes 7"),
        (
            graph(
                node(9, "sub"), extra=TWO, definitions={"subgraphs": [{"id": "sub", "name": "S", "nodes": [grouped()]}]}
            ),
            r"group nodes \(workflow>G\) inside of other nodes",
        ),
        (
            graph(*({**grouped(), "id": key} for key in range(3000)), extra=group([node(-1, "Sink")] * 10, [])),
            "unfold into more than 20000 nodes",
        ),
    ],
)
def test_what_is_wrong_with_a_group_node_is_told(document: dict[str, Any], words: str) -> None:
    with pytest.raises(WorkflowError, match=words):
        converted(document)


def test_a_group_whose_part_has_a_new_widget_here_gets_no_value_of_another_one() -> None:
    """A part of a file of today names its widgets; one that it does not name comes before the others' values."""
    named = [{"name": "size", "type": "INT", "link": None, "widget": {"name": "size"}}]
    part = {**node(-1, "Sink"), "inputs": [{"name": "image", "type": "IMAGE", "link": None}, *named]}
    required = {"image": ["IMAGE"], "size": ["INT", {"default": 4}], "style": [["plain", "bold"], {}]}
    info = {**INFO, "Sink": {"input": {"required": required}, "output": ["IMAGE"]}}
    text = {
        **node(-1, "Text"),
        "inputs": [{"name": "text", "type": "STRING", "link": None, "widget": {"name": "text"}}],
    }
    document = graph(grouped(inputs=[], widgets_values=[5, "a text"]), extra=group([part, text], []))
    with pytest.raises(
        WorkflowError, match=r"node 3 \(G\): its input 'size' was saved with 'a text', but takes a number"
    ):
        export_prompt(document, info, "x")
    assert export_prompt(document, INFO, "x")["3:1"]["inputs"] == {"text": "a text"}


def test_only_group_nodes_that_are_used_are_read() -> None:
    broken = {"groupNodes": {"Other": {"nodes": 3}, **TWO["groupNodes"]}}
    assert "3:1" in converted(graph(grouped(inputs=[]), extra=broken))
    whole_node = {
        "groupNodes": {"G": {**TWO["groupNodes"]["G"], "external": [[{"type": "Sink", "index": 1}, 0, "IMAGE"]]}}
    }
    assert "3:1" in converted(graph(grouped(inputs=[]), extra=whole_node))


def test_a_muted_group_node_without_its_definition_is_left_out() -> None:
    assert converted(graph(node(1, "Source"), grouped(mode=2))) == {"1": {}}
