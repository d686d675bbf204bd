"""How much memory is free for this process. Imports torch, which knows it of graphics cards.

On the CPU it is what the system can give without swapping, and what the limits of a container leave of that. A system
that does not tell counts as boundless: then nothing is refused, and what does not fit fails where it is allocated.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import torch

UNKNOWN = sys.maxsize

_MEMINFO = Path("/proc/meminfo")
_OWN_GROUPS = Path("/proc/self/cgroup")
_GROUPS = Path("/sys/fs/cgroup")


def free_bytes(device: torch.device) -> int:
    """Bytes that can be allocated on a device now."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return min(_system("MemAvailable"), container_free())


def container_free() -> int:
    """What the memory limits of control groups leave to this process; UNKNOWN where there are none."""
    return min((limit - used for limit, used in _limits()), default=UNKNOWN)


def container_limit() -> int:
    """The smallest memory limit of a control group of this process; UNKNOWN where there is none."""
    return min((limit for limit, _ in _limits()), default=UNKNOWN)


def _system(name: str) -> int:
    try:
        for line in _MEMINFO.read_text(encoding="ascii").splitlines():
            key, _, value = line.partition(":")
            if key == name:
                return int(value.split()[0]) * 1024
    except OSError:  # no Linux
        return UNKNOWN
    return UNKNOWN


def _limits() -> Iterator[tuple[int, int]]:
    """(limit, used) of each control group that this process is in; files in the page cache do not count as used."""
    for folder, limit_name, used_name, cache_name in _folders():
        limit = _number(folder / limit_name)
        used = _number(folder / used_name)
        if limit is not None and used is not None and limit < 2**60:  # without a limit, version 1 names a huge one
            yield limit, max(0, used - _cached(folder / "memory.stat", cache_name))


def _folders() -> Iterator[tuple[Path, str, str, str]]:
    """Of both versions: the group itself and those around it; in a container the root may be all that is seen."""
    try:
        lines = _OWN_GROUPS.read_text(encoding="utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        number, kinds, path = (line.split(":", 2) + ["", ""])[:3]
        if number == "0":
            root, names = _GROUPS, ("memory.max", "memory.current", "file")
        elif "memory" in kinds.split(","):
            root, names = _GROUPS / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_cache")
        else:
            continue
        place = root / path.strip("/")
        for folder in (place, *place.parents):
            if folder.is_relative_to(root):
                yield folder, *names


def _number(file: Path) -> int | None:
    try:
        return int(file.read_text(encoding="ascii"))
    except (OSError, ValueError):  # absent, or "max"
        return None


def _cached(file: Path, name: str) -> int:
    try:
        rows = (line.split() for line in file.read_text(encoding="ascii").splitlines())
        return next((int(row[1]) for row in rows if row[0] == name), 0)
    except OSError:
        return 0
