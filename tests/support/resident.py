"""Resident memory of a process on Linux, its peak since that was last forgotten, and its processor time."""

from __future__ import annotations

import os
import re
from pathlib import Path

MIB = 2**20


def resident(pid: int | str = "self", field: str = "VmRSS") -> int:
    """Bytes; VmHWM is the peak of resident memory, VmSize all that is mapped."""
    found = re.search(rf"^{field}:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert found
    return int(found[1]) * 1024


def busy_seconds(pid: int | str = "self") -> float:
    """Processor time of all threads, which other programs on the same cores do not lengthen."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def forget_peak(pid: int | str = "self") -> None:
    """Start the peak anew."""
    Path(f"/proc/{pid}/clear_refs").write_text("5")
