"""A pytest plugin: which ComfyUI was tested, with which versions and flags, and what failed, as Markdown.

`make test-hosts` loads it. The table is what goes into a report about a version.
"""

import json
import os
import subprocess
from datetime import UTC, datetime

import pytest

from ldm_headless import find_host

_PACKAGES = ("comfyui-frontend-package", "comfyui-workflow-templates", "torch", "numpy", "pillow", "safetensors")
_ASK = (
    "import importlib.metadata as m, json, platform, sys\n"
    "sys.path.insert(0, sys.argv[1])\n"
    "from comfyui_version import __version__\n"
    "found = {'ComfyUI': __version__, 'Python': platform.python_version()}\n"
    "found |= {name: m.version(name) for name in sys.argv[2:]}\n"
    "try:\n"
    "    import comfy.memory_management as memory\n"
    "    found['layers of DynamicVRAM'] = 'yes' if memory.aimdo_enabled else 'no'\n"
    "except ImportError:\n"
    "    pass\n"
    "print(json.dumps(found))"
)


def versions() -> dict[str, str]:
    """Of the host at hand, as its own interpreter has them."""
    host = find_host()
    command = [host.python, "-P", "-c", _ASK, str(host.path), *_PACKAGES]
    answer = subprocess.run(command, cwd=host.path, capture_output=True, text=True, check=True).stdout
    return json.loads(answer.splitlines()[-1])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table below everything else."""
    stats = terminalreporter.stats
    counts = {kind: len(stats.get(kind, [])) for kind in ("passed", "failed", "error", "skipped")}
    rows = {"date": datetime.now(UTC).date().isoformat(), **versions()}
    rows["flags"] = os.environ.get("HOST_ARGS") or "none"
    rows |= {kind: str(count) for kind, count in counts.items()}
    terminalreporter.section("the host that was tested")
    lines = ["| what | found |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())]
    broken = [report for kind in ("failed", "error") for report in stats.get(kind, [])]
    if broken:
        lines += ["", "| failed | reason |", "|---|---|"]
        lines += [f"| `{report.nodeid}` | {_reason(report)} |" for report in broken]
    for line in lines:
        terminalreporter.write_line(line)


def _reason(report: pytest.TestReport) -> str:
    """The last line that says what went wrong, fit for a cell."""
    crash = getattr(report.longrepr, "reprcrash", None)
    text = crash.message if crash is not None else str(report.longrepr)
    first = next((line for line in text.splitlines() if line.strip()), "")
    return first[:160].replace("|", "\\|")
