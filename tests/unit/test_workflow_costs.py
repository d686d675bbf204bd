"""What a large or hostile workflow costs: time that grows with its size and not faster, and budgets that are told."""

from __future__ import annotations

import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from ldm_headless.errors import WorkflowError
from ldm_headless.ui_format.export import export_prompt
from ldm_headless.ui_format.promoted_places import subgraph_nodes
from ldm_headless.ui_format.text_widgets import plain_prompt
from ldm_headless.ui_format.widget_types import WidgetType
from ldm_headless.workflows.overrides import seed_inputs, set_inputs, set_seed
from ldm_headless.workflows.validation import input_problems, structural_problems

SIZE = 20_000
LIMIT = 8.0  # seconds of CPU; what grew with the square took minutes
INFO: dict[str, Any] = {
    "Source": {"input": {}, "output": ["IMAGE"]},
    "Sink": {"input": {"required": {"image": ["IMAGE"], "size": ["INT", {"default": 4}]}}, "output": ["IMAGE"]},
    "Named": {"input": {"required": {"filename_prefix": ["STRING", {}]}}, "output": ["IMAGE"], "output_node": True},
    "SaveImage": {"input": {"required": {"filename_prefix": ["STRING", {}]}}, "output": [], "output_node": True},
    "Text": {"input": {"required": {"text": ["STRING", {"dynamicPrompts": True}]}}, "output": ["IMAGE"]},
}


@contextmanager
def soon() -> Iterator[None]:
    start = time.process_time()
    yield
    assert time.process_time() - start < LIMIT


def node(node_id: int, kind: str, link: int | None = None, to: list[int] = [], **more: Any) -> dict[str, Any]:  # noqa: B006
    name = "image" if kind == "Sink" else ""
    slots = [{"name": name, "type": "IMAGE", "link": link}] if kind not in ("Source", "PrimitiveNode") else []
    return {
        "id": node_id,
        "type": kind,
        "inputs": slots,
        "outputs": [{"name": "", "type": "IMAGE", "links": to}],
        **more,
    }


def chain(kind: str, count: int, **more: Any) -> dict[str, Any]:
    """A source, so many nodes one after the other, and a sink behind the last of them and behind each hundredth."""
    nodes = [node(0, "Source", None, [1])]
    nodes += [node(number, kind, number, [number + 1, SIZE * 2 + number], **more) for number in range(1, count + 1)]
    nodes += [node(count + 1, "Sink", count + 1)]
    nodes += [node(SIZE * 2 + number, "Sink", SIZE * 2 + number) for number in range(1, count + 1, 100)]
    links = [[number, number - 1, 0, number, 0, "IMAGE"] for number in range(1, count + 2)]
    links += [[SIZE * 2 + number, number, 0, SIZE * 2 + number, 0, "IMAGE"] for number in range(1, count + 1, 100)]
    return {"nodes": nodes, "links": links}


@pytest.mark.parametrize(("kind", "more"), [("Reroute", {}), ("Sink", {"mode": 4}), ("SetNode", {})])
def test_a_long_chain_is_followed(kind: str, more: dict[str, Any]) -> None:
    document = chain(kind, 19_500, **more)
    with soon():
        prompt = export_prompt(document, INFO, "x")
    assert [each["inputs"].get("image") for each in prompt.values()] == [None, *[["0", 0]] * 196]


def test_a_long_chain_of_nodes_is_ordered_and_checked() -> None:
    document = chain("Sink", 19_500)
    with soon():
        prompt = export_prompt(document, INFO, "x")
        info = {**INFO, "Sink": {**INFO["Sink"], "output_node": True}}
        assert structural_problems(prompt, info) == []
        assert input_problems(prompt, info) == []
    assert prompt["19501"]["inputs"]["image"] == ["19500", 0]


def test_a_long_cycle_is_told() -> None:
    prompt = {
        str(number): {"class_type": "Sink", "inputs": {"image": [str((number + 1) % SIZE), 0]}}
        for number in range(SIZE)
    }
    with soon():
        (problem,) = [each for each in structural_problems(prompt, INFO) if each.type == "dependency_cycle"]
    assert problem.node_id == "0"


def test_chains_that_run_in_a_circle_are_told() -> None:
    document = chain("Reroute", 19_500)
    document["links"][0] = [1, 19_500, 0, 1, 0, "IMAGE"]
    with soon(), pytest.raises(WorkflowError, match="run in a circle"):
        export_prompt(document, INFO, "x")


def test_a_subgraph_with_many_inputs() -> None:
    """All lead to one node inside, and each has a view, and a primitive on it."""
    count = 4000
    names = [f"w{number}" for number in range(count)]
    info = {"Wide": {"input": {"required": {name: ["INT", {"default": 1}] for name in names}}, "output": []}}
    slots = [
        {"name": name, "type": "INT", "link": number, "widget": {"name": name}} for number, name in enumerate(names)
    ]
    links = [
        {"id": number, "origin_id": -10, "origin_slot": number, "target_id": 1, "target_slot": number, "type": "INT"}
        for number in range(count)
    ]
    inside = {
        "id": "sub", "name": "S", "nodes": [{"id": 1, "type": "Wide", "inputs": slots, "widgets_values": [1] * count}],
        "links": links, "inputs": [{"name": name, "type": "INT", "linkIds": [i]} for i, name in enumerate(names)],
    }  # fmt: skip
    outer = {
        "id": 5, "type": "sub", "inputs": [{**slot, "link": None} for slot in slots], "widgets_values": [7] * count,
        "properties": {"proxyWidgets": [["-1", name] for name in names] + [["1", name] for name in names]},
    }  # fmt: skip
    document = {"nodes": [outer], "links": [], "definitions": {"subgraphs": [inside]}}
    for today in (False, True):
        described = {
            **info,
            "Mark": {"input": {}, "output": [], **({"has_intermediate_output": False} if today else {})},
        }
        with soon():
            prompt = export_prompt(document, described, "x")
            (subgraph,) = subgraph_nodes(document, described, "x")
        assert set(prompt["5:1"]["inputs"].values()) == {7}
        assert subgraph.inputs["w9"] == (frozenset({("5:1", "w9")}),)


@pytest.mark.parametrize(("levels", "deep"), [(99, False), (150, True), (5000, True)])
def test_subgraphs_in_each_other(levels: int, deep: bool) -> None:
    definitions = [
        {"id": f"s{level}", "name": f"L{level}", "links": [],
         "nodes": [node(1, f"s{level + 1}" if level + 1 < levels else "Source")]}
        for level in range(levels)
    ]  # fmt: skip
    document = {"nodes": [node(1, "s0")], "links": [], "definitions": {"subgraphs": definitions}}
    with soon():
        if deep:
            with pytest.raises(WorkflowError, match="more than 100 levels deep"):
                export_prompt(document, INFO, "x")
        else:
            assert len(export_prompt(document, INFO, "x")) == 1


def test_definitions_in_each_other() -> None:
    document: dict[str, Any] = {"nodes": [node(1, "Source")], "links": []}
    holder = document
    for level in range(5000):
        inner: dict[str, Any] = {"id": f"s{level}", "name": "S", "nodes": [], "links": []}
        holder["definitions"] = {"subgraphs": [inner]}
        holder = inner
    with soon():
        assert len(export_prompt(document, INFO, "x")) == 1


@pytest.mark.parametrize("values", [["image"] * SIZE, {str(number): "image" for number in range(SIZE)}])
def test_many_values_that_no_widget_takes(values: Any) -> None:
    document = {"nodes": [{"id": 1, "type": "Sink", "inputs": [], "widgets_values": values}], "links": []}
    with soon(), pytest.raises(WorkflowError, match="Nothing takes 'image'") as caught:
        export_prompt(document, INFO, "x")
    assert len(str(caught.value)) < 1000


def test_a_group_node_with_many_parts() -> None:
    parts = [{"type": "Sink", "inputs": [{"name": "image", "type": "IMAGE"}], "outputs": []} for _ in range(9000)]
    links = [[number, 0, number + 1, 0, 1, "IMAGE"] for number in range(8999)]
    document = {
        "nodes": [{"id": 1, "type": "workflow>G", "inputs": [], "widgets_values": list(range(9000))}],
        "links": [],
        "extra": {"groupNodes": {"G": {"nodes": parts, "links": links}}},
    }
    with soon():
        prompt = export_prompt(document, INFO, "x")
    assert prompt["1:8999"]["inputs"] == {"size": 8999, "image": ["1:8998", 0]}


def test_placeholders_are_looked_up_in_one_index() -> None:
    nodes = [
        {"id": number, "type": "SaveImage", "title": f"n{number}", "inputs": [],
         "widgets_values": ["%n5.filename_prefix%_%nobody.x%" if number > 5 else "a"]}
        for number in range(10_000)
    ]  # fmt: skip
    with soon():
        prompt = export_prompt({"nodes": nodes, "links": []}, INFO, "x")
    assert prompt["9999"]["inputs"]["filename_prefix"] == "a_%nobody.x%"


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("/* " * 200_000, "/* " * 200_000),
        ("/* a */" * 100_000, ""),
        ("{a}" * 100_000, "a" * 100_000),
        ("// x\n" * 100_000, "\n" * 100_000),
        ("\\" * 300_001, "\\" * 300_001),
        ("{" * 90 + "x" * 100_000, "x" * 100_000),
        ("}" * 300_000, "}" * 300_000),
    ],
    ids=lambda text: text[:8],
)
def test_long_texts_are_read_once(text: str, plain: str) -> None:
    with soon():
        assert plain_prompt(text) == plain


@pytest.mark.parametrize("text", ["{" * 300_000, "{" * 5000 + "}" * 5000, "{a" * 101])
def test_braces_in_each_other_have_a_budget(text: str) -> None:
    with soon(), pytest.raises(WorkflowError, match="more than 100 levels deep"):
        plain_prompt(text)


@pytest.mark.parametrize("value", [1e308, -1e308, 1.7976931348623157e308, 10**308, -(10**308), 5e-324, 2**63])
@pytest.mark.parametrize("kind", ["INT", "FLOAT"])
def test_numbers_near_the_largest_are_snapped_to_finite_ones(kind: str, value: float) -> None:
    for options in (
        {},
        {"step": 8, "min": 3},
        {"step": 0.01, "max": 1e308},
        {"step": 0.001, "round": 1e-9},
        {"step": 1e-12},
    ):
        snapped = WidgetType("x", kind, options).snap(value)
        assert abs(snapped) <= 1.7976931348623157e308
        assert isinstance(snapped, int | float)


def test_thousands_of_unknown_types_are_told_soon() -> None:
    chance = random.Random(0)
    info = {"".join(chance.choices("abcdefgh", k=20)): {"input": {}} for _ in range(1500)}
    prompt = {
        str(number): {"class_type": "".join(chance.choices("abcdefgh", k=20)), "inputs": {}} for number in range(2000)
    }
    prompt["a"] = {"class_type": "x" * 1_000_000, "inputs": {}}
    first = next(iter(info))
    prompt = {"near": {"class_type": first[:-1], "inputs": {}}, **prompt}
    with soon():
        problems = structural_problems(prompt, info)
    assert len(problems) == 2002
    assert problems[0].details == f"did you mean {first}?"


def test_long_lists_of_choices_are_looked_through_once() -> None:
    choices = [f"file {number}" for number in range(SIZE)]
    info = {"Load": {"input": {"required": {"name": [choices, {}]}}, "output": [], "output_node": True}}
    prompt = {str(number): {"class_type": "Load", "inputs": {"name": f"file {number}"}} for number in range(SIZE)}
    prompt["x"] = {"class_type": "Load", "inputs": {"name": "other"}}
    prompt["y"] = {"class_type": "Load", "inputs": {"name": {"a": 1}}}
    with soon():
        problems = input_problems(prompt, info)
    assert [problem.node_id for problem in problems] == ["x", "y"]


def test_jobs_of_a_large_prompt_share_what_they_do_not_change() -> None:
    prompt = {str(number): {"class_type": "A", "inputs": {"seed": number, "big": ["x"] * 9}} for number in range(SIZE)}
    with soon():
        for job in range(20):
            changed = set_inputs(
                set_inputs(prompt, {f"{job}.big": "1"}), {f"{number}.seed": "7" for number in range(9)}
            )
            assert changed["100"] is prompt["100"]
        everywhere = set_seed(prompt, 3)
    assert prompt["5"]["inputs"]["seed"] == 5
    assert {everywhere[key]["inputs"]["seed"] for key, _ in seed_inputs(prompt)} == {3}
