"""The device under test, and the demo model on it and on the CPU.

LDM_TEST_DEVICE=cpu is the dry form of the GPU kit: the same tests on the CPU, which shows that they work, and nothing
about a card.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

import ldm_backend

DEMO = Path(__file__).parents[2] / "demo" / "portraits-128"


@pytest.fixture(scope="session")
def device() -> torch.device:
    return torch.device(os.environ.get("LDM_TEST_DEVICE", "cuda"))


@pytest.fixture(scope="session")
def exact() -> ldm_backend.LatentDiffusion:
    """On the CPU in float32: what the parity tests hold against diffusers."""
    return ldm_backend.load(DEMO, device="cpu")


@pytest.fixture(scope="session")
def tested(device: torch.device) -> ldm_backend.LatentDiffusion:
    """On the device in float32."""
    return ldm_backend.load(DEMO, device=device)
