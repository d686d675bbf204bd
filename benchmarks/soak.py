"""A thousand mixed prompts on one ComfyUI: what grows, what is lost, what slows down.

    python benchmarks/soak.py --prompts 1000

A cycle of prompts on the demo models (tests/support/hosts/prompts: every node of the pack, several sizes and
batches, one that is cancelled, several that must fail) runs again and again on a private ComfyUI, with other seeds each
time. Watches its resident memory, open handles and threads from outside, and the time of each prompt. Prints the table
that is kept in results/, and fails if a prompt did not end as it must. Needs Linux and the private host (`make host`).
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
from common import machine, resident
from PIL import Image

from ldm_headless import PACK_ROOT, ComfyClient, Event, PrivateHost, find_host
from ldm_headless.errors import ExecutionError, PromptInterruptedError, PromptRejectedError

sys.path.append(str(PACK_ROOT / "tests" / "support" / "hosts"))  # its prompts are those of the tests
from executions import executions  # noqa: E402 - after the line that makes it importable
from prompts import cycle  # noqa: E402
from prompts.parts import FOLDER, Case  # noqa: E402

CYCLE = len(cycle(0))
ENDS = ("execution_success", "execution_error", "execution_interrupted")


@dataclass(frozen=True)
class Size:
    """Of the host's process: resident memory in MiB, open handles, threads."""

    memory: float
    handles: int
    threads: int


@dataclass(frozen=True)
class Answer:
    """What came of a prompt: seconds from submitting to the end, and the size of the host right after."""

    name: str
    seconds: float
    size: Size


@dataclass(frozen=True)
class Soak:
    """All answers of a run, a whole number of cycles, in order."""

    answers: list[Answer]

    @property
    def window(self) -> int:
        """Prompts whose times are compared: the first and the last hundred, or the halves of a shorter run."""
        return min(100, len(self.answers) // 2 // CYCLE * CYCLE)

    def size(self, end: int) -> Size:
        """The median over the last cycle before prompt `end`."""
        sizes = [answer.size for answer in self.answers[end - CYCLE : end]]
        memory, handles, threads = (
            statistics.median(getattr(size, name) for size in sizes) for name in ("memory", "handles", "threads")
        )
        return Size(memory, round(handles), round(threads))

    @property
    def halves(self) -> tuple[Size, Size]:
        """At the end of the first half, and of the second."""
        return self.size(len(self.answers) // 2 // CYCLE * CYCLE), self.size(len(self.answers))

    @property
    def slowdown(self) -> float:
        """Median of the times of the last window over those of the same prompts of the first."""
        pairs = zip(self.answers[-self.window :], self.answers[: self.window], strict=True)
        return statistics.median(late.seconds / early.seconds for late, early in pairs)

    def table(self) -> list[str]:
        """Markdown."""
        before, after = self.halves
        early, late = (
            statistics.median(answer.seconds for answer in part)
            for part in (self.answers[: self.window], self.answers[-self.window :])
        )
        return [
            f"| {len(self.answers)} prompts | after the first half | after the second | change |",
            "|---|---:|---:|---:|",
            f"| resident memory, MiB | {before.memory:.0f} | {after.memory:.0f} | "
            f"{after.memory / before.memory - 1:+.1%} |",
            f"| open handles | {before.handles} | {after.handles} | {after.handles - before.handles:+d} |",
            f"| threads | {before.threads} | {after.threads} | {after.threads - before.threads:+d} |",
            "",
            f"| {self.window} prompts each | the first | the last | last / first, median of like prompts |",
            "|---|---:|---:|---:|",
            f"| median time of a prompt, s | {early:.2f} | {late:.2f} | {self.slowdown:.2f} |",
        ]


def size_of(pid: int) -> Size:
    """The size of a process, from /proc."""
    handles, threads = (len(list(Path(f"/proc/{pid}/{what}").iterdir())) for what in ("fd", "task"))
    return Size(resident(pid=pid), handles, threads)


def soak(host: PrivateHost, prompts: int) -> Soak:
    """Run so many prompts, rounded up to whole cycles.

    Raises: SystemExit: a prompt did not end as it must, was lost or was run twice.
    """
    answers: list[Answer] = []
    with ComfyClient(host.url) as client, httpx.Client(base_url=host.url, trust_env=False) as http:
        executed, accepted = executions(host), 0
        for number in range(-(-prompts // CYCLE)):
            ids = {}
            for case in cycle(number):
                start = time.perf_counter()
                prompt_id = _run(client, case)
                answers.append(Answer(case.name, time.perf_counter() - start, size_of(host.pid)))
                if prompt_id is not None:
                    ids[prompt_id] = case
            accepted += len(ids)
            _check(http, ids, host.base_directory / "output")
        ran = executions(host) - executed
    if ran != accepted:
        raise SystemExit(f"The host ran {ran} prompts; it had accepted {accepted}.")
    return Soak(answers)


def _run(client: ComfyClient, case: Case) -> str | None:
    """Submit a prompt and wait for its end; its id, or None if it was refused, as it should be."""
    pressed: list[Any] = []

    def cancel(event: Event) -> None:
        if case.end == "cancelled" and event.type == "progress" and not pressed:
            pressed.append(event)
            client.interrupt()

    prompt_id, end = None, "done"
    try:
        prompt_id = client.submit(case.prompt)
        client.follow(prompt_id, cancel)
    except PromptRejectedError:
        end = "refused"
    except ExecutionError as error:
        end = "failed" if ".errors." in f".{error.exception_type}" else f"failed with {error}"
    except PromptInterruptedError:
        end = "cancelled"
    if end != case.end:
        raise SystemExit(f"The prompt {case.name!r} ended as {end!r}; expected {case.end!r}.")
    return prompt_id


def _check(http: httpx.Client, ids: dict[str, Case], output: Path) -> None:
    """Each prompt ended once, with its images on the disk, whole. Then forget them, as nothing else here does."""
    history = http.get("/history").json()
    for prompt_id, case in ids.items():
        entry = history.get(prompt_id)
        if entry is None:
            raise SystemExit(f"The prompt {case.name!r} is lost: the history does not know {prompt_id}.")
        ends = [kind for kind, _ in entry["status"]["messages"] if kind in ENDS]
        if len(ends) != 1:
            raise SystemExit(f"The prompt {case.name!r} ended {len(ends)} times: {ends}.")
        files = list(_files(entry, output))
        if len(files) != case.images:
            raise SystemExit(f"The prompt {case.name!r} left {len(files)} images; expected {case.images}.")
        for file in files:
            with Image.open(file) as image:
                image.load()
    http.post("/history", json={"delete": list(ids)}).raise_for_status()
    shutil.rmtree(output / FOLDER, ignore_errors=True)


def _files(entry: dict[str, Any], output: Path) -> Iterator[Path]:
    for node in entry["outputs"].values():
        for image in node.get("images") or []:
            if image["type"] == "output":
                yield output / image["subfolder"] / image["filename"]


def main() -> None:
    """Run, print, and keep the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--prompts", type=int, default=1000)
    parser.add_argument("--out", type=Path, default=PACK_ROOT / "benchmarks" / "results")
    arguments = parser.parse_args()
    start = time.monotonic()
    with PrivateHost(find_host(), {"comfyui-ldm": PACK_ROOT}) as host:
        done = soak(host, arguments.prompts)
    minutes = (time.monotonic() - start) / 60
    lines = [
        "# Many mixed prompts on one ComfyUI",
        "",
        f"`python benchmarks/soak.py --prompts {arguments.prompts}`: {minutes:.0f} minutes. No prompt was lost, none "
        f"ran twice, each ended as it must. Memory, handles and threads are medians over a cycle of {CYCLE} prompts.",
        "",
        *done.table(),
        "",
        machine(),
    ]
    arguments.out.mkdir(parents=True, exist_ok=True)
    file = arguments.out / f"soak-{time.strftime('%Y-%m-%d')}.md"
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print("\n".join(lines))  # noqa: T201 - its whole output


if __name__ == "__main__":
    main()
