"""The CPU's side of copies: which memory is pinned, and what the card has not yet written to it or read from it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from .log import recorder


class PinnedMemory:
    """Ranges of addresses that are pinned."""

    def __init__(self) -> None:
        self._sizes: dict[int, int] = {}  # address -> bytes
        self._held: list[Any] = []  # torch keeps what it pinned too; else other memory could get these addresses

    def pin(self, tensor: Tensor) -> Tensor:
        """Count the memory of a new tensor as pinned from now on."""
        storage = tensor.untyped_storage()
        self._held.append(storage)
        self.register(storage.data_ptr(), storage.nbytes(), 0)
        return tensor

    def holds(self, tensor: Tensor) -> bool:
        """Whether the memory of a tensor on the CPU is pinned."""
        address = tensor.untyped_storage().data_ptr()
        return any(start <= address < start + size for start, size in list(self._sizes.items()))

    def register(self, address: int, size: int, _flags: int) -> int:
        """`cudaHostRegister`: 0 is success."""
        self._sizes[address] = size
        return 0

    def unregister(self, address: int) -> int:
        """`cudaHostUnregister`."""
        return 0 if self._sizes.pop(address, None) is not None else 1

    def clear(self) -> None:
        """Forget everything."""
        self._sizes.clear()
        self._held.clear()


class Transfers:
    """Copies that the CPU does not wait for. Until it does, it cannot know of their end, and they have not happened."""

    def __init__(self) -> None:
        self.begun = 0  # how many ever
        self._open: list[tuple[int, Callable[[], None]]] = []
        self._lock = threading.Lock()

    def to_host(self, target: Tensor, values: Tensor) -> None:
        """Values of the card go to pinned memory, which has them after the next wait."""
        kept = values.clone()
        self._begin(lambda: target.copy_(kept))

    def to_card(self, source: Tensor) -> None:
        """The card reads pinned memory, which the CPU must leave alone until the next wait."""
        kept = source.clone()

        def compare() -> None:
            same = (source == kept) | ((source != source) & (kept != kept))
            if not same.all():
                recorder.note(
                    "race", f"pinned memory {tuple(source.shape)} changed before its copy was known to be done"
                )

        self._begin(compare)

    def _begin(self, finish: Callable[[], object]) -> None:
        with self._lock:
            self.begun += 1
            self._open.append((self.begun, lambda: (finish(), None)[1]))

    def finish(self, up_to: int | None = None) -> None:
        """The CPU has waited: for all of them, or for those that had begun by then."""
        with self._lock:
            done = [entry for entry in self._open if up_to is None or entry[0] <= up_to]
            self._open = [entry for entry in self._open if entry not in done]
        with torch.inference_mode():  # whatever mode they were made in
            for _, finish in done:
                finish()


pinned, transfers = PinnedMemory(), Transfers()


def cudart() -> SimpleNamespace:
    """The part of the CUDA runtime that hosts call directly."""
    return SimpleNamespace(cudaHostRegister=pinned.register, cudaHostUnregister=pinned.unregister)
