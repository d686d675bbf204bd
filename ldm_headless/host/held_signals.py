"""Signals wait until something is whole: a process that is started and not yet known to us would outlive us."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def held_signals() -> Iterator[None]:
    """Handle a SIGINT or SIGTERM that comes during the body after it; a decorator, too.

    Only the main thread handles signals, so that this does nothing in another.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        came.append(number)

    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    ours = {number: handler for number, handler in before.items() if handler not in (None, signal.SIG_IGN)}
    if hasattr(signal, "SIGALRM") and callable(insists := signal.getsignal(signal.SIGALRM)):  # see `stopping`
        ours[signal.SIGALRM] = insists
    for number in ours:
        signal.signal(number, note)
    try:
        yield
    finally:
        for number, handler in ours.items():
            signal.signal(number, handler)
        for number in came:
            signal.raise_signal(number)
