"""What `--set` names: titles with dots and equal signs in quotes, and widgets on subgraphs' nodes."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from ldm_headless.commands.run_jobs import _with_subgraphs
from ldm_headless.errors import WorkflowError
from ldm_headless.run.sweep import expand
from ldm_headless.workflows.overrides import find_inputs, set_inputs, set_seed
from ldm_headless.workflows.subgraph_targets import resolve_targets
from ldm_headless.workflows.targets import parse_target, quoted_target, split_assignment
from ldm_headless.workflows.workflow import load_workflow, to_prompt

TITLES = ["My = title.x", 'say "x" = 1', r"back\slash.", "a.b=c.d", "=", ".", '"', "\\", "plain", "é = 肖像"]


def prompt_of(*titles: str) -> dict[str, Any]:
    return {
        str(number): {"class_type": "A", "inputs": {"seed": 3, "size.width": 4, "a=b": 1}, "_meta": {"title": title}}
        for number, title in enumerate(titles, 1)
    }


@pytest.mark.parametrize("title", TITLES)
@pytest.mark.parametrize("name", ["seed", "size.width", "a=b"])
def test_quotes_name_any_title_and_input(title: str, name: str) -> None:
    target = quoted_target(title, name)
    assert parse_target(target) == (title, name)
    assert split_assignment(f"{target}=a=b.c") == (target, "a=b.c")
    prompt = prompt_of("other", title)
    (job,) = expand([], sets=[f"{target}=5"])
    assert set_inputs(prompt, job.assignments)["2"]["inputs"] == {**prompt["2"]["inputs"], name: 5}
    assert find_inputs(prompt, [target]) == {target: ("2", name)}
    assert len(expand([f"{target}=1|2"])) == 2


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ('"My = title.x".seed=5', ("My = title.x", "seed")),
        ('"My = title.x".size.width=5', ("My = title.x", "size.width")),
        ('"1"."size.width"=5', ("1", "size.width")),
        ("KSampler.seed=5", ("KSampler", "seed")),
        ("First, v1.0.seed=5", ("First, v1.0", "seed")),
        ('size 5".x.seed=5', ('size 5".x', "seed")),
    ],
)
def test_the_grammar_of_targets(text: str, target: tuple[str, str]) -> None:
    parts = split_assignment(text)
    assert parts is not None
    assert (parse_target(parts[0]), parts[1]) == (target, "5")


@pytest.mark.parametrize(
    "text", ['"open.seed=5', '"a" .seed=5', '"a"x.seed=5', '"a"."b=5', '"a"."b".c=5', r'"a\".seed=5', r'"a\n".seed=5']
)
def test_quotes_that_are_not_closed_are_explained(text: str) -> None:
    with pytest.raises(WorkflowError, match="a name that begins with a quote must end with one"):
        expand([], sets=[text])


@pytest.mark.parametrize("text", ['"a"=5', '"a".seed', '"a"', ".x=5", "=5", '"a=b"=5'])
def test_what_names_no_input_is_explained(text: str) -> None:
    with pytest.raises(WorkflowError, match="expected NODE.INPUT=VALUE"):
        expand([], sets=[text])


def test_tables_take_quotes(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text('"""My = title.x"".seed",seed\n7,1\n')
    (job,) = expand([], None, tmp_path / "t.csv")
    assert job.assignments == {'"My = title.x".seed': "7"}
    assert job.name_values["seed"] == "1"


# Subgraphs

INFO: dict[str, Any] = {
    "Sampler": {"input": {"required": {"image": ["IMAGE"], "steps": ["INT", {"default": 4}], "text": ["STRING"]}},
                "output": ["IMAGE"], "output_node": True},
}  # fmt: skip


def sampler(node_id: int, title: str, link: int | None, value: Any, mode: int = 0) -> dict[str, Any]:
    inputs = [
        {"name": "image", "type": "IMAGE", "link": None},
        {"name": "steps", "type": "INT", "link": link, "widget": {"name": "steps"}},
        {"name": "text", "type": "STRING", "link": None, "widget": {"name": "text"}},
    ]
    return {"id": node_id, "type": "Sampler", "title": title, "inputs": inputs, "widgets_values": value, "mode": mode}


def inside(definition: str, name: str, nodes: list[Any], links: list[int], targets: list[int]) -> dict[str, Any]:
    """A subgraph with an input `steps`, called "Number of steps", that leads to these nodes."""
    return {
        "id": definition,
        "name": name,
        "nodes": nodes,
        "links": [
            {"id": link, "origin_id": -10, "origin_slot": 0, "target_id": target, "target_slot": 1, "type": "INT"}
            for link, target in zip(links, targets, strict=True)
        ],
        "inputs": [{"name": "steps", "type": "INT", "linkIds": links, "label": "Number of steps"}],
        "outputs": [],
    }


def outside(node_id: int, definition: str, title: str = "", **properties: Any) -> dict[str, Any]:
    slot = {"name": "steps", "type": "INT", "link": None, "widget": {"name": "steps"}}
    return {"id": node_id, "type": definition, "title": title, "inputs": [slot], "properties": properties}


GRAPH: dict[str, Any] = {
    "nodes": [
        outside(5, "two", "Upscale", proxyWidgets=[["-1", "steps"], ["1", "text"]]),
        outside(6, "outer", "Nested"),
        sampler(7, "Plain", None, [1, "p"]),
    ],
    "links": [],
    "definitions": {
        "subgraphs": [
            inside("two", "Two", [sampler(1, "A", 1, [2, "a"]), sampler(2, "B", 2, [2, "b"])], [1, 2], [1, 2]),
            inside("outer", "Outer", [{**outside(3, "two"), "inputs": [
                {"name": "steps", "type": "INT", "link": 9, "widget": {"name": "steps"}}]}], [9], [3]),
        ]
    },
}  # fmt: skip


def set_in(tmp_path: Path, graph: dict[str, Any], *sets: str) -> dict[str, Any]:
    (tmp_path / "a.json").write_text(json.dumps(graph))
    workflow = load_workflow(tmp_path / "a.json")
    prompt = to_prompt(workflow, INFO)
    (job,) = _with_subgraphs(expand([], sets=sets), workflow, prompt, INFO)
    changed = set_inputs(prompt, job.assignments, INFO)
    return {
        f"{key}.{name}": value
        for key, node in changed.items()
        for name, value in node["inputs"].items()
        if value != prompt[key]["inputs"].get(name)
    }


@pytest.mark.parametrize(
    ("text", "changes"),
    [
        ("Upscale.steps=9", {"5:1.steps": 9, "5:2.steps": 9}),
        ("5.steps=9", {"5:1.steps": 9, "5:2.steps": 9}),
        ("Upscale.Number of steps=9", {"5:1.steps": 9, "5:2.steps": 9}),
        ("Upscale.text=9", {"5:1.text": "9"}),
        ("Nested.steps=9", {"6:3:1.steps": 9, "6:3:2.steps": 9}),
        ("6:3.steps=9", {"6:3:1.steps": 9, "6:3:2.steps": 9}),
        ("Plain.steps=9", {"7.steps": 9}),
        ("5:2.steps=9", {"5:2.steps": 9}),
    ],
)
def test_a_widget_on_a_subgraphs_node_is_set_by_its_title(tmp_path: Path, text: str, changes: dict[str, Any]) -> None:
    assert set_in(tmp_path, GRAPH, text) == changes


def with_title(title: str, node: int) -> dict[str, Any]:
    graph = json.loads(json.dumps(GRAPH))
    graph["nodes"][node]["title"] = title
    return graph


@pytest.mark.parametrize(
    ("graph", "sets", "words"),
    [
        (GRAPH, ["Upscale.step=9"], "has no widget 'step'; it has Number of steps, steps, text"),
        (with_title("Upscale", 1), ["Upscale.steps=9"], "may mean the nodes 5, 6; use one of these ids"),
        (with_title("Upscale", 2), ["Upscale.steps=9"], "may mean the nodes 5, 7; use one of these ids"),
        (GRAPH, ["Upscale.steps=9", "5.steps=8"], "are the same input; set it once"),
        (GRAPH, ["Upscale.steps=9", "5:1.steps=8"], "are the same input; set it once"),
        (GRAPH, ["Nobody.steps=9"], "no node has the id or title 'Nobody'"),
    ],
)
def test_what_a_target_of_a_subgraph_may_not_mean(
    tmp_path: Path, graph: dict[str, Any], sets: list[str], words: str
) -> None:
    with pytest.raises(WorkflowError, match=words):
        set_in(tmp_path, graph, *sets)


def test_what_does_not_run_inside_a_subgraph_cannot_be_set(tmp_path: Path) -> None:
    graph = json.loads(json.dumps(GRAPH))
    for node in graph["definitions"]["subgraphs"][0]["nodes"]:
        node["mode"] = 2
    with pytest.raises(WorkflowError, match="they are muted or bypassed"):
        set_in(tmp_path, graph, "Upscale.steps=9")


def test_names_of_files_may_show_what_was_set_on_a_subgraph(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(GRAPH))
    workflow = load_workflow(tmp_path / "a.json")
    jobs = _with_subgraphs(expand(["Upscale.steps=8|9"]), workflow, to_prompt(workflow, INFO), INFO)
    assert [job.name_values for job in jobs] == [{"steps": each, "Upscale.steps": each} for each in ("8", "9")]


def test_a_prompt_without_a_graph_has_no_subgraphs(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps(prompt_of("x")))
    workflow = load_workflow(tmp_path / "a.json")
    assert resolve_targets(["Upscale.steps"], workflow, to_prompt(workflow, {}), {}) == {}


def test_large_prompts_are_changed_soon() -> None:
    """20,000 nodes: all titles set at once, and 50 jobs of one prompt."""
    prompt = prompt_of(*(f"title {number}" for number in range(20_000)))
    start = time.process_time()
    changed = set_inputs(prompt, {f"title {number}.seed": "5" for number in range(20_000)})
    assert all(node["inputs"]["seed"] == 5 for node in changed.values())
    assert all(node["inputs"]["seed"] == 3 for node in prompt.values())
    for number in range(50):
        set_inputs(prompt, {"title 19999.seed": str(number)})
    assert set_seed(prompt, 8)["20000"]["inputs"]["seed"] == 8
    assert time.process_time() - start < 5
    with pytest.raises(WorkflowError, match=r"\(and 19950 more\)") as caught:
        set_inputs(prompt, {"Nobody.seed": "1"})
    assert len(str(caught.value)) < 5000
