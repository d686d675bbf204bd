"""Whether a host's torch may see a card, told without importing it where Linux can tell."""

import sys
from pathlib import Path

import pytest

from ldm_headless.host.torch_probe import DEVICE_FILES, has_gpu

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has device files")


@pytest.fixture
def sees_a_card(tmp_path: Path) -> str:
    """An interpreter that answers every question as one does whose torch sees a card."""
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho True\n")
    program.chmod(0o755)
    return str(program)


def test_without_a_device_file_nobody_is_asked(tmp_path: Path) -> None:
    assert not has_gpu("no-such-interpreter", tmp_path)


@pytest.mark.parametrize("name", [*DEVICE_FILES, "dxg"])
def test_any_device_file_is_reason_to_ask(tmp_path: Path, sees_a_card: str, name: str) -> None:
    """`dxg` is the only one under WSL2."""
    (tmp_path / name).touch()
    assert has_gpu(sees_a_card, tmp_path)


def test_a_device_file_is_no_card(tmp_path: Path) -> None:
    (tmp_path / "dxg").touch()
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\necho False\n")
    program.chmod(0o755)
    assert not has_gpu(str(program), tmp_path)
