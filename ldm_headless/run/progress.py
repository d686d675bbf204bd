"""The progress of a run on the terminal: all jobs, and the node at work on each server. Imports rich and the plan."""

from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from ..client.events import Event
from ..terminal import one_line
from .plan import Plan
from .report import JobResult, JobState


class RunProgress:
    """A context manager with the two handlers of a `Runner`. Shows nothing where nobody watches.

    Args:
        console: Of standard error.
        plan: For the titles of nodes.
    """

    def __init__(self, console: Console, plan: Plan) -> None:
        columns = (TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
        self._progress = Progress(
            *columns, TimeElapsedColumn(), console=console, transient=True, disable=not console.is_terminal
        )
        self._plan = plan
        self._all = self._progress.add_task("jobs", total=len(plan.jobs))
        self._servers: dict[str, TaskID] = {}
        self._failed = 0

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def on_event(self, server: str, index: int, event: Event) -> None:
        """Show which node runs, and how far it is."""
        if server not in self._servers:
            self._servers[server] = self._progress.add_task(server, total=None)
        task, node_id = self._servers[server], str(event.data.get("node"))
        if event.type == "executing" and node_id in self._plan.base:
            description = one_line(f"{server} job {index}: {self._title(node_id)}")
            self._progress.update(task, description=description, completed=0, total=None)
        elif event.type == "progress":
            done, total = (_number(event.data.get(name)) for name in ("value", "max"))
            self._progress.update(task, completed=done or 0, total=total)

    def on_result(self, result: JobResult) -> None:
        """Count a job."""
        self._failed += result.state is JobState.FAILED
        failed = f", {self._failed} failed" if self._failed else ""
        self._progress.update(self._all, advance=1, description=f"jobs{failed}")

    def _title(self, node_id: str) -> str:
        node = self._plan.base[node_id]
        return str((node.get("_meta") or {}).get("title") or node["class_type"])


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and abs(value) < 1e12 else None  # NaN is not
