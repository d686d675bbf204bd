"""Resident memory of a process on Linux, and its peak since that was last forgotten."""

from __future__ import annotations

import re
from pathlib import Path

MIB = 2**20


def resident(pid: int | str = "self", field: str = "VmRSS") -> int:
    """Bytes; VmHWM is the peak of resident memory, VmSize all that is mapped."""
    found = re.search(rf"^{field}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found
    return int(found[1]) * 1024


def forget_peak(pid: int | str = "self") -> None:
    """Start the peak anew."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
