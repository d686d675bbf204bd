"""Streams and events, and what it means to wait for them.

A stream does its work at once. What is modelled is the CPU: what it waits for, and what it may not do during a capture.
"""

from __future__ import annotations

import threading
from types import TracebackType
from typing import TYPE_CHECKING, Any

from .host_memory import transfers
from .log import recorder, where

if TYPE_CHECKING:
    from .graphs import Capture


class Stream:
    """`torch.cuda.Stream`.

    Attributes:
        capture: what records its work, if it is being captured.
    """

    def __init__(self, *_: Any, **__: Any) -> None:
        self.capture: Capture | None = None

    def synchronize(self) -> None:
        """The CPU waits."""
        wait("Stream.synchronize")

    def wait_stream(self, stream: Stream) -> None:
        """Only the card waits."""

    def wait_event(self, event: Event) -> None:
        """Only the card waits."""

    def record_event(self, event: Event | None = None) -> Event:
        """Mark what was asked for so far."""
        event = event or Event()
        event.record(self)
        return event


class Event:
    """`torch.cuda.Event`."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self._launches = self._transfers = 0

    def record(self, stream: Stream | None = None) -> None:
        """Mark what was asked for so far."""
        self._launches, self._transfers = recorder.launched, transfers.begun

    def wait(self, stream: Stream | None = None) -> None:
        """Only the card waits."""

    def query(self) -> bool:
        """Whether that is done. Never, for one who does not wait: a card may always be slower."""
        refuse_in_capture("Event.query")
        return False

    def synchronize(self) -> None:
        """The CPU waits for what was marked; what came later goes on meanwhile."""
        refuse_in_capture("Event.synchronize")
        recorder.note("late wait" if recorder.launched > self._launches else "sync", "Event.synchronize")
        transfers.finish(self._transfers)


DEFAULT = Stream()


class _OfThread(threading.local):
    stream = DEFAULT


_here = _OfThread()


class use_stream:  # noqa: N801 - it stands for torch.cuda.stream
    """`torch.cuda.stream`: in the block, what this thread asks for goes to that stream; None changes nothing."""

    def __init__(self, stream: Stream | None) -> None:
        self._stream = stream

    def __enter__(self) -> None:
        self._before = _here.stream
        _here.stream = self._stream or _here.stream

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        _here.stream = self._before


def current_stream(_device: Any = None) -> Stream:
    """`torch.cuda.current_stream`: of this thread."""
    return _here.stream


def default_stream(_device: Any = None) -> Stream:
    """`torch.cuda.default_stream`."""
    return DEFAULT


def is_capturing() -> bool:
    """`torch.cuda.is_current_stream_capturing`."""
    return _here.stream.capture is not None


def refuse_in_capture(what: str) -> None:
    """Raise as CUDA does if this thread's stream is being captured; the capture is then void."""
    capture = _here.stream.capture
    if capture is not None:
        capture.void = True
        raise RuntimeError(
            f"CUDA error: operation not permitted when stream is capturing: {what} at {where()} (pretended card)"
        )


def wait(what: str) -> None:
    """The CPU waits until the card has nothing left to do."""
    refuse_in_capture(what)
    recorder.note("sync", what)
    transfers.finish()


def synchronize(_device: Any = None) -> None:
    """`torch.cuda.synchronize`."""
    wait("synchronize")
