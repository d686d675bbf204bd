"""What the pretended card was asked for, in order."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import torch

_NOT_THE_ASKER = (torch.__path__[0], str(Path(__file__).parent), "<")


@dataclass(frozen=True)
class Act:
    """One of them.

    Attributes:
        kind: "launch" of a kernel; "sync", a wait that leaves the card without work; "late wait", a wait for an event
            behind which the card has more work; "copy" between CPU and card; "query" of memory; "race", memory that the
            CPU changed while the card may have read it; "mismatch" of devices or formats, which also raised.
        what: the operator or function; "H2D" or "D2H" of a copy.
        where: file and line that asked; not of launches, where finding it would take longer than they do.
    """

    kind: str
    what: str
    where: str = ""


@dataclass(frozen=True)
class Copy(Act):
    """A copy between CPU and card.

    Attributes:
        non_blocking: as it was asked for.
        pinned: whether the memory on the CPU is; only then the card copies while the CPU goes on.
        shape: of what is copied.
    """

    non_blocking: bool = False
    pinned: bool = False
    shape: tuple[int, ...] = ()

    @property
    def waits(self) -> bool:
        """Whether the CPU may stand still meanwhile."""
        return not (self.non_blocking and self.pinned)


class Log:
    """Acts in their order, of all threads."""

    def __init__(self, acts: list[Act] | None = None) -> None:
        self.acts = [] if acts is None else acts
        self._cut = 0

    def note(self, act: Act) -> None:
        """Add one."""
        self.acts.append(act)

    def cut(self) -> Log:
        """What was added since the last cut: called after each step, the log of a step."""
        start, self._cut = self._cut, len(self.acts)
        return Log(self.acts[start : self._cut])

    def of(self, kind: str) -> list[Act]:
        """Those of a kind."""
        return [act for act in self.acts if act.kind == kind]

    @property
    def syncs(self) -> list[Act]:
        """Waits that leave the card without work."""
        return self.of("sync")

    @property
    def launches(self) -> list[str]:
        """Operators that run at least one kernel, and replays of graphs."""
        return [act.what for act in self.of("launch")]

    @property
    def queries(self) -> list[Act]:
        """Questions about memory."""
        return self.of("query")

    @property
    def copies(self) -> list[Copy]:
        """Copies between CPU and card."""
        return [act for act in self.acts if isinstance(act, Copy)]


class Recorder:
    """Hands what happens to the log of the card that is there; without one, nothing can happen."""

    def __init__(self) -> None:
        self.log: Log | None = None
        self.launched = 0  # kernels ever

    def note(self, kind: str, what: str) -> None:
        """Add an act to the log; all but launches with the place that asked."""
        self.launched += kind == "launch"
        self.add(Act(kind, what, "" if kind == "launch" else where()))

    def add(self, act: Act) -> None:
        """Add an act to the log."""
        if self.log is None:
            raise RuntimeError(f"{act.what}: the pretended card is gone")
        self.log.note(act)


recorder = Recorder()


def where() -> str:
    """File and line of the innermost caller that is neither torch nor the pretence."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_NOT_THE_ASKER):
        frame = frame.f_back
    return f"{'/'.join(Path(frame.f_code.co_filename).parts[-2:])}:{frame.f_lineno}"
