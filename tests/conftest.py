"""For all tests: the import path, which tests this machine can run, and one real ComfyUI for those that want one."""

import os
import shlex
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from ldm_headless import PACK_ROOT, PrivateHost, find_host

ROOT = Path(__file__).resolve().parent.parent
NODE_IDS = ("LDMCheckpointLoader", "LDMLatentNoise", "LDMDDIMSampler", "LDMVQDecode")

# `python -m pytest` puts the root there, and its `nodes` and `tests` would then stand for ComfyUI's.
sys.path[:] = [entry for entry in sys.path if Path(entry or ".").resolve() != ROOT]

# A shell gives what it starts with `&` a SIGINT that is ignored, and Python leaves it so; the tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that take a full-size model, and skip those marked gpu on a machine without CUDA.

    LDM_TEST_DEVICE names the device that they take. Where it is set they always run: "cuda" without a card fails, and
    "cpu" is the dry form of benchmarks/gpu.
    """
    for item in items:
        if any(name.startswith("full_size") for name in getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.full_size)
    if torch.cuda.is_available() or os.environ.get("LDM_TEST_DEVICE"):
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA device; this machine has none"))


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository's root."""
    return ROOT


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of test data."""
    return ROOT / "tests" / "data"


@pytest.fixture(scope="session")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateHost]:
    """A running host with this checkout as its only pack, in a folder with a hyphen.

    One that is missing is a failure, not a reason to skip. FRONTEND_ROOT names another frontend than its own, HOST_ARGS
    holds more flags.
    """
    base = tmp_path_factory.mktemp("host")
    frontend = os.environ.get("FRONTEND_ROOT")
    arguments = shlex.split(os.environ.get("HOST_ARGS", ""))
    arguments += ["--front-end-root", frontend] if frontend else []
    packs = {"comfyui-ldm": PACK_ROOT}
    with PrivateHost(find_host(), packs, base, required_nodes=NODE_IDS, arguments=arguments) as running:
        yield running
