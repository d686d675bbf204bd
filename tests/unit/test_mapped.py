"""Memory of mapped weights is given back, and nothing else."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import safetensors.torch
import torch

from ldm_backend.checkpoints.tensor_files import read_tensor_file
from ldm_backend.memory.mapped import release_pages

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells what is mapped")

MIB = 2**20


def resident() -> int:
    found = re.search(r"^VmRSS:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found
    return int(found[1]) * 1024


@pytest.fixture
def mapped(tmp_path: Path) -> torch.Tensor:
    """64 MiB of ones in a file."""
    path = tmp_path / "ones.safetensors"
    safetensors.torch.save_file({"ones": torch.ones(16 * MIB)}, path)
    return read_tensor_file(path).tensors["ones"]


def test_pages_of_a_file_go_and_come_back(mapped):
    assert mapped.sum() == 16 * MIB
    before = resident()
    release_pages([mapped])
    assert before - resident() > 60 * MIB
    assert mapped.sum() == 16 * MIB


def test_changed_memory_stays(mapped):
    """One changed number is enough to leave all of a tensor alone."""
    mapped[5 * MIB] = 7
    release_pages([mapped])
    assert mapped[5 * MIB] == 7
    assert mapped.sum() == 16 * MIB + 6


def test_memory_of_no_file_stays():
    tensor = torch.full((MIB,), 3.0)
    release_pages([tensor, tensor[::2], torch.empty(0), torch.empty(3, device="meta")])
    assert tensor.sum() == 3 * MIB
