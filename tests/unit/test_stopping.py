"""A signal or a cancellation never comes at a moment where it is lost, or where something is left behind by it."""

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ldm_headless.client.async_client import next_event
from ldm_headless.client.event_socket import Inbox
from ldm_headless.client.events import Event
from ldm_headless.host.held_signals import held_signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_until_the_body_is_done(number: int) -> None:
    told: list[str] = []
    before = signal.signal(number, lambda number, frame: told.append("handled"))
    try:
        with held_signals():
            with held_signals():
                os.kill(os.getpid(), number)
            told.append("inner")
        assert told == ["inner", "handled"]
        os.kill(os.getpid(), number)
        assert told == ["inner", "handled", "handled"]
    finally:
        signal.signal(number, before)


def test_other_threads_handle_no_signals() -> None:
    handler = signal.getsignal(signal.SIGTERM)
    found: list[object] = []

    def look() -> None:
        with held_signals():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [handler]


def test_a_cancellation_that_comes_with_an_event_counts() -> None:
    async def both_at_once() -> None:
        inbox: Inbox = asyncio.Queue()
        waiting = asyncio.create_task(next_event(inbox, 60))
        await asyncio.sleep(0.01)
        inbox.put_nowait(Event("executing", {}))
        waiting.cancel()
        await waiting

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(both_at_once())


def test_a_temporary_folder_goes_with_the_process(tmp_path: Path) -> None:
    program = "from ldm_headless.host.scratch_folder import ScratchFolder; folder = ScratchFolder(); print(folder.path)"
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-P", "-c", f"{program}; raise SystemExit(143)"]
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 143, run.stderr
    assert Path(run.stdout.strip()).parent == tmp_path
    assert list(tmp_path.iterdir()) == []


LOST = {
    "a finalizer": """
class Late:
    def __del__(self):
        os.kill(os.getpid(), signal.NUMBER)
        time.sleep(0)
def work():
    Late()
""",
    "a callback of a weak reference": """
class Late:
    pass
def dead(ref):
    os.kill(os.getpid(), signal.NUMBER)
    time.sleep(0)
def work():
    late = Late()
    ref = weakref.ref(late, dead)
    del late
""",
    "work within asyncio": """
async def compute():
    os.kill(os.getpid(), signal.NUMBER)
    while True:
        pass
def work():
    stopping.run_async(compute())
""",
    "a thread that computes": """
def work():
    threading.Thread(target=time.sleep, args=(60,)).start()
    os.kill(os.getpid(), signal.NUMBER)
    time.sleep(0)
""",
}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
@pytest.mark.parametrize("place", LOST)
def test_a_signal_is_not_lost(place: str, number: signal.Signals) -> None:
    """Python drops what is raised there, or waits for what goes on."""
    code = f"""
import os, signal, sys, threading, time, weakref
from ldm_headless import cli
from ldm_headless.host import stopping
{LOST[place].replace("NUMBER", number.name)}
@cli.app.command()
def test():
    work()
    time.sleep(60)
sys.argv = ["ldm", "test"]
cli.main()
"""
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=50, check=False)
    assert done.returncode == 128 + number, done.stderr
    assert "Traceback" not in done.stderr
    assert time.monotonic() - start < 20


ENDS = {
    "a result": "assert stopping.run_async(work()) == 5",
    "an error": """
try:
    stopping.run_async(work(OSError()))
except OSError:
    pass
""",
    "a signal": """
try:
    stopping.run_async(work(interrupt=True))
except KeyboardInterrupt:
    pass
""",
    "another thread": """
found = []
thread = threading.Thread(target=lambda: found.append(stopping.run_async(work())))
thread.start()
thread.join()
assert found == [5]
""",
}


@pytest.mark.parametrize("end", ENDS)
def test_work_within_asyncio_leaves_the_handler_as_it_was(end: str) -> None:
    code = f"""
import asyncio, os, signal, threading
from ldm_headless.host import stopping
signal.signal(signal.SIGINT, signal.default_int_handler)
stopping.end_on_signals()
before = signal.getsignal(signal.SIGINT)
assert before is not signal.default_int_handler
async def work(error=None, interrupt=False):
    if interrupt:
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.sleep(60)
    if error:
        raise error
    return 5
{ENDS[end]}
assert signal.getsignal(signal.SIGINT) is before
"""
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True, timeout=50, check=False)
    assert (done.returncode, done.stderr) == (0, "")
