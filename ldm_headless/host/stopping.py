"""SIGINT and SIGTERM end the command soon, wherever it is. Imports held_signals only.

Python calls a handler between two steps of the main thread, and what it raises ends the work there. That is late or
lost in two places: within asyncio, whose handler only asks the work to end when the loop turns, while the work may
compute for minutes; and where Python drops what is raised, as in finalizers. So we insist, by a timer.
"""

import asyncio
import atexit
import os
import signal
import sys
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

if TYPE_CHECKING:
    from sys import UnraisableHookArgs

_Result = TypeVar("_Result")
_PATIENCE_S = 0.3  # until work within asyncio that does not let the loop turn is broken off
_SOON_S = 0.01
_AFTER_SIGNALS = (128 + signal.SIGINT, 128 + signal.SIGTERM)
_stopped_by: list[int] = []


def end_on_signals() -> None:
    """Have SIGTERM end this process as Ctrl-C does, whatever the main thread is in."""
    signal.signal(signal.SIGTERM, _stop)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt)
    sys.unraisablehook = _again_if_lost


def leave(end: SystemExit) -> NoReturn:
    """Exit, with 128 + its number after a signal, and then at once.

    Neither threads that compute are waited for, nor is memory taken down piece by piece. Files are written by the main
    thread, which is here, and what others left is what `kill -9` leaves.
    """
    code = _code(end.code)
    if code not in _AFTER_SIGNALS:
        sys.exit(code)
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):  # nobody reads any more
            stream.flush()
    os._exit(code)


def _code(code: Any) -> Any:
    return 128 + _stopped_by[0] if _stopped_by else code


def run_async(work: Coroutine[Any, Any, _Result]) -> _Result:
    """As `asyncio.run`; a signal ends the work also while it computes, where this is the main thread."""
    if threading.current_thread() is not threading.main_thread():
        return asyncio.run(work)
    before = signal.getsignal(signal.SIGINT)
    if before is _interrupt:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # asyncio sets its own over this one alone
    try:
        return asyncio.run(_watched(work))
    finally:
        if before is _interrupt:
            signal.signal(signal.SIGINT, _interrupt)


async def _watched(work: Coroutine[Any, Any, _Result]) -> _Result:
    with _insisting(asyncio.get_running_loop()):
        return await work


@contextmanager
def _insisting(loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    cancel = signal.getsignal(signal.SIGINT)  # asyncio's, unless SIGINT is ignored
    if not callable(cancel) or cancel is signal.default_int_handler or not hasattr(signal, "setitimer"):
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        _insist_in(_PATIENCE_S)
        loop.call_soon_threadsafe(_insist_in, 0)  # it turns: the work is told in its own way
        cancel(number, frame)

    signal.signal(signal.SIGINT, stop)
    try:
        yield
    finally:
        _insist_in(0)
        signal.signal(signal.SIGINT, cancel)


def _stop(number: int, frame: FrameType | None) -> None:
    """Do what Ctrl-C does: within asyncio, which sets a handler of its own, that is cancelling the work."""
    _end_within_torch(number)
    if _stopped_by:
        return  # on our way already; a second signal must not break off the cleaning up
    _stopped_by.append(number)
    handler = signal.getsignal(signal.SIGINT)
    if callable(handler) and handler not in (signal.default_int_handler, _interrupt):
        handler(signal.SIGINT, frame)
    else:
        _end(number, frame)


def _interrupt(number: int, frame: FrameType | None) -> None:
    _end_within_torch(number)
    signal.default_int_handler(number, frame)


def _end_within_torch(number: int) -> None:
    """While torch is imported, what a handler raises may reach its C++, which aborts; and nothing has begun yet."""
    spec = getattr(sys.modules.get("torch"), "__spec__", None)
    if getattr(spec, "_initializing", False):
        os._exit(128 + number)


def _end(number: int, frame: FrameType | None) -> None:
    # Not KeyboardInterrupt: a Python that sees one pass through `exec` or `eval` of a text, as in the making of
    # a dataclass, kills itself by SIGINT at its end, whoever caught it.
    raise SystemExit(_code(128 + signal.SIGINT))


def _insist_in(seconds: float) -> None:
    """End the main thread's work then; not at all for 0."""
    if seconds:
        signal.signal(signal.SIGALRM, _end)
    signal.setitimer(signal.ITIMER_REAL, seconds)


def _again_if_lost(lost: "UnraisableHookArgs") -> None:
    """What a handler raised in a finalizer is dropped there: raise it once more, behind it."""
    if issubclass(lost.exc_type, SystemExit | KeyboardInterrupt) and hasattr(signal, "setitimer"):
        _insist_in(_SOON_S)
    else:
        sys.__unraisablehook__(lost)
