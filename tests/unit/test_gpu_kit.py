"""The mechanism of benchmarks/gpu with tiny stages: limits, results at once, exit codes, joining; no card, no torch."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tarfile
import textwrap
import time
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
KIT = ROOT / "benchmarks" / "gpu"
pytestmark = pytest.mark.skipif(os.name != "posix", reason="the kit is for Linux: it ends groups of processes")


def imported(monkeypatch: pytest.MonkeyPatch, name: str) -> ModuleType:
    monkeypatch.syspath_prepend(str(KIT))
    return importlib.import_module(name)


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> Any:
    return imported(monkeypatch, "runner")


@pytest.fixture
def results(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    return imported(monkeypatch, "record").Results(tmp_path / "out" / "gpu-test.json")


def python(code: str) -> list[str]:
    """A stage that can write results."""
    head = f"import sys; sys.path.insert(0, {str(KIT)!r})\n"
    return [sys.executable, "-c", head + textwrap.dedent(code)]


WRITES = """
import os, pathlib
from record import NAMED_BY, Results
r = Results(pathlib.Path(os.environ[NAMED_BY]))
r.row("{name}", "Table", what="first", value=1.5)
"""


def alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_a_stage_that_fails_does_not_stop_the_others(runner, results, tmp_path):
    stages = [
        runner.Stage("bad", python(WRITES.format(name="bad") + "\nprint('its last words'); sys.exit(3)"), 60),
        runner.Stage("missing", [str(tmp_path / "no-such-program")], 60),
        runner.Stage("good", python(WRITES.format(name="good") + "\nassert os.environ['MORE'] == '1'"), 60),
    ]
    told: list[str] = []
    assert not runner.run_stages(stages, results, tmp_path / "log.txt", 60, {"MORE": "1"}, told.append)
    found = json.loads(results.path.read_text())["stages"]
    assert found["bad"]["status"] == "failed with exit code 3"
    assert found["missing"]["status"].startswith("failed: it could not be started")
    assert found["good"]["status"] == "passed"
    for name in ("bad", "good"):
        assert found[name]["tables"] == {"Table": [{"what": "first", "value": 1.5}]}
    assert "its last words" in (tmp_path / "log.txt").read_text()
    text = results.path.with_suffix(".md").read_text()
    assert "| bad | failed with exit code 3 |" in text
    assert "| first | 1.5 |" in text
    assert "good: passed" in told


def test_all_passed(runner, results, tmp_path):
    stages = [runner.Stage(name, python("pass"), 60) for name in ("one", "two")]
    assert runner.run_stages(stages, results, tmp_path / "log.txt", 60, say=lambda line: None)


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc").is_dir(), reason="needs /proc")
@pytest.mark.parametrize("deaf", [False, True], ids=["asked", "deaf"])
def test_a_stage_that_hangs_is_ended_with_its_children(runner, results, tmp_path, monkeypatch, deaf):
    """One child is in its group, one made a session of its own; deaf ones do not listen to SIGTERM."""
    monkeypatch.setattr(runner, "GRACE_S", 0.5)
    ignore = "signal.signal(signal.SIGTERM, signal.SIG_IGN); " if deaf else ""
    child = f"import signal, time; {ignore}time.sleep(600)"
    hangs = WRITES.format(name="hangs") + textwrap.dedent(f"""
        import signal, subprocess, time
        {ignore or "pass"}
        pids = [subprocess.Popen([sys.executable, "-c", {child!r}], start_new_session=own).pid for own in (0, 1)]
        pathlib.Path({str(tmp_path / "pids")!r}).write_text(" ".join(map(str, [os.getpid(), *pids])))
        time.sleep(600)
    """)
    began = time.monotonic()
    stage = runner.Stage("hangs", python(hangs), 8)
    after = runner.Stage("after", python("pass"), 60)
    assert not runner.run_stages([stage, after], results, tmp_path / "log.txt", 120, say=lambda line: None)
    assert time.monotonic() - began < 60
    found = results.read()["stages"]
    assert found["hangs"]["status"] == "ended at its limit of 8 s"
    assert found["hangs"]["tables"]["Table"], "what it had written before is kept"
    assert found["after"]["status"] == "passed"
    pids = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert len(pids) == 3
    deadline = time.monotonic() + 5
    while any(map(alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in pids if alive(pid)]


def test_results_are_there_while_a_stage_runs_and_after_the_run_is_killed(results, tmp_path):
    """Killed so that nobody can tidy up: what was known is in both files."""
    stage = WRITES.format(name="long") + "\nimport time; time.sleep(600)"
    program = f"""
        from pathlib import Path
        from record import Results
        from runner import Stage, run_stages
        results, log = Results(Path({str(results.path)!r})), Path({str(tmp_path / "log")!r})
        run_stages([Stage("long", {python(stage)!r}, 600)], results, log, 600)
    """
    process = subprocess.Popen(python(program), stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not results.read()["stages"].get("long", {}).get("tables") and time.monotonic() < deadline:
        time.sleep(0.05)
    children = list(map(int, Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()))
    process.kill()
    process.wait()
    for pid in children:
        os.kill(pid, 9)
    assert results.read()["stages"]["long"]["status"] == "running"
    assert "## long: running" in results.path.with_suffix(".md").read_text()
    assert "| first | 1.5 |" in results.path.with_suffix(".md").read_text()


def test_a_stage_without_time_is_named_not_forgotten(runner, results, tmp_path):
    assert not runner.run_stages(
        [runner.Stage("late", python("pass"), 60)], results, tmp_path / "log.txt", 0.5, say=lambda line: None
    )
    assert results.read()["stages"]["late"]["status"] == "not run: no time was left"


def test_runs_on_one_device_are_joined_and_others_refused(monkeypatch, tmp_path):
    module = imported(monkeypatch, "record")
    for name, head, stage in (
        ("a", {"device": "Card X", "commit": "1"}, "speed"),
        ("b", {"device": "Card X", "commit": "1"}, "host"),
        ("c", {"device": "Card Y", "commit": "1"}, "host"),
    ):
        module.Results(tmp_path / f"{name}.json").write({"head": head, "stages": {stage: {"status": "passed"}}})
    joined = module.join([tmp_path / "a.json", tmp_path / "b.json"])
    assert list(joined["stages"]) == ["speed", "host"]
    with pytest.raises(SystemExit, match="device"):
        module.join([tmp_path / "a.json", tmp_path / "c.json"])
    assert module.file_name("NVIDIA H100 80GB HBM3").startswith("gpu-nvidia-h100-80gb-hbm3-20")


def test_a_spread_names_least_median_and_most(monkeypatch):
    spread = imported(monkeypatch, "record").spread([3.0, 1.0, 2.0], ".1f")
    assert spread == {"min": 1.0, "median": 2.0, "max": 3.0, "runs": 3, "text": "2.0 (1.0 to 3.0)"}


def test_each_stage_of_the_command_has_a_program(monkeypatch):
    stages = imported(monkeypatch, "session").STAGES
    assert {f"stage_{name}.py" for name in stages} == {file.name for file in KIT.glob("stage_*.py")}


def test_the_command_says_what_is_missing(monkeypatch, tmp_path):
    install = imported(monkeypatch, "install")
    monkeypatch.setattr(install, "KIT", tmp_path)
    with pytest.raises(SystemExit, match="make gpu-kit"):
        install.install()


def test_a_stand_in_for_av_can_be_imported_and_not_used(monkeypatch, tmp_path):
    collect = imported(monkeypatch, "collect")
    collect.stub(tmp_path, "av", "99.0.0", collect.AV_FILES)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        assert archive.testzip() is None
        assert "av-99.0.0.dist-info/RECORD" in archive.namelist()
    code = (
        "import av; from av.container import InputContainer; from av.subtitles.stream import SubtitleStream\n"
        "try: av.open('x')\nexcept ImportError as error: print(error)"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", code], env={"PYTHONPATH": str(wheel)}, capture_output=True, text=True, check=True
    )
    assert "stand-in" in done.stdout


def test_the_archive_of_the_host_is_its_code(monkeypatch, tmp_path):
    """What it wrote and its models stay here; a module of such a name deeper down is code."""
    collect = imported(monkeypatch, "collect")
    kept = ["main.py", "comfy_api/input/__init__.py", "models/vae/put_vae_here", "comfy/temp/x.py"]
    left = [
        "input/a.png",
        "output/b.png",
        "models/vae/big.safetensors",
        "comfy/__pycache__/x.pyc",
        "user/log",
        ".git/HEAD",
    ]
    for name in kept + left:
        (tmp_path / "host" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "host" / name).write_text("x")
    collect.archive(tmp_path / "host", tmp_path / "host.tar.gz")
    with tarfile.open(tmp_path / "host.tar.gz") as packed:
        found = {member.name for member in packed if member.isfile()}
    assert found == {f"comfyui/{name}" for name in kept}


@pytest.mark.skipif(sys.platform != "linux", reason="starts bash")
def test_the_program_to_run_is_executable():
    assert os.access(KIT / "run", os.X_OK)
