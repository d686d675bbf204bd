"""A tiny model of the real classes, in memory and as a Hugging Face folder."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from false_leads import leads_nowhere
from model_folder import TINY, write_model_folder

import ldm_backend
from ldm_backend.errors import LDMError
from ldm_headless import cli


@pytest.fixture(autouse=True)
def provoked_messages() -> Iterator[list[str]]:
    """Every message of the error family that a test provokes; each is read when it ends."""
    messages: list[str] = []

    def recorded(error: LDMError, *arguments: object) -> None:
        super(LDMError, error).__init__(*arguments)
        messages.append(str(error))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(LDMError, "__init__", recorded)
        yield messages
    odd = [message for message in messages if leads_nowhere(message)]
    assert not odd, "\n".join(odd)


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Lets tests call `cli.main`: it leaves their handlers of signals alone, and no end of it is that of the tests.

    What it does to a process of its own is tested in test_stopping.py and test_signals.py.
    """
    monkeypatch.setattr(cli, "end_on_signals", lambda: None)
    monkeypatch.setattr(cli, "leave", lambda end: sys.exit(end.code))


@pytest.fixture
def tiny_folder(tmp_path: Path) -> Path:
    return write_model_folder(tmp_path / "tiny", TINY)


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> ldm_backend.LatentDiffusion:
    return ldm_backend.load(write_model_folder(tmp_path_factory.mktemp("models") / "tiny", TINY), device="cpu")
