"""Pages of weights that are mapped from a file: they count as memory of the process until it gives them back."""

from __future__ import annotations

import ctypes
import mmap
import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

from torch import Tensor

_LIBRARY = ctypes.CDLL(None) if sys.platform.startswith("linux") else None  # the C library
_SMAPS = Path("/proc/self/smaps")
_VMA = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) \S+ [0-9a-f]+ \S+ (\d+)")


def let_go(tensors: Iterable[Tensor]) -> None:
    """Give back the memory of tensors that lie unchanged in a mapped file; reading them again reads the file again.

    Nothing can be lost: memory that is not of a file, or that anybody has written to since, is left alone. What the C
    library holds in reserve goes back as well. Does nothing but on Linux, where the kernel tells which memory that is.

    Args:
        tensors: on any device; those that are not mapped are passed over.
    """
    ranges = sorted(_pages(tensors))
    if not ranges or _LIBRARY is None or not _SMAPS.exists():
        return
    for start, end in _unchanged_mappings():
        for first, last in ranges:
            if start <= first and last <= end:
                address, length = ctypes.c_void_p(first), ctypes.c_size_t(last - first)
                _LIBRARY.madvise(address, length, mmap.MADV_DONTNEED)
    if hasattr(_LIBRARY, "malloc_trim"):  # glibc
        _LIBRARY.malloc_trim(ctypes.c_size_t(0))


def _pages(tensors: Iterable[Tensor]) -> Iterator[tuple[int, int]]:
    """Addresses of the whole pages inside each tensor."""
    for tensor in tensors:
        if tensor.device.type == "cpu" and tensor.is_contiguous():
            start = tensor.data_ptr()
            first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
            last = (start + tensor.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
            if first < last:
                yield first, last


def _unchanged_mappings() -> Iterator[tuple[int, int]]:
    """Address ranges that are mapped from a file and have no page of their own."""
    start = end = inode = 0
    for line in _SMAPS.read_text().splitlines():
        if found := _VMA.match(line):
            start, end, inode = int(found[1], 16), int(found[2], 16), int(found[3])
        elif line.startswith("Anonymous:") and inode and line.split()[1] == "0":
            yield start, end
