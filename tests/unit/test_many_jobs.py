"""Many jobs, columns, nodes and files in one run: the work grows as they do, within budgets that messages tell."""

from __future__ import annotations

import asyncio
import hashlib
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from ldm_headless.client.async_client import AsyncComfyClient
from ldm_headless.client.history import Outputs
from ldm_headless.errors import OutputError, PromptRejectedError, WorkflowError
from ldm_headless.run.dry_run import check_all
from ldm_headless.run.journal import Header
from ldm_headless.run.local_inputs import find_local_inputs
from ldm_headless.run.output_folder import OutputFolder
from ldm_headless.run.output_names import NameTemplate
from ldm_headless.run.plan import Plan
from ldm_headless.run.report import write_report
from ldm_headless.run.run_record import RunRecord
from ldm_headless.run.sweep import MAX_JOBS, MAX_VALUES, Job, expand

MANY = 20_000
INFO: dict[str, Any] = {
    "T": {
        "input": {
            "required": {
                "text": ["STRING", {}],
                "number": ["INT", {"control_after_generate": True}],
                "file": [["known.png"], {"image_upload": True}],
            }
        },
        "output": ["IMAGE"],
        "output_node": True,
    }
}


def workflow(nodes: int) -> dict[str, Any]:
    inputs = {"text": "a text of some length", "number": 3, "file": "known.png"}
    return {
        str(index): {"class_type": "T", "inputs": dict(inputs), "_meta": {"title": f"Node {index}"}}
        for index in range(nodes)
    }


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Of CPU time; ten times what it takes on an idle machine, a hundredth of what a square would take."""
    start = time.process_time()
    yield
    assert time.process_time() - start < seconds


def table(path: Path, columns: int, rows: int = 1) -> Path:
    header = ",".join(f"Node {index}.number" for index in range(columns))
    path.write_text("\n".join([header, *[",".join(["5"] * columns)] * rows]) + "\n")
    return path


def test_a_table_of_many_columns(tmp_path: Path) -> None:
    with within(10):
        jobs = expand([], table=table(tmp_path / "a.csv", MANY))
        plan = Plan("x", workflow(MANY), jobs, None, INFO)
        assert len(jobs[0].name_values) == MANY
        assert {node["inputs"]["number"] for node in plan.prompt(0).values()} == {5}
        asyncio.run(find_local_inputs(cast(AsyncComfyClient, None), "x", plan.base, jobs, INFO))


def test_columns_that_are_wrong_make_a_short_message(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text(",".join(f"column {index}" for index in range(MANY)) + "\n" + "1," * MANY)
    (tmp_path / "b.csv").write_text(",".join(["A.x"] * MANY) + "\n")
    (tmp_path / "c.csv").write_text(",".join(f"column {index}" for index in range(MANY)) + "\n" + "1," * (MANY - 1))
    words = (("a", "cells"), ("b", "names a column twice: A.x; keep one$"), ("c", r"\(and 19994 more\) are no inp"))
    for name, message in words:
        with within(5), pytest.raises(WorkflowError, match=message) as caught:
            expand([], table=tmp_path / f"{name}.csv")
        assert len(str(caught.value)) < 1000


def test_fingerprints_of_many_jobs() -> None:
    """The same as always, so that runs of before go on: the prompts one after the other, as sorted JSON."""
    jobs = expand(["Node 7.text=é|b", "Node 9.number=1|2"], "0-4")
    plan = Plan("x", workflow(12), [*jobs, *expand([])], None, {})
    with pytest.raises(WorkflowError, match="no seed to set"):
        plan.prompt(0)
    plan = Plan("x", workflow(12), expand(["Node 7.text=é|b", "Node 9.number=1|2"]), None, INFO)
    texts = [json.dumps(plan.prompt(index), sort_keys=True) + "\n" for index in range(4)]
    assert plan.fingerprint == hashlib.sha256("".join(texts).encode()).hexdigest()
    plan = Plan("x", workflow(8), expand(["Node 7.text=a|b"], f"0-{MANY // 2 - 1}"), None, INFO)
    with within(10):
        assert len(plan.jobs) == MANY
        assert plan.fingerprint


def test_a_seed_in_two_ways_is_told_for_many_jobs() -> None:
    plan = Plan("x", workflow(3), [Job({}, {"Node 1.number": "5"}, 4)], None, INFO)
    with pytest.raises(WorkflowError, match="'Node 1.number' is a seed, and job 0 has the seed 4"):
        plan.prompt(0)


@pytest.mark.parametrize(
    ("sweeps", "seeds", "columns", "message"),
    [
        ([], f"0-{MAX_JOBS}", 0, "make 200,001 runs; at most 200,000 are taken: split them"),
        (["A.x=" + "|".join("1" * 600), "A.y=" + "|".join("1" * 600)], None, 0, "make 360,000 runs"),
        ([], "0-999", MANY // 4, "set 5,000,000 inputs in 1,000 runs; at most 2,000,000 are taken"),
    ],
)
def test_runs_without_end_are_refused(
    tmp_path: Path, sweeps: list[str], seeds: str | None, columns: int, message: str
) -> None:
    path = table(tmp_path / "a.csv", columns) if columns else None
    with within(5), pytest.raises(WorkflowError, match=message):
        expand(sweeps, seeds, path)
    assert MAX_VALUES == 2_000_000


def test_a_table_without_end_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "a.csv").open("wb") as stream:
        stream.truncate(2**36)
    with within(1), pytest.raises(WorkflowError, match="68,719,476,736 bytes; at most 67,108,864 are taken"):
        expand([], table=tmp_path / "a.csv")


@pytest.mark.parametrize("text", ["A.x\n" + "y" * 200_000, 'A.x\n"' + "y" * 200_000])
def test_a_cell_that_the_reader_refuses_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.csv").write_text(text)
    with pytest.raises(WorkflowError, match=r"a\.csv cannot be read as CSV: field larger than field limit"):
        expand([], table=tmp_path / "a.csv")


def test_lines_are_those_of_the_format(tmp_path: Path) -> None:
    """Python's `splitlines` knows eight more ends of a line, which are characters in both formats."""
    text = "a\u2028b\x0bc\x85d"
    (tmp_path / "a.csv").write_text(f"A.x\n{text}\n", "utf-8")
    (tmp_path / "a.jsonl").write_text(json.dumps({"A.x": "a\u2028b"}, ensure_ascii=False) + "\r\n", "utf-8")
    assert [job.assignments["A.x"] for job in expand([], table=tmp_path / "a.csv")] == [text]
    assert [job.assignments["A.x"] for job in expand([], table=tmp_path / "a.jsonl")] == ["a\u2028b"]


def test_a_job_that_leaves_many_files_of_one_name(tmp_path: Path) -> None:
    with OutputFolder(tmp_path / "out", Header("w", 1, "{file}", "f")) as folder:
        sources = [folder.scratch_file() for _ in range(400)]
        for source in sources:
            source.write_bytes(b"x")
        with within(10):
            paths = folder.save(0, [("a-2.png", b"y"), *(("a.png", source) for source in sources)])
    names = [path.name for path in paths]
    assert names[:4] == ["a-2.png", "a.png", "a-3.png", "a-4.png"]
    assert len(set(names)) == 401


def test_many_jobs_are_named_recorded_and_reported_soon(tmp_path: Path) -> None:
    plan = Plan("x", workflow(3), expand([], f"0-{MANY - 1}"), None, INFO)
    with within(15), OutputFolder(tmp_path / "out", Header("x", MANY, "n", "f")) as folder:
        record = RunRecord(plan, folder, NameTemplate("{seed}", plan), lambda result: None)
        for index in range(50):
            record.save(index, Outputs(), [])
        servers: dict[str, Any] = {f"http://{number}": None for number in range(500)}
        write_report(tmp_path / "report.json", plan, record.results, servers, 1.0)
    assert json.loads((tmp_path / "report.json").read_text())["counts"] == {
        "done": 50, "kept": 0, "failed": 0, "left": MANY - 50,
    }  # fmt: skip


def test_many_problems_are_told_soon() -> None:
    base = workflow(2000)
    for node in base.values():
        node["inputs"]["file"] = "absent.png"
        node["inputs"]["number"] = "x"
    with within(10), pytest.raises(PromptRejectedError) as caught:
        list(check_all(Plan("x", base, [Job({}, {}, None)], None, INFO)))
    assert len(caught.value.node_errors) == 2000


def test_unknown_fields_of_a_wide_table_make_a_short_message(tmp_path: Path) -> None:
    plan = Plan("x", workflow(3), expand([], table=table(tmp_path / "a.csv", MANY)), None, INFO)
    with within(5), pytest.raises(OutputError, match=r"\{nothing\}, which is no field.* more\)") as caught:
        NameTemplate("{nothing}", plan)
    assert len(str(caught.value)) < 5000
