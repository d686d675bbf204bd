"""What `ldm run` says at its end: paths, texts, what was left, and why it failed. Imports the run and the terminal."""

import asyncio
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from ..errors import HeadlessError, HostError, OutputError
from ..host.private_host import PrivateHost
from ..run.leftovers import rescue
from ..run.report import JobState, failure, write_report
from ..run.run_record import RunRecord
from ..terminal import note, one_line, result


@contextmanager
def reporting(
    record: RunRecord, report: Path | None, servers: Callable[[], Mapping[str, HeadlessError | None]]
) -> Iterator[None]:
    """Whatever ends the body: say how far it came, and write the report.

    Raises:
        OutputError: The report cannot be written, and nothing else went wrong that is told in its place.
    """
    started = time.monotonic()
    complete = False
    try:
        yield
    except (asyncio.CancelledError, KeyboardInterrupt, SystemExit):
        ended = sum(result.state in (JobState.DONE, JobState.KEPT) for result in record.results)
        note(f"stopped with {ended} of {len(record.results)} jobs done; the same command goes on from there")
        raise
    else:
        _tell(record)
        complete = failure(record.results, {}) is None
    finally:
        if report is not None:
            try:
                write_report(report, record.plan, record.results, servers(), time.monotonic() - started)
            except OutputError as error:
                if complete:
                    raise
                note(str(error))


def _tell(record: RunRecord) -> None:
    """Print what the jobs left: paths, texts (as a result only of a job without files), and what was not taken."""
    left: dict[str, None] = {}
    for job in record.results:
        for path in job.files:
            result(path)
        for node_id, text in job.texts:
            if job.files:
                note(f"job {job.index}, node {one_line(node_id)}: {text}")
            else:
                result(text)
        left.update(dict.fromkeys(job.left))
    for what in left:
        note(f"not fetched: {what}")


def print_rescued(record: RunRecord, private: PrivateHost, out: Path) -> None:
    """Print the files that the private host has saved without telling of them: it goes, and they stay."""
    told = [ref for job in record.results for ref in job.refs]
    moved, refused = rescue(private.base_directory / "output", told, out)
    for name in refused:
        note(f"not taken, and gone with the private host: {one_line(name)}, which is of no kind that is taken")
    for path in moved:
        result(path)
        note(f"{path} was saved by a node that told nobody; it is not made again if you remove it")


def conclude(record: RunRecord, dead_servers: Mapping[str, HeadlessError], private: PrivateHost | None) -> None:
    """Raise what stands for everything that went wrong."""
    error = failure(record.results, dead_servers)
    if private and dead_servers:
        raise HostError(f"the private host went away: {error}\nThe end of its log:\n{private.log_tail()}")
    if error:
        raise error
    for url, reason in dead_servers.items():
        note(f"{url} was left out: {reason}")
