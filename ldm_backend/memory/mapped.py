"""Pages of weights that are mapped from a file: they count as memory of the process until it gives them back."""

from __future__ import annotations

import ctypes
import mmap
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from torch import Tensor

_LIBRARY = ctypes.CDLL(None) if sys.platform.startswith("linux") else None  # the C library
# Eight bytes for each page of the process, see Documentation/admin-guide/mm/pagemap.rst of Linux.
_PAGEMAP = Path("/proc/self/pagemap")
_PRESENT, _SWAPPED, _OF_A_FILE = (np.uint64(1 << bit) for bit in (63, 62, 61))


def release_pages(tensors: Iterable[Tensor]) -> None:
    """Give back the memory of tensors that lie unchanged in a mapped file; reading them again reads the file again.

    Nothing can be lost: memory that is not of a file, or that anybody has written to since, is left alone. What the C
    library holds in reserve goes back as well. Does nothing but on Linux, where the kernel tells which memory that is.

    Args:
        tensors: On any device; those that are not mapped are passed over.
    """
    ranges = list(_pages(tensors))
    if not ranges or _LIBRARY is None:
        return
    try:
        with _PAGEMAP.open("rb", buffering=0) as pagemap:
            for first, last in ranges:
                pagemap.seek(first // mmap.PAGESIZE * 8)
                pages = np.frombuffer(pagemap.read((last - first) // mmap.PAGESIZE * 8), np.uint64)
                if _all_of_a_file(pages):
                    _LIBRARY.madvise(ctypes.c_void_p(first), ctypes.c_size_t(last - first), mmap.MADV_DONTNEED)
    except OSError:  # a container may hide the file: then the memory stays
        return
    trim()


def trim() -> None:
    """Give back what the C library holds in reserve, where it is glibc."""
    if _LIBRARY is not None and hasattr(_LIBRARY, "malloc_trim"):
        _LIBRARY.malloc_trim(ctypes.c_size_t(0))


def _all_of_a_file(pages: np.ndarray) -> bool:
    """Whether no page has contents of its own. A page that was written to is one of memory, no longer of the file."""
    present = (pages & _PRESENT) != 0
    return bool(np.all(~present | ((pages & _OF_A_FILE) != 0)) and not np.any(pages & _SWAPPED))


def _pages(tensors: Iterable[Tensor]) -> Iterator[tuple[int, int]]:
    """Addresses of the whole pages inside each tensor."""
    for tensor in tensors:
        if tensor.device.type == "cpu" and tensor.is_contiguous():
            start = tensor.data_ptr()
            first = -(-start // mmap.PAGESIZE) * mmap.PAGESIZE
            last = (start + tensor.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
            if first < last:
                yield first, last
