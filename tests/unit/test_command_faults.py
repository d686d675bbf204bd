"""What is none of our errors: one sentence, a private log without secrets, an exit code of its own."""

from __future__ import annotations

import os
import stat
import tempfile
import time
from pathlib import Path

import pytest

from ldm_headless import cli
from ldm_headless.errors import HeadlessError
from ldm_headless.fault_log import without_secrets

pytestmark = pytest.mark.usefixtures("in_process")


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder for temporary files."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def end_by(error: BaseException, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> object:
    """The exit code of `ldm` in which this is raised."""

    def app() -> None:
        raise error

    monkeypatch.setattr(cli, "app", app)
    monkeypatch.setattr("sys.argv", ["ldm", *arguments])
    with pytest.raises(SystemExit) as end:
        cli.main()
    return end.value.code


@pytest.mark.parametrize(
    "error",
    [RuntimeError("odd"), RecursionError(), MemoryError(), OSError(5, "bad disk"), ExceptionGroup("g", [KeyError()])],
)
def test_a_fault_is_told_in_a_sentence_and_kept_in_a_private_log(
    error: Exception, temporary: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert end_by(error, monkeypatch, "run", "a.json") == 70
    (log,) = temporary.iterdir()
    told = capsys.readouterr().err
    assert "this is a fault of ldm" in told
    assert "please report it" in told
    assert str(log) in told
    assert "Traceback" not in told
    text = log.read_text()
    assert "Traceback" in text
    assert type(error).__name__ in text
    assert "comfyui-ldm 0" in text
    assert "'a.json'" in text
    assert stat.S_IMODE(log.stat().st_mode) == 0o600


def test_two_faults_have_two_logs(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for _ in range(2):
        assert end_by(RuntimeError("odd"), monkeypatch) == 70
    assert len(list(temporary.iterdir())) == 2


def test_without_a_place_for_a_log_the_terminal_gets_it(
    temporary: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(temporary / "gone"))
    assert end_by(RuntimeError("odd \x1b[2J"), monkeypatch) == 70
    told = capsys.readouterr().err
    assert "no log file could be written" in told
    assert "RuntimeError: odd" in told
    assert "\x1b" not in told


def test_secrets_are_not_in_the_log(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LDM_SERVER_TOKEN", "t0k3n-in-the-air")
    error = RuntimeError("asked https://anna:pass1@host/x with Authorization: Bearer abc.def and t0k3n-in-the-air")
    error.__cause__ = ValueError("{'x-api-key': 'kkkk1'}")
    end_by(error, monkeypatch, "run", "--server", "http://bob:pass2@host:1/?token=pass3&a=pass4")
    (log,) = temporary.iterdir()
    text = log.read_text()
    for secret in ("pass1", "pass2", "pass3", "pass4", "abc.def", "t0k3n", "kkkk1", "anna", "bob"):
        assert secret not in text, secret
    assert "//***@host" in text


@pytest.mark.parametrize("text", ["a" * 200_000, "://" * 70_000, "token" * 40_000, "a://" * 50_000, "-" * 200_000])
def test_looking_for_secrets_takes_no_time(text: str) -> None:
    start = time.monotonic()
    without_secrets(text)
    assert time.monotonic() - start < 2


def test_errors_of_the_family_and_ends_are_as_they_were(temporary: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert end_by(HeadlessError("known"), monkeypatch) == 1
    assert end_by(SystemExit(3), monkeypatch) == 3
    with pytest.raises(KeyboardInterrupt):
        end_by(KeyboardInterrupt(), monkeypatch)
    assert list(temporary.iterdir()) == []
    assert os.path.isdir(temporary)
