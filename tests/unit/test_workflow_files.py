"""Workflow files of every kind, changes to prompts, and sweeps."""

import json
from pathlib import Path
from typing import Any

import pytest
from editor_records import record
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from ldm_headless import load_workflow, to_prompt
from ldm_headless.errors import JobError, WorkflowError
from ldm_headless.run.sweep import Job, expand
from ldm_headless.workflows.overrides import set_inputs, set_seed
from ldm_headless.workflows.workflow import check_prompt, ui_twin

UI = record("reroutes")["graph"]


@pytest.fixture
def prompt() -> dict[str, Any]:
    return {
        "1": {"class_type": "A", "inputs": {"seed": 3, "name": "x", "flag": True}, "_meta": {"title": "First, v1.0"}},
        "2": {"class_type": "B", "inputs": {"image": ["1", 0]}, "_meta": {"title": "Same"}},
        "3": {"class_type": "B", "inputs": {}, "_meta": {"title": "Same"}},
    }


# Files


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "not JSON"),
        ("[]", "a JSON list"),
        ("{}", "an empty object"),
        ('{"1": {"inputs": {}}}', "node '1' has no text `class_type`"),
        ('{"1": {"class_type": "A"}}', r"node '1' \(A\) has no object `inputs`"),
        ('{"1": {"class_type": "A", "inputs": {"x": ["9", 0]}}}', "1.x is linked to node '9', which is missing"),
    ],
)
def test_a_bad_workflow_file_is_explained(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "bad.json"
    path.write_text(content)
    with pytest.raises(WorkflowError, match=message) as caught:
        load_workflow(path)
    assert str(path) in str(caught.value)


def test_a_missing_workflow_file_is_explained(tmp_path: Path) -> None:
    with pytest.raises(WorkflowError, match=r"cannot read the workflow .*absent\.json: No such file"):
        load_workflow(tmp_path / "absent.json")


def test_content_decides_what_a_file_is(tmp_path: Path, prompt: dict[str, Any]) -> None:
    path = tmp_path / "picture.png"
    path.write_text(json.dumps(UI))
    workflow = load_workflow(path)
    assert (workflow.ui, workflow.prompt) == (UI, None)
    assert to_prompt(workflow, record("reroutes")["object_info"]) == record("reroutes")["expected"]
    path.write_text(json.dumps(prompt))
    workflow = load_workflow(path)
    assert (workflow.ui, to_prompt(workflow, {})) == (None, prompt)


def test_a_graph_of_notes_is_no_prompt(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text(json.dumps({"nodes": [{"id": 1, "type": "Note"}], "links": []}))
    with pytest.raises(WorkflowError, match="no node that would run"):
        to_prompt(load_workflow(tmp_path / "a.json"), {})


@pytest.mark.parametrize("kind", ["tEXt", "iTXt", "zTXt"])
def test_a_png_gives_its_prompt_and_its_graph(tmp_path: Path, prompt: dict[str, Any], kind: str) -> None:
    info = PngInfo()
    for key, value in {"prompt": prompt, "workflow": UI}.items():
        add = info.add_itxt if kind == "iTXt" else info.add_text
        add(key, json.dumps(value), zip=True) if kind == "zTXt" else add(key, json.dumps(value))
    Image.new("RGB", (8, 8)).save(tmp_path / "named.json", "png", pnginfo=info)
    workflow = load_workflow(tmp_path / "named.json")
    assert (workflow.ui, workflow.prompt) == (UI, prompt)


@pytest.mark.parametrize("kind", ["webp", "jpeg"])
def test_a_webp_and_a_jpeg_give_theirs(tmp_path: Path, prompt: dict[str, Any], kind: str) -> None:
    exif = Image.Exif()
    exif[0x0110] = f"prompt:{json.dumps(prompt)}"
    exif[0x010F] = f"workflow:{json.dumps(UI)}"
    Image.new("RGB", (8, 8)).save(tmp_path / "a", kind, exif=exif)
    workflow = load_workflow(tmp_path / "a")
    assert (workflow.ui, workflow.prompt) == (UI, prompt)


def test_pictures_without_a_workflow_are_explained(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "plain.png")
    with pytest.raises(WorkflowError, match=r"plain\.png carries no workflow"):
        load_workflow(tmp_path / "plain.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "plain.png").read_bytes()[:20])
    with pytest.raises(WorkflowError, match=r"cut\.png is a damaged picture"):
        load_workflow(tmp_path / "cut.png")


def test_what_a_host_noted_into_nodes_is_not_sent_back(prompt: dict[str, Any]) -> None:
    noted = {key: {**node, "is_changed": [1]} for key, node in prompt.items()}
    assert check_prompt(noted, "x") == prompt


def test_the_ui_twin_of_an_api_file_is_found(tmp_path: Path) -> None:
    (tmp_path / "api").mkdir()
    (tmp_path / "a.json").write_text("{}")
    assert ui_twin(tmp_path / "api" / "a.json") == tmp_path / "a.json"
    assert ui_twin(tmp_path / "api" / "b.json") is None
    assert ui_twin(tmp_path / "a.json") is None


# Changes


def test_inputs_are_set_by_id_and_title_and_keep_their_kind(prompt: dict[str, Any]) -> None:
    changed = set_inputs(prompt, {"1.seed": "7", "First, v1.0.name": "12", "1.flag": "false"})
    assert changed["1"]["inputs"] == {"seed": 7, "name": "12", "flag": False}
    assert prompt["1"]["inputs"]["seed"] == 3


def test_the_host_tells_of_inputs_that_the_prompt_leaves_out(prompt: dict[str, Any]) -> None:
    info = {"B": {"input": {"optional": {"text": ["STRING"], "size": ["INT"]}}}}
    changed = set_inputs(prompt, {"3.text": "5", "3.size": "5"}, info)
    assert changed["3"]["inputs"] == {"text": "5", "size": 5}


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("seed", "expected NODE.INPUT"),
        ("Nobody.seed", r"no node has the id or title 'Nobody'; there are 1 \(First, v1\.0\)"),
        ("Same.image", "belongs to the nodes 2, 3"),
        ("1.sed", "has no input 'sed'; it has flag, name, seed"),
    ],
)
def test_a_bad_assignment_is_explained(prompt: dict[str, Any], target: str, message: str) -> None:
    with pytest.raises(WorkflowError, match=message):
        set_inputs(prompt, {target: "1"})


def test_an_input_is_not_set_twice_under_two_names(prompt: dict[str, Any]) -> None:
    with pytest.raises(WorkflowError, match=r"'1\.seed' and 'First, v1\.0\.seed' are the same input"):
        set_inputs(prompt, {"1.seed": "1", "First, v1.0.seed": "2"})


def test_every_seed_is_set_and_nothing_else() -> None:
    control = {"control_after_generate": True}
    info = {
        "Own": {"input": {"required": {"start": ["INT", control], "mode": ["COMBO", control]}}},
        "PrimitiveInt": {"input": {"required": {"value": ["INT", control]}}},
    }
    inputs = {
        "1": ("KSampler", {"seed": 1, "steps": 20}),
        "2": ("SamplerCustom", {"noise_seed": ["4", 0], "width": ["5", 0]}),
        "3": ("Own", {"start": 2, "mode": "a"}),
        "4": ("PrimitiveInt", {"value": 3}),
        "5": ("PrimitiveInt", {"value": 64}),
        "6": ("Texts", {"seed": "a text"}),
    }
    prompt = {key: {"class_type": kind, "inputs": values} for key, (kind, values) in inputs.items()}
    changed = {key: node["inputs"] for key, node in set_seed(prompt, 77, info).items()}
    assert changed == {
        "1": {"seed": 77, "steps": 20},
        "2": {"noise_seed": ["4", 0], "width": ["5", 0]},
        "3": {"start": 77, "mode": "a"},
        "4": {"value": 77},
        "5": {"value": 64},
        "6": {"seed": "a text"},
    }
    assert set_seed(prompt, 77)["3"]["inputs"]["start"] == 2


def test_a_prompt_without_a_seed_is_explained(prompt: dict[str, Any]) -> None:
    del prompt["1"]["inputs"]["seed"]
    with pytest.raises(WorkflowError, match="no seed to set"):
        set_seed(prompt, 1)
    with pytest.raises(WorkflowError, match="negative"):
        set_seed(prompt, -1)


# Sweeps


def test_a_sweep_is_the_product_with_seeds_innermost() -> None:
    jobs = expand(["A.steps=5|10", 'A.name=["x", 2.5]'], "3,5-6")
    assert len(jobs) == 12
    assert [job.seed for job in jobs[:4]] == [3, 5, 6, 3]
    assert jobs[0] == Job({"steps": "5", "name": "x", "seed": "3"}, {"A.steps": "5", "A.name": "x"}, 3)
    assert jobs[-1].assignments == {"A.steps": "10", "A.name": "2.5"}


def test_no_options_are_one_unchanged_run() -> None:
    assert expand([]) == [Job({}, {}, None)]


def test_texts_keep_their_commas_equal_signs_and_bars() -> None:
    assert [job.assignments["A.text"] for job in expand([r"A.text=a, b=c|d\|e"])] == ["a, b=c", "d|e"]


def test_set_values_are_in_every_run() -> None:
    jobs = expand(["A.steps=5|10"], "3", sets=["B.text=x=1|2", "B.size=7"])
    assert [job.assignments for job in jobs] == [
        {"B.text": "x=1|2", "B.size": "7", "A.steps": steps} for steps in ("5", "10")
    ]
    assert jobs[0].name_values == {"text": "x=1|2", "size": "7", "steps": "5", "seed": "3"}


@pytest.mark.parametrize(
    ("sets", "sweeps", "message"),
    [
        (["A.x"], [], "cannot read --set 'A.x'; expected NODE.INPUT=VALUE"),
        (["x=1"], [], "cannot read --set"),
        (["A.x=1", "A.x=2"], [], "A.x is given twice"),
        (["A.x=1"], ["A.x=2|3"], "A.x is given twice"),
    ],
)
def test_a_bad_set_is_explained(sets: list[str], sweeps: list[str], message: str) -> None:
    with pytest.raises(WorkflowError, match=message):
        expand(sweeps, sets=sets)


def test_names_say_the_node_where_inputs_share_a_name() -> None:
    assert expand(["A.size=1", "B.size=2"])[0].name_values == {"A.size": "1", "B.size": "2"}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("t.csv", 'A.steps,A.text,seed\n5,"a, b",1\n\n10,,2\n'),
        ("t.jsonl", '{"A.steps": 5, "A.text": "a, b", "seed": 1}\n{"A.steps": 10, "seed": 2}\n'),
    ],
)
def test_table_rows_multiply_with_sweeps(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    jobs = expand(["B.x=1|2"], None, tmp_path / name)
    assert [job.seed for job in jobs] == [1, 2, 1, 2]
    assert jobs[0].assignments == {"B.x": "1", "A.steps": "5", "A.text": "a, b"}
    assert jobs[3].assignments == {"B.x": "2", "A.steps": "10"}


@pytest.mark.parametrize(
    ("sweeps", "seeds", "table", "message"),
    [
        (["steps=1"], None, None, "cannot read --sweep 'steps=1'"),
        (["A.x"], None, None, "cannot read --sweep"),
        (["A.x=[]"], None, None, "has no values"),
        (["A.x=1", "A.x=2"], None, None, "A.x is given twice"),
        ([], "9-3", None, "first <= last"),
        ([], "", None, "in --seeds; expected"),
        ([], "-3", None, "in --seeds; expected"),
        ([], "0-99999999999", None, "more than 10,000,000 images"),
        (["A.x=1|2"], "0-999999", None, "make 2,000,000 runs"),
        ([], "1", "A.x,seed\n1,2\n", "seed is given twice"),
        ([], None, "", "has no rows"),
        ([], None, "A.x,A.x\n1,2\n", "names a column twice"),
        ([], None, "A.x,B.y\n1\n", "row 1: 1 cells; the header has 2"),
        ([], None, "x,seed\n1,2\n", "columns x are no inputs"),
        ([], None, "A.x,seed\n1,-2\n", "row 1: the seed '-2' is no whole number"),
        ([], None, '{"A.x": 1}\n[\n', "line 2 is not JSON"),
    ],
)
def test_a_bad_sweep_is_explained(
    tmp_path: Path, sweeps: list[str], seeds: str | None, table: str | None, message: str
) -> None:
    path = tmp_path / "table" if table is not None else None
    if path is not None and table is not None:
        path.write_text(table)
    with pytest.raises((WorkflowError, JobError), match=message):
        expand(sweeps, seeds, path)


def test_a_missing_table_is_explained(tmp_path: Path) -> None:
    with pytest.raises(WorkflowError, match="cannot read the table"):
        expand([], None, tmp_path / "absent.csv")
