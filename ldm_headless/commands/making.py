"""What commands that make images show: what was broken, how far they are, and how much they made. Imports rich."""

import time
from collections.abc import Iterator, Sequence, Sized
from contextlib import contextmanager
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, TaskID

from ldm_backend.errors import first_names

from ..terminal import console, note


@contextmanager
def shown(
    total: int, done: Sized, broken: Sequence[str], *columns: ProgressColumn, **fields: Any
) -> Iterator[tuple[Progress, TaskID]]:
    """Show the progress of the body, whose end, whatever it is, is told with numbers.

    Args:
        total: How many are to be there.
        done: What is there; it grows.
        broken: File names of what was there, and is to be made anew.
        columns: Of the line, behind the bar and the numbers.
        fields: That the columns show, as they are at first.
    """
    if broken:
        note(f"{len(broken)} of {total} were broken ({first_names([*broken])}) and are made anew", "yellow")
    before, start = len(done), time.monotonic()
    bar = (BarColumn(), MofNCompleteColumn(), *columns)
    with Progress(*bar, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=total, completed=before, **fields)
        try:
            yield progress, task
        finally:
            made, missing = len(done) - before, total - len(done)
            progress.console.print(
                f"{made} made in {time.monotonic() - start:.1f} s, {before} were there, {missing} missing",
                highlight=False,
            )
