"""`ldm run --ray`: hosts and workers killed, runs stopped and resumed, and still the images of a run without Ray.

`LDM_FAULT_JOBS=200` makes every run that long, as in tests/host/test_faults.py.
"""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest
from ldm_runs import DEMO, JOBS, LIMIT, Run, images, processes

from ldm_headless.errors import HostError
from ldm_headless.run.private_host_worker import HostWorker

pytestmark = pytest.mark.host
ONE_THREAD = ["--threads", "1"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    run = Run(tmp_path_factory.mktemp("undisturbed") / "out", more=ONE_THREAD)
    run.end(0)
    expected = images(run.out)
    assert len(set(expected.values())) == JOBS
    return expected


def on_ray(out: Path, temporary: Path) -> Run:
    """Two hosts on a cluster of this machine; what they leave on the disk goes into a folder of the test."""
    temporary.mkdir(exist_ok=True)
    more = [*ONE_THREAD, "--ray", "local", "--workers", "2"]
    # Ray's own files stay where they are by default: the path of a socket must be short.
    return Run(out, more=more, environment={"TMPDIR": str(temporary), "RAY_TMPDIR": tempfile.gettempdir()})


def wait_for_hosts(run: Run, temporary: Path) -> list[int]:
    """Until both work: their process ids."""
    deadline = time.monotonic() + LIMIT
    while len(found := processes(temporary)) < 2 or not images(run.out):
        assert run.process.poll() is None, run.process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return found


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def test_a_killed_host_and_a_killed_worker_cost_no_image(tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    temporary = tmp_path / "tmp"
    run = on_ray(tmp_path / "out", temporary)
    first, second = wait_for_hosts(run, temporary)
    os.kill(first, signal.SIGKILL)
    run.wait_for_images(len(images(run.out)) + 2)
    worker = parent(second)
    os.kill(worker, signal.SIGKILL)
    messages = run.end(0)
    assert messages.count("lost a worker") == 2
    assert "the private host of" in messages
    assert images(run.out) == undisturbed
    report = run.report()
    assert report["counts"] == {"done": JOBS, "kept": 0, "failed": 0, "left": 0}
    attempts = [job["attempts"] for job in report["jobs"]]
    assert JOBS + 2 <= sum(attempts) <= JOBS + 4  # each that was killed had one or two jobs
    assert sum(server["done"] for server in report["servers"]) == JOBS
    assert processes(temporary) == []


def test_a_stopped_run_leaves_no_host_and_goes_on(tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    temporary = tmp_path / "tmp"
    run = on_ray(tmp_path / "out", temporary)
    run.wait_for_images(2)
    run.process.send_signal(signal.SIGTERM)
    assert "the same command goes on from there" in run.end(143)
    assert processes(temporary) == []
    assert list(temporary.glob("comfyui-ldm-*")) == []
    counts = run.report()["counts"]
    assert 0 < counts["left"] < JOBS
    again = Run(run.out, more=ONE_THREAD)  # without Ray: it is the same run
    again.end(0)
    assert again.report()["counts"]["kept"] == counts["done"]
    assert images(run.out) == undisturbed


def test_a_job_that_fails_fails_alone_and_a_broken_workflow_is_told_at_once(tmp_path: Path) -> None:
    def ldm_run(workflow: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-P", "-m", "ldm_headless", "run", str(workflow), "--ray", "local", *arguments]
        return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)

    both = ldm_run(DEMO, "--set", "3.steps=2", "--sweep", "1.checkpoint=absent|portraits-128", "--report", "x.json")
    assert both.returncode == 1, both.stderr
    assert "1 of 2 jobs failed and 0 did not run; the first, job 0: node 1 (LDMCheckpointLoader) failed" in both.stderr
    states = [job["state"] for job in json.loads((tmp_path / "x.json").read_text())["jobs"]]
    assert states == ["failed", "done"]
    (tmp_path / "broken.json").write_text(DEMO.read_text().replace("LDMLatentNoise", "LDMLatentNois"))
    broken = ldm_run(tmp_path / "broken.json", "--out", "none")
    assert broken.returncode == 3
    assert "did you mean LDMLatentNoise?" in broken.stderr
    assert not (tmp_path / "none").exists()


def test_a_worker_with_other_versions_is_refused() -> None:
    with pytest.raises(HostError, match=r"has \{'comfyui': .* install the same on all nodes"):
        HostWorker(1, {"comfyui": "0"}).start()
