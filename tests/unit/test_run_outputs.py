"""What a run writes: names from templates, the output folder with its journal, the report."""

import hashlib
import json
import random
from pathlib import Path

import pytest

from ldm_headless import ImageRef
from ldm_headless.errors import ExecutionError, OutputError, WorkflowError
from ldm_headless.run.journal import JOURNAL, LOCK, Header
from ldm_headless.run.output_folder import OutputFolder
from ldm_headless.run.output_names import NameTemplate
from ldm_headless.run.plan import Plan
from ldm_headless.run.report import JobResult, JobState, check_report_path, failure, write_report
from ldm_headless.run.sweep import Job

HEADER = Header("demo.json", 2, "{index}", "abc")
BASE = {"5": {"class_type": "SaveImage", "inputs": {"seed": 3}, "_meta": {"title": "Save/it"}}}


def plan(values: dict[str, str] | None = None) -> Plan:
    return Plan("demo.json", BASE, [Job(values or {}, {}, index + 7) for index in range(2)], None, {})


def name(template: str | None, filename: str = "ldm_00001_.png", values: dict[str, str] | None = None) -> str:
    return NameTemplate(template, plan(values)).name(1, 0, ImageRef(filename, "", "output", "5"))


# Names


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (None, "ldm_00001.png"),
        ("{seed}_{index:04}", "8_0001.png"),
        ("{seed}/{file}-{image}-{node}-{index}", "8/ldm_00001_-0-5-1.png"),
        ("{title}{index}", "Save_it1.png"),
        (".{index}", "_.1.png"),
        ("{{{index}}}", "{1}.png"),
    ],
)
def test_templates(template: str | None, expected: str) -> None:
    assert name(template) == expected


def test_numbers_of_a_sweep_take_a_width() -> None:
    assert name("{steps:04}_{index}", values={"steps": "20"}) == "0020_1.png"
    assert name("{steps:04}_{index}", values={"steps": "all"}) == "all_1.png"


def test_set_values_are_fields_and_cannot_leave_the_folder() -> None:
    assert name("{A b.steps}_{index}", values={"A b.steps": "20"}) == "20_1.png"
    assert name("{x.y}/{index}", values={"x.y": "../../etc/passwd\0"}) == "_.._.._etc_passwd_/1.png"


@pytest.mark.parametrize("filename", ["../../a.png", "..\\..\\a.png", "/etc/a.png", "C:\\a.png"])
def test_a_name_from_a_server_cannot_leave_the_folder(filename: str) -> None:
    assert name("{file}{index}", filename) == "a1.png"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("../{index}", "expected a path below the output folder"),
        ("/tmp/{index}", "expected a path below"),  # noqa: S108
        ("a/./{index}", "expected a path below"),
        ("a\\{index}", "expected a path below"),
        ("x" * 201 + "{index}", "at most 200 bytes"),
        ("{index.__class__}", "is no field; there are file, image, index"),
        ("{index!r}", "is no field"),
        ("{index:0999999999}", "is no field"),
        ("{nothing}", "is no field"),
        ("{index", "cannot read --name"),
        ("same", "jobs 0 and 1 the same name; add {index}"),
    ],
)
def test_bad_templates_are_explained(template: str, message: str) -> None:
    with pytest.raises(OutputError, match=message):
        name(template)


# What is submitted


HOST = {
    "Source": {"input": {"required": {"seed": ["INT", {"default": 3}]}}, "output": ["IMAGE"]},
    "Sink": {"input": {"required": {"images": ["IMAGE"]}}, "output": [], "output_node": True},
}
GRAPH = {
    "nodes": [
        {"id": 1, "type": "Source", "widgets_values": [3, "fixed"], "outputs": [{"type": "IMAGE", "links": [1]}]},
        {"id": 2, "type": "Sink", "inputs": [{"name": "images", "type": "IMAGE", "link": 1}]},
    ],
    "links": [[1, 1, 0, 2, 0, "IMAGE"]],
}
PROMPT = {
    "1": {"class_type": "Source", "inputs": {"seed": 3}, "_meta": {"title": "of no weight"}},
    "2": {"class_type": "Sink", "inputs": {"images": ["1", 0]}},
}


def test_the_ui_graph_goes_only_with_the_prompt_that_it_shows() -> None:
    jobs = [Job({}, {}, None), Job({}, {}, 4), Job({}, {"1.seed": "3"}, None), Job({}, {"1.seed": "5"}, None)]
    shown = Plan("x", PROMPT, jobs, GRAPH, HOST)
    embedded = {"extra_pnginfo": {"workflow": GRAPH}}
    assert [shown.extra_data(index) for index in range(4)] == [embedded, {}, embedded, {}]
    assert Plan("x", PROMPT, jobs, None, HOST).extra_data(0) == {}
    assert Plan("x", PROMPT, jobs, GRAPH, {}).extra_data(0) == {}  # its nodes are unknown: nobody can tell
    assert Plan("x", PROMPT, jobs, {"nodes": [], "links": []}, HOST).extra_data(0) == {}


def test_a_seed_is_not_given_in_two_ways() -> None:
    with pytest.raises(WorkflowError, match=r"'1\.seed' is a seed, and job 0 has the seed 4 already"):
        Plan("x", PROMPT, [Job({}, {"1.seed": "5"}, 4)], None, HOST).prompt(0)


# The folder


def test_files_are_kept_and_found_again_and_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "0.png").write_bytes(b"the user's")
    with OutputFolder(tmp_path, HEADER) as folder:
        saved = folder.save(0, [("0.png", b"a"), ("0.png", b"b"), ("sub/x.png", b"c")])
        assert [path.relative_to(tmp_path).as_posix() for path in saved] == ["0-2.png", "0-3.png", "sub/x.png"]
    with OutputFolder(tmp_path, HEADER) as folder:
        assert folder.complete(0) == saved
        assert folder.complete(1) is None
        saved[1].unlink()
        assert folder.complete(0) is None
        # The file that is still there is taken as it is; only the missing one is written.
        assert folder.save(0, [("0.png", b"a"), ("0.png", b"b"), ("sub/x.png", b"c")]) == saved
    assert (tmp_path / "0.png").read_bytes() == b"the user's"
    assert len([path for path in tmp_path.rglob("*") if path.is_file() and not path.name.startswith(".ldm")]) == 4


def test_a_changed_file_is_neither_complete_nor_overwritten(tmp_path: Path) -> None:
    with OutputFolder(tmp_path, HEADER) as folder:
        (path,) = folder.save(0, [("0.png", b"a")])
        path.write_bytes(b"b")
        assert folder.complete(0) is None
        (again,) = folder.save(0, [("0.png", b"a")])
        assert (path.read_bytes(), again.name, again.read_bytes()) == (b"b", "0-2.png", b"a")


def test_a_link_in_the_folder_does_not_lead_out(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "sub").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "out" / "x.png").symlink_to(tmp_path / "elsewhere" / "x.png")
    with OutputFolder(tmp_path / "out", HEADER) as folder:
        with pytest.raises(OutputError, match="leads out of"):
            folder.save(0, [("sub/deep/0.png", b"a")])
        assert folder.save(0, [("x.png", b"a")])[0].name == "x-2.png"
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_line_that_was_cut_is_dropped(tmp_path: Path) -> None:
    with OutputFolder(tmp_path, HEADER) as folder:
        folder.save(0, [("0.png", b"a")])
        folder.journal.note_submission(1, "http://s", "id")
    content = (tmp_path / JOURNAL).read_bytes()
    (tmp_path / JOURNAL).write_bytes(content[:-9])
    with OutputFolder(tmp_path, HEADER) as folder:
        assert folder.complete(0)
        assert folder.journal.submissions == {}
        folder.journal.note_submission(1, "http://s", "id")
    assert (tmp_path / JOURNAL).read_bytes() == content


def test_only_what_the_journal_names_is_removed(tmp_path: Path) -> None:
    """Other runs and `ldm generate` may work below the folder, and in it."""
    name, others = (
        f".ldm-partial-{'0' * 32}",
        [".ldm-partial-ab12", "sub/.ldm-partial-cd34", f".ldm-partial-{'1' * 32}"],
    )
    with OutputFolder(tmp_path, HEADER) as folder:
        folder.journal.note_scratch(name)
    for path in (f"{name}/x", *others):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_bytes(b"live")
    with OutputFolder(tmp_path, HEADER) as folder:
        folder.save(0, [("0.png", b"a")])
    assert not (tmp_path / name).exists()
    assert [(tmp_path / other).read_bytes() for other in others] == [b"live"] * 3
    assert sorted(path.name for path in tmp_path.glob(".ldm-partial*")) == sorted(o for o in others if "/" not in o)


@pytest.mark.parametrize("name", [JOURNAL, LOCK])
@pytest.mark.parametrize("kind", ["link", "twin", "folder"])
def test_a_journal_that_is_a_link_is_refused(tmp_path: Path, name: str, kind: str) -> None:
    out, target = tmp_path / "out", tmp_path / "mine"
    out.mkdir()
    target.write_bytes(b"mine")
    if kind == "link":
        (out / name).symlink_to(target)
    elif kind == "twin":
        (out / name).hardlink_to(target)
    else:
        (out / name).mkdir()
    with pytest.raises(OutputError, match="a link or no plain file"):
        OutputFolder(out, HEADER)
    assert target.read_bytes() == b"mine"


@pytest.mark.parametrize(
    "line",
    [
        {"job": 0, "files": [{"name": "../mine", "bytes": 4, "sha256": "{sha}"}]},
        {"job": 0, "files": [{"name": "{mine}", "bytes": 4, "sha256": "{sha}"}]},
        {"job": 0, "files": [{"name": "a\x1b[2J", "bytes": 4, "sha256": "{sha}"}]},
        {"job": 0, "files": [{"name": ".ldm-run.lock", "bytes": 0, "sha256": "{sha}"}]},
        {"job": 0, "files": [{"name": 7, "bytes": 4, "sha256": "{sha}"}]},
        {"job": 9, "files": []},
        {"job": True, "files": []},
        {"job": 0, "server": "http://s", "prompt_id": "\ud800"},
        {"job": 0, "files": 3},
        {"job": 0, "files": [["0.png", 4, "{sha}"]]},
        {"job": 0, "files": [{"name": "0.png", "bytes": 4.0, "sha256": "{sha}"}]},
        {"job": 0, "files": [{"name": "0.png", "bytes": True, "sha256": "{sha}"}]},
        {"job": 0, "files": [{"name": "0.png", "bytes": 4, "sha256": "{sha}", "more": 1}]},
        {"job": 0, "files": [], "texts": 7},
        {"job": 0, "files": [], "texts": [["1"]]},
        {"job": 0, "files": [], "texts": [["1", 2]]},
        {"job": 0, "files": [], "texts": {"1": "x"}},
        {"job": 0, "server": "http://s"},
        {"job": 0, "server": None, "prompt_id": "i"},
        {"job": float("nan"), "files": []},
        {"job": -1, "files": []},
        {"job": "0", "files": []},
        {"server": "http://s", "prompt_id": "i"},
        ["job"],
        "scratch",
        None,
        7,
        {},
    ],
)
def test_a_tampered_journal_is_refused(tmp_path: Path, line: object) -> None:
    (tmp_path / "mine").write_bytes(b"mine")
    out = tmp_path / "out"
    OutputFolder(out, HEADER).journal.close()
    sha = hashlib.sha256(b"mine").hexdigest()
    text = json.dumps(line).replace("{sha}", sha).replace("{mine}", str(tmp_path / "mine"))
    with (out / JOURNAL).open("a") as journal:
        journal.write(text + "\n")
    with pytest.raises(OutputError, match="cannot be read"):
        OutputFolder(out, HEADER)


@pytest.mark.parametrize("content", [b"my notes", b"[" * 200_000 + b"\n", b"{" + b'"a":{' * 5000 + b"\n"])
def test_what_is_no_journal_is_kept(tmp_path: Path, content: bytes) -> None:
    (tmp_path / JOURNAL).write_bytes(content)
    with pytest.raises(OutputError, match="cannot be read"):
        OutputFolder(tmp_path, HEADER)
    assert (tmp_path / JOURNAL).read_bytes() == content


def test_a_journal_without_end_is_refused(tmp_path: Path) -> None:
    with (tmp_path / JOURNAL).open("wb") as stream:
        stream.truncate(2**36)
    with pytest.raises(OutputError, match="68,719,476,736 bytes, more than any run writes"):
        OutputFolder(tmp_path, HEADER)


def test_journals_of_which_something_is_odd(tmp_path: Path) -> None:
    """Edited bytes: read as some run of this folder, or refused; what is there stays."""
    with OutputFolder(tmp_path / "whole", HEADER) as folder:
        folder.journal.note_submission(0, "http://s", "id")
        folder.save(0, [("0.png", b"a")], [("3", "hello")])
        folder.journal.note_scratch(f".ldm-partial-{'0' * 32}")
    content, chance, refused = (tmp_path / "whole" / JOURNAL).read_bytes(), random.Random(0), 0
    for number in range(400):
        edited, out = bytearray(content), tmp_path / str(number)
        for _ in range(chance.choice((1, 1, 4))):
            place = chance.randrange(len(edited))
            edited[place : place + chance.choice((0, 1, 1, 9))] = chance.choice(
                (b"", b"\n", b"\0", b"\xff", b'"', b"{", b"[", b"]}", b"../", b"1e999", b"-", chance.randbytes(3))
            )
        out.mkdir()
        (out / "0.png").write_bytes(b"a")
        (out / JOURNAL).write_bytes(edited)
        try:
            with OutputFolder(out, HEADER) as folder:
                folder.complete(0)
        except OutputError:
            refused += 1
            assert (out / JOURNAL).read_bytes() == edited
        assert (out / "0.png").read_bytes() == b"a"
        assert {path.name for path in out.iterdir()} <= {"0.png", JOURNAL, LOCK}
    assert refused > 100


def test_a_file_behind_a_link_is_not_one_of_the_run(tmp_path: Path) -> None:
    with OutputFolder(tmp_path / "out", HEADER) as folder:
        (saved,) = folder.save(0, [("0.png", b"a")])
        saved.rename(tmp_path / "elsewhere.png")
        saved.symlink_to(tmp_path / "elsewhere.png")
        assert folder.complete(0) is None


def test_a_journal_of_before_goes_on(tmp_path: Path) -> None:
    """As it was written before there were texts and scratch folders."""
    (tmp_path / "0.png").write_bytes(b"a")
    header = {"format": "ldm-run/1", "workflow": "demo.json", "jobs": 2, "name": "{index}", "fingerprint": "abc"}
    file = {"name": "0.png", "bytes": 1, "sha256": hashlib.sha256(b"a").hexdigest()}
    lines = [header, {"job": 0, "server": "http://u:p@s", "prompt_id": "i"}, {"job": 0, "files": [file]}]
    (tmp_path / JOURNAL).write_text("".join(json.dumps(line) + "\n" for line in lines))
    with OutputFolder(tmp_path, HEADER) as folder:
        assert folder.complete(0) == [tmp_path / "0.png"]
        assert folder.complete(1) is None


def test_texts_alone_complete_a_job(tmp_path: Path) -> None:
    with OutputFolder(tmp_path, HEADER) as folder:
        assert folder.save(0, [], [("3", "hello")]) == []
    with OutputFolder(tmp_path, HEADER) as folder:
        assert (folder.complete(0), folder.journal.texts[0]) == ([], [("3", "hello")])


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (Header("a.json", 3, "{index}", "abd"), r"another run, of 2 job\(s\) of demo.json; this one has 3"),
        (Header("demo.json", 2, "{seed}", "abc"), "with --name '{index}'"),
        (Header("demo.json", 2, "{index}", "abd"), "with other values"),
    ],
)
def test_a_changed_job_list_is_refused_until_told_to_begin_anew(tmp_path: Path, other: Header, message: str) -> None:
    with OutputFolder(tmp_path, HEADER) as folder:
        (kept,) = folder.save(0, [("0.png", b"a")])
    with pytest.raises(OutputError, match=message):
        OutputFolder(tmp_path, other)
    with OutputFolder(tmp_path, other, fresh=True) as folder:
        assert folder.complete(0) is None
    assert kept.read_bytes() == b"a"
    assert (tmp_path / ".ldm-run-2.jsonl").exists()


def test_two_runs_do_not_share_a_folder(tmp_path: Path) -> None:
    with OutputFolder(tmp_path, HEADER), pytest.raises(OutputError, match="another run works in"):
        OutputFolder(tmp_path, HEADER)


@pytest.mark.parametrize("content", ["{}\n", "nonsense\n", '{"format": "other"}\n', "[]\n"])
def test_a_foreign_journal_is_refused_and_kept(tmp_path: Path, content: str) -> None:
    (tmp_path / JOURNAL).write_text(content)
    with pytest.raises(OutputError, match="cannot be read"):
        OutputFolder(tmp_path, HEADER)
    assert (tmp_path / JOURNAL).read_text() == content


def test_a_folder_that_is_a_file_is_explained(tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(OutputError, match="cannot write into"):
        OutputFolder(tmp_path / "out", HEADER)


# The report


def test_the_report_tells_each_job_and_replaces_only_reports(tmp_path: Path) -> None:
    error = ExecutionError("4", "N", "ValueError", "bad")
    results = [JobResult(0, JobState.DONE, [tmp_path / "a.png"], server="http://a"), JobResult(1, JobState.FAILED)]
    results[1].error = error
    path = tmp_path / "report.json"
    write_report(path, plan(), results, {"http://a": None}, 1.0)
    check_report_path(path)
    report = json.loads(path.read_text())
    assert report["counts"] == {"done": 1, "kept": 0, "failed": 1, "left": 0}
    assert report["servers"] == [{"url": "http://a", "done": 1, "error": None}]
    assert [job["seed"] for job in report["jobs"]] == [7, 8]
    assert report["jobs"][1]["error"] == {"type": "ExecutionError", "message": str(error), "nodes": ["4"]}
    for other in (Path("/dev/full"), Path("/dev/zero"), tmp_path):  # that never end, and a folder
        with pytest.raises(OutputError, match="is no report"):
            check_report_path(other)
    path.write_text('{"mine": 1}')
    with pytest.raises(OutputError, match="is no report"):
        check_report_path(path)
    with pytest.raises(OutputError, match="does not exist"):
        check_report_path(tmp_path / "no" / "report.json")


def test_the_first_failure_gives_the_exit_code() -> None:
    error = ExecutionError("4", "N", "ValueError", "bad")
    alone = JobResult(0, JobState.FAILED, error=error)
    assert failure([alone], {}) is error
    assert failure([JobResult(0, JobState.DONE), JobResult(1, JobState.KEPT)], {}) is None
    several = failure([alone, JobResult(1)], {})
    assert several is not None
    assert several.exit_code == 1
    assert str(several).startswith("1 of 2 jobs failed and 1 did not run; the first, job 0: node 4 (N) failed")
