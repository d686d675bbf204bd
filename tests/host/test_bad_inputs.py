"""Inputs of `ldm run` that cannot work: one clear message, the right exit code, nothing written."""

import json
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from ldm_headless import PACK_ROOT, ComfyClient, PrivateHost
from ldm_headless.workflows.validation import input_problems, structural_problems

DEMO = PACK_ROOT / "workflows" / "api" / "demo.json"
Change = Callable[[dict[str, Any]], object]


def ldm_run(tmp_path: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "ldm_headless", "run", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)


def node(class_type: str, **inputs: Any) -> dict[str, Any]:
    return {"class_type": class_type, "inputs": inputs}


CYCLE = {
    "1": node("ImageBlur", image=["2", 0], blur_radius=1, sigma=1.0),
    "2": node("ImageBlur", image=["1", 0], blur_radius=1, sigma=1.0),
    "3": node("SaveImage", images=["2", 0], filename_prefix="x"),
}
# What is done to the demo, and what both the dry run and the real one say.
BROKEN: list[tuple[Change, str, int, int]] = [
    (lambda p: p["2"].update(class_type="LDMLatentNois"), "did you mean LDMLatentNoise?", 3, 3),
    (lambda p: (p.clear(), p.update(CYCLE)), "the links form a cycle: ", 3, 3),
    (lambda p: p.pop("5"), "no node saves or shows anything", 3, 3),
    (lambda p: p["3"]["inputs"].update(steps="many"), "many", 3, 3),
    (lambda p: p["2"]["inputs"].update(width=-32), "width", 3, 3),
    (lambda p: p["3"]["inputs"].pop("model"), "Required input is missing: model", 3, 3),
    (lambda p: p["4"]["inputs"].update(latent=["1", 0]), "latent", 3, 3),
    (lambda p: p["1"]["inputs"].update(checkpoint="absent"), "absent", 3, 1),
    (lambda p: p["5"]["inputs"].update(filename_prefix="../../x"), "", 0, 1),  # the host's node looks only at the end
]


@pytest.mark.parametrize(("change", "message", "dry", "real"), BROKEN)
def test_a_broken_workflow(
    change: Change, message: str, dry: int, real: int, host: PrivateHost, tmp_path: Path
) -> None:
    prompt = json.loads(DEMO.read_text())
    prompt["3"]["inputs"]["steps"] = 3
    change(prompt)
    (tmp_path / "broken.json").write_text(json.dumps(prompt))
    for status, flags in ((dry, ["--dry-run"]), (real, [])):
        done = ldm_run(tmp_path, "broken.json", "--server", host.url, *flags)
        assert done.returncode == status, done.stderr
        assert message in done.stderr
        assert "Traceback" not in done.stderr
        assert done.stderr.count("ldm: ") == 1
        assert done.stdout == ""
    assert list(tmp_path.rglob("*.png")) == []


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["no.json"], 2, "cannot read the workflow no.json"),
        (["text.json"], 2, "text.json is not JSON"),
        (["{demo}", "--name", "../{index}"], 2, "expected a path below the output folder"),
        (["{demo}", "--out", "text.json"], 2, "cannot write into text.json"),
        (["{demo}", "--report", "text.json"], 2, "is no report"),
        (["{demo}", "--set", "Nobody.seed=3"], 2, "no node has the id or title 'Nobody'"),
        (["{demo}", "--seed", "1", "--seeds", "1-2"], 2, "exclude each other"),
        (["{demo}", "--seeds", "1-2-3"], 2, "cannot read '1-2-3' in --seeds; expected seeds and ranges such as 0-99"),
        (["{demo}", "--seed", "-1"], 2, "cannot read '-1' in --seeds"),
        (["{demo}", "--seeds", "1", "--set", "2.seed=3"], 2, "'2.seed' is a seed, and job 0 has the seed 1 already"),
        (["{demo}", "--sweep", "steps=1|2"], 2, "cannot read --sweep 'steps=1|2'"),
        (["{demo}", "--sweep", "2.sed=1|2"], 2, "has no input 'sed'; it has batch_size, height, model, seed"),
        (["{demo}", "--table", "no.csv"], 2, "cannot read the table no.csv"),
        (["{demo}", "--table", "text.json"], 2, "the table text.json has no rows"),
        (["{demo}", "--ray", "local"], 2, "--ray and --server exclude each other"),
        (["{demo}", "--threads", "2"], 2, "--threads is for private ComfyUIs"),
        (["{demo}", "--workers", "2"], 2, "--workers is for --ray"),
        (["{demo}", "--seeds", "1-2", "--name", "{steps}_{index}"], 2, "has {steps}, which is no field"),
        (["{ui}"], 3, "node types that the host does not have (LDMLatentNois: node 2)"),
    ],
)
def test_a_bad_argument(arguments: list[str], status: int, message: str, host: PrivateHost, tmp_path: Path) -> None:
    (tmp_path / "text.json").write_text("no JSON")
    graph = (PACK_ROOT / "workflows" / "demo.json").read_text()
    (tmp_path / "ui.json").write_text(graph.replace('"LDMLatentNoise"', '"LDMLatentNois"'))
    arguments = [text.replace("{demo}", str(DEMO)).replace("{ui}", "ui.json") for text in arguments]
    done = ldm_run(tmp_path, *arguments, "--server", host.url)
    assert done.returncode == status, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert (tmp_path / "text.json").read_text() == "no JSON"


class _NoComfyUI(BaseHTTPRequestHandler):
    def do_GET(self) -> None:  # noqa: N802 - the name that http.server calls
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"<html>welcome</html>")

    def log_message(self, format: str, *args: Any) -> None:
        """Silent."""


@pytest.fixture
def other_server() -> Iterator[str]:
    with ThreadingHTTPServer(("127.0.0.1", 0), _NoComfyUI) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_a_server_that_is_no_comfyui_and_none_at_all(other_server: str, tmp_path: Path) -> None:
    for url, message in ((other_server, "did not answer JSON"), ("http://127.0.0.1:9", "no server answers")):
        done = ldm_run(tmp_path, str(DEMO), "--server", url)
        assert (done.returncode, done.stdout) == (4, "")
        assert message in done.stderr


def test_a_dry_run_runs_nothing(host: PrivateHost, client: ComfyClient, tmp_path: Path) -> None:
    before = host.log().count("got prompt")
    done = ldm_run(tmp_path, str(DEMO), "--seeds", "0-9", "--server", host.url, "--dry-run")
    assert (done.returncode, done.stdout) == (0, "")
    assert "10 job(s)" in done.stderr
    assert host.log().count("got prompt") == before
    assert list(tmp_path.iterdir()) == []


def test_every_workflow_of_the_pack_passes_the_checks(client: ComfyClient) -> None:
    info = client.object_info()
    files = sorted((PACK_ROOT / "workflows" / "api").glob("*.json"))
    assert files
    for file in files:
        prompt = json.loads(file.read_text())
        assert structural_problems(prompt, info) == [], file.name
        # Some name the real weights, which are not here.
        assert [p for p in input_problems(prompt, info) if "checkpoint" not in p.details] == [], file.name
