"""What became of each job, as typed results and as a JSON file. Imports the plan, whole_files and the errors."""

import json
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any

from ldm_backend.whole_files import write_whole

from ..errors import ExecutionError, HeadlessError, OutputError, PromptRejectedError, RunFailedError
from .plan import Plan

_FORMAT = "ldm-run-report/1"
_BEGIN = re.compile(rb'\s*\{\s*"format":\s*"%s"' % re.escape(_FORMAT).encode())


class JobState(StrEnum):
    """How a job ended."""

    DONE = "done"
    KEPT = "kept"  # done by an earlier run
    FAILED = "failed"
    LEFT = "left"


@dataclass
class JobResult:
    """What became of one job.

    Attributes:
        index: Of the job.
        state: How it ended.
        files: That it left.
        texts: Node id and text of what its nodes showed.
        left: In words, what else its nodes told of.
        refs: Folder and name of its files on the server.
        error: Why it failed.
        server: That ran it last.
        prompt_id: On that server.
        attempts: How often it was tried.
        seconds: From the begin of the last attempt to the last file.
    """

    index: int
    state: JobState = JobState.LEFT
    files: list[Path] = field(default_factory=list)
    texts: list[tuple[str, str]] = field(default_factory=list)
    left: list[str] = field(default_factory=list)
    refs: list[tuple[str, str]] = field(default_factory=list)
    error: HeadlessError | None = None
    server: str = ""
    prompt_id: str = ""
    attempts: int = 0
    seconds: float = 0.0


def failure(results: Sequence[JobResult], dead_servers: Mapping[str, HeadlessError]) -> HeadlessError | None:
    """The one error that stands for all of a run; None when every job is done."""
    failed = [result for result in results if result.state is JobState.FAILED]
    left = sum(result.state is JobState.LEFT for result in results)
    if not failed and not left:
        return None
    if failed:
        first = failed[0].error or HeadlessError("no reason was given")
        reason = f"the first, job {failed[0].index}: {first}"
    else:
        first = next(iter(dead_servers.values()), HeadlessError("nobody ran them"))
        reason = str(first)
    if len(results) == 1 and failed:
        return first
    return RunFailedError(
        f"{len(failed)} of {len(results)} jobs failed and {left} did not run; {reason}\n"
        "The same command again runs only the jobs without images",
        first.exit_code,
    )


def check_report_path(path: Path) -> None:
    """Refuse to replace a file that is no report.

    Raises:
        OutputError: It is none, or its folder does not exist.
    """
    if os.path.lexists(path):
        if not _is_report(path):
            raise OutputError(f"{path} exists and is no report of an earlier run; use another --report")
    elif not path.absolute().parent.is_dir():
        raise OutputError(f"the folder of {path} does not exist; make it, or use another --report")


def _is_report(path: Path) -> bool:
    """By its begin: a device may never end, and a report of many jobs is long."""
    try:
        if not path.is_file():
            return False
        with path.open("rb") as stream:
            return _BEGIN.match(stream.read(200)) is not None
    except OSError:
        return False


def write_report(
    path: Path, plan: Plan, results: Sequence[JobResult], servers: Mapping[str, HeadlessError | None], seconds: float
) -> None:
    """Write the report, whole or not at all.

    Args:
        path: The file.
        plan: What was to be done.
        results: What became of it.
        servers: Address -> why it was given up.
        seconds: That the run took.

    Raises:
        OutputError: The disk refuses it.
    """
    states = Counter(result.state for result in results)
    done = Counter(result.server for result in results if result.state is JobState.DONE)
    report = {
        "format": _FORMAT,
        "workflow": plan.source,
        "seconds": round(seconds, 3),
        "counts": {state.value: states[state] for state in JobState},
        "servers": [
            {"url": url, "done": done[url], "error": str(error) if error else None} for url, error in servers.items()
        ],
        "jobs": [_job(result, plan) for result in results],
    }
    try:
        write_whole(path, json.dumps(report, indent=2).encode())
    except OSError as error:
        raise OutputError(
            f"cannot write the report {path}: {error.strerror}; what was made is saved; make room or check its rights"
        ) from error


def _job(result: JobResult, plan: Plan) -> dict[str, Any]:
    return {
        "index": result.index,
        "state": result.state.value,
        "seed": plan.seed(result.index),
        "values": dict(plan.jobs[result.index].name_values),
        "files": [str(file) for file in result.files],
        "texts": [{"node": node, "text": text} for node, text in result.texts],
        "left": result.left,
        "server": result.server,
        "prompt_id": result.prompt_id,
        "attempts": result.attempts,
        "seconds": round(result.seconds, 3),
        "error": _error(result.error) if result.error else None,
    }


def _error(error: HeadlessError) -> dict[str, Any]:
    described: dict[str, Any] = {"type": type(error).__name__, "message": str(error)}
    if isinstance(error, ExecutionError):
        described["nodes"] = [error.node_id]
    if isinstance(error, PromptRejectedError):
        described["nodes"] = sorted({reason.node_id for reason in error.node_errors})
    return described
