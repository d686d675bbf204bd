"""What the stages share: their command line, where they write, clocks, and models of a size that fits the device."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from common import scratch_weights
from record import NAMED_BY, Results, spread

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "demo" / "portraits-128"
TIMESTEP = 500


class Report:
    """Where a stage writes; each line is in the file as soon as it is known.

    Args:
        name: of the stage.
        results: of the run.
    """

    def __init__(self, name: str, results: Results) -> None:
        self.name, self.results, self.failures = name, results, 0

    def text(self, *lines: str) -> None:
        """What to know when reading the tables."""
        self.results.note(self.name, text=" ".join(lines))

    def row(self, table: str, **cells: Any) -> None:
        """A line of a table."""
        self.results.row(self.name, table, **cells)

    def tried(self, what: str, work: Callable[[], None]) -> None:
        """Do a part; where it fails, note why and go on, and let the stage fail at its end."""
        try:
            work()
        except Exception as error:  # noqa: BLE001 - a part that fails must not take the others with it
            import traceback

            traceback.print_exc()
            self.failures += 1
            self.row("Failures", part=what, error=f"{type(error).__name__}: {error}"[:600])

    def failed(self, what: str, why: str) -> None:
        """Note something that is not as it must be."""
        self.failures += 1
        self.row("Failures", part=what, error=why)


def start(name: str) -> tuple[torch.device, Report]:
    """The device of the command line, and the report of a stage."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    device = torch.device(parser.parse_args().device)
    results = Results(Path(os.environ.get(NAMED_BY, f"{name}.json")))
    results.note(name, torch_flags=flags())
    return device, Report(name, results)


def end(report: Report) -> None:
    """With the exit code that the failures ask for."""
    sys.exit(1 if report.failures else 0)


def flags() -> dict[str, Any]:
    """Settings of torch that change what float32 means."""
    return {
        "cudnn.allow_tf32": torch.backends.cudnn.allow_tf32,
        "cuda.matmul.allow_tf32": torch.backends.cuda.matmul.allow_tf32,
        "cudnn.benchmark": torch.backends.cudnn.benchmark,
    }


def seconds(work: Callable[[], Any], device: torch.device) -> float:
    """Of one call: between two events of the card, or by the clock on the CPU."""
    if device.type != "cuda":
        begin = time.perf_counter()
        work()
        return time.perf_counter() - begin
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    first.record()
    work()
    last.record()
    last.synchronize()
    return first.elapsed_time(last) / 1e3


def in_turn(
    works: dict[str, Callable[[], Any]], device: torch.device, rounds: int, warm_ups: int = 1
) -> dict[str, list[float]]:
    """Seconds of each side and round; the order is turned around each time, warm-ups are not counted."""
    found: dict[str, list[float]] = {name: [] for name in works}
    for work in list(works.values()) * warm_ups:
        work()
    for number in range(rounds):
        for name in list(works)[:: 1 if number % 2 == 0 else -1]:
            found[name].append(seconds(works[name], device))
    return found


def milliseconds(values: list[float], divisor: int = 1) -> dict[str, Any]:
    """Spread of times for a table."""
    return spread([1e3 * value / divisor for value in values], ".3f")


@contextmanager
def model_folder(device: torch.device) -> Iterator[Path]:
    """Random weights of the preset celebahq-256, made here; in the dry form the demo model."""
    if device.type == "cpu":
        yield DEMO
        return
    with scratch_weights("celebahq-256") as scratch:
        yield scratch / "celebahq-256"


def latents(batch: int, config: Any, device: torch.device) -> torch.Tensor:
    """Standard normal, always the same."""
    shape = (batch, config.in_channels, config.sample_size, config.sample_size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(device)
