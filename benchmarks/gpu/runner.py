"""Runs stages one after the other, each a process of its own with a limit; the results say at once what became of it.

The standard library only.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from record import NAMED_BY, Results

GRACE_S = 5.0  # between asking a stage to end and ending it
LEAST_S = 5.0  # a stage that has less time is not begun


@dataclass(frozen=True)
class Stage:
    """A part of a run.

    Attributes:
        name: in the results.
        command: its program and arguments.
        limit: seconds that it may take.
    """

    name: str
    command: Sequence[str]
    limit: float


def run_stages(
    stages: Sequence[Stage],
    results: Results,
    log: Path,
    limit: float,
    environment: Mapping[str, str] | None = None,
    say: Callable[[str], None] = print,
) -> bool:
    """Run all, whatever becomes of each.

    Args:
        stages: in this order.
        results: where each writes, and where its status is noted before it begins and after it has ended.
        log: what all of them print is appended to this file.
        limit: seconds for all together; a stage gets no more than is left.
        environment: more variables for them.
        say: called with a line for people.
    Returns: whether every one passed.
    """
    end = time.monotonic() + limit
    passed = True
    for stage in stages:
        results.note(stage.name, status="not begun")
    for stage in stages:
        seconds = min(stage.limit, end - time.monotonic())
        if seconds < LEAST_S:
            status = "not run: no time was left"
        else:
            say(f"{stage.name}: up to {seconds:.0f} s")
            status = run_stage(stage, results, log, seconds, environment or {})
        results.note(stage.name, status=status)
        say(f"{stage.name}: {status}")
        passed &= status == "passed"
    return passed


def run_stage(stage: Stage, results: Results, log: Path, limit: float, environment: Mapping[str, str]) -> str:
    """Run one to its end, or end it and what it has started.

    Returns: "passed", or what happened.
    """
    results.note(stage.name, status="running", limit=round(limit, 1))
    log.parent.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    with log.open("ab") as output:
        output.write(f"\n===== {stage.name}: {' '.join(stage.command)}\n".encode())
        output.flush()
        try:
            process = subprocess.Popen(
                stage.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **environment, NAMED_BY: str(results.path)},
                start_new_session=True,  # so that it can be ended as a whole
            )
        except OSError as error:
            return f"failed: it could not be started: {error}"
        try:
            status = process.wait(limit)
        except subprocess.TimeoutExpired:
            return f"ended at its limit of {limit:.0f} s"
        finally:
            end_family(process)
            results.note(stage.name, seconds=round(time.monotonic() - start, 1))
    if status < 0:
        return f"failed: ended by signal {-status}"
    return "passed" if status == 0 else f"failed with exit code {status}"


def end_family(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started, those too that made a session of their own, as a private host does."""
    family = [process.pid, *descendants(process.pid)] if process.poll() is None else []
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)  # its group outlives it where a child is left
    if process.poll() is None:
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(GRACE_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    for member in family:
        with contextlib.suppress(ProcessLookupError):
            os.kill(member, signal.SIGKILL)
    process.wait()


def descendants(pid: int) -> list[int]:
    """The children of a process, theirs, and so on; empty where there is no /proc."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError, ValueError):
            fields = stat.read_text(errors="replace").rpartition(")")[2].split()  # a name may hold anything
            children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found: list[int] = []
    todo = [pid]
    while todo:
        new = children.get(todo.pop(), [])
        found += new
        todo += new
    return found
