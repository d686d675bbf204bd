"""The short form of benchmarks/soak.py: mixed prompts end as they must, each once, and leave the host as it was."""

import importlib.util
import sys
from typing import Any

import pytest

from ldm_headless import PACK_ROOT, ComfyClient, PrivateHost

CYCLES = 3


@pytest.fixture
def soak(monkeypatch: pytest.MonkeyPatch) -> Any:
    folder = PACK_ROOT / "benchmarks"
    monkeypatch.syspath_prepend(str(folder))
    spec = importlib.util.spec_from_file_location("benchmark_of_soak", folder / "soak.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)  # where dataclasses look
    spec.loader.exec_module(module)
    return module


def test_every_node_takes_part(soak: Any, client: ComfyClient) -> None:
    used = {node["class_type"] for case in soak.cycle(0) for node in case.prompt.values()}
    assert {name for name in client.object_info() if name.startswith("LDM")} <= used
    assert {case.end for case in soak.cycle(0)} == {"done", "refused", "failed", "cancelled"}
    assert soak.cycle(0)[0].prompt != soak.cycle(1)[0].prompt  # or the host would answer from its cache


def test_mixed_prompts_leave_nothing_behind(soak: Any, host: PrivateHost) -> None:
    """A short run cannot tell a slow leak from warming up; what it lets through, benchmarks/soak.py would show."""
    prompts = CYCLES * soak.CYCLE
    done = soak.soak(host, prompts)
    assert len(done.answers) == prompts
    first, last = done.size(soak.CYCLE), done.size(prompts)
    assert last.memory < 1.1 * first.memory
    assert last.handles <= first.handles + 4
    assert last.threads <= first.threads + 2
    assert done.slowdown < 3
    assert "| open handles |" in "\n".join(done.table())
