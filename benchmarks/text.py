"""Time and memory of models of texts on the CPU, without and with guidance: ours beside diffusers' pipeline.

    python benchmarks/text.py

Writes text-<date>.md. Needs Linux, 16 GB of memory, 6 GB in the temporary folder and `pip install -e '.[bench,text]'`.
Each side has a process of its own, with the same number of threads, fp32, torch.inference_mode; they take turns and
swap places. The demo draws pictures of ten steps; of the size of text2img-large, with random weights, a few
evaluations are measured.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from common import DEMO_SCRIPTS, SIDES, machine, scratch_weights, spread
from speed_sides import Worker
from text_sides import PROGRAMS, PROMPTS, write_texts

DEMO = DEMO_SCRIPTS / "text-portraits-128"
CFG = (1.0, 5.0)
WARM_STEPS = 3
ALLOWED = 2.05  # evaluations that a guided one may cost


@dataclass(frozen=True)
class Case:
    """What is measured.

    Args:
        title: heading.
        folder: of the weights.
        steps: evaluations of a run; the first is not counted, before which texts are encoded.
        pairs: how often.
    """

    title: str
    folder: Path
    steps: int
    pairs: int


@dataclass(frozen=True)
class Taken:
    """What one run of one side took.

    Args:
        seconds: of all.
        evaluation: of one evaluation, in the median.
        peak: MiB resident at most, loading included, above that after the imports.
        pictures: that came of it.
    """

    seconds: float
    evaluation: float
    peak: float
    pictures: np.ndarray


Settings = tuple[int, float]  # batch and cfg
Pair = dict[Settings, dict[str, Taken]]


def measure_pair(case: Case, number: int, batches: Sequence[int], threads: int | None) -> Pair:
    """Each batch and cfg on both sides, in turn."""
    sides = SIDES if number % 2 == 0 else SIDES[::-1]
    found: Pair = {}
    with ExitStack() as stack:
        workers = {side: stack.enter_context(Worker(side, case.folder, threads, PROGRAMS)) for side in sides}
        for batch in batches:
            for cfg in CFG:
                found[batch, cfg] = {}
                for side in sides:
                    workers[side].run("image", batch, WARM_STEPS, cfg)
                    result = workers[side].run("image", batch, case.steps, cfg)
                    each = statistics.median(np.diff(result.laps).tolist())
                    peak = max(workers[side].loaded.peak, result.peak)
                    found[batch, cfg][side] = Taken(result.seconds, each, peak, np.array(result.output))
                sides = sides[::-1]
    return found


def row(name: str, ours: Sequence[float], theirs: Sequence[float], form: str) -> str:
    """A line of the table: median (least to most) of both sides and of the ratio, pair by pair."""
    ratios = [their / mine for mine, their in zip(ours, theirs, strict=True)]
    return f"| {name} | {len(ours)} | {spread(ours, form)} | {spread(theirs, form)} | {spread(ratios, '.2f')} |"


def section(case: Case, pairs: Sequence[Pair]) -> list[str]:
    """Heading and tables of a case."""
    measures: tuple[tuple[str, Callable[[Taken], float], str], ...] = (
        ("one evaluation, s", lambda one: one.evaluation, ".3f"),
        (f"a run of {case.steps} steps, s", lambda one: one.seconds, ".1f"),
        ("peak memory, MiB", lambda one: one.peak, ".0f"),
    )
    lines = [f"## {case.title}", "", "| | pairs | ours | diffusers | diffusers / ours |", "|---|---:|---|---|---|"]
    for batch, cfg in pairs[0]:
        for name, value, form in measures:
            ours, theirs = ([value(pair[batch, cfg][side]) for pair in pairs] for side in SIDES)
            lines.append(row(f"batch {batch}, cfg {cfg:g}: {name}", ours, theirs, form))
    lines += ["", "| evaluation with cfg / without | " + " | ".join(SIDES) + " | allowed |", "|---|---|---|---|"]
    for batch in dict.fromkeys(batch for batch, _ in pairs[0]):
        costs = [
            [pair[batch, CFG[1]][side].evaluation / pair[batch, CFG[0]][side].evaluation for pair in pairs]
            for side in SIDES
        ]
        lines.append(f"| batch {batch} | {' | '.join(spread(cost, '.3f') for cost in costs)} | {ALLOWED} |")
    apart = max(
        int(np.abs(one["ours"].pictures.astype(int) - one["diffusers"].pictures).max())
        for pair in pairs
        for one in pair.values()
    )
    return [*lines, "", f"Pictures of both sides: {apart} of 255 levels apart at most.", ""]


def cases(arguments: argparse.Namespace, folder: Callable[[], Path]) -> Iterator[Case]:
    """What the command line asks for.

    Args:
        arguments: of it.
        folder: of weights of the released size, written when called.
    """
    if "demo" in arguments.parts:
        yield Case("Demo of texts, 128x128 pixels", DEMO, arguments.demo_steps, arguments.pairs or 5)
    if "full" in arguments.parts:
        yield Case("Size of text2img-large, 256x256 pixels", folder(), arguments.steps, arguments.pairs or 3)


def report(sections: Sequence[Sequence[str]], threads: int | None, load: float) -> str:
    """The Markdown file."""
    head = (
        f"Made by `{' '.join(['python benchmarks/text.py', *sys.argv[1:]])}`. fp32, CPU, {threads or 'as many'} threads"
        f"{'' if threads else ' as torch chooses'}, each side in a process of its own, taking turns; loading is not in "
        "the times. Median (least to most); the ratios are of neighbours in time: 1.25 means that ours takes 0.8 of "
        "diffusers' time or memory. Ours: `ldm_backend.generate` with DDIM; diffusers: LDMTextToImagePipeline, from "
        "the same noise. An evaluation with cfg has twice the batch. Peak memory: resident at most, loading included, "
        "above that after the imports. A run has the texts and decoding in it."
    )
    lines = ["# Models of texts beside diffusers", "", head, ""]
    for one in sections:
        lines += one
    return "\n".join([*lines, f"Load average {load:.1f} at the start. {machine()}", ""])


def main() -> None:
    """Measure; write after each part, so that an interrupted run leaves what it has."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--parts", nargs="+", choices=("demo", "full"), default=["demo", "full"])
    parser.add_argument("--batches", type=int, nargs="+", choices=range(1, len(PROMPTS) + 1), default=[1, 4])
    parser.add_argument("--demo-steps", type=int, default=10, help="of a run of the demo (default: 10)")
    parser.add_argument("--steps", type=int, default=4, help="of a run of the released size (default: 4)")
    parser.add_argument("--pairs", type=int, help="of each case (default: 5 and 3)")
    parser.add_argument("--threads", type=int, help="of each side (default: as torch chooses)")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder of the table")
    arguments = parser.parse_args()
    if min(arguments.steps, arguments.demo_steps) < 2:
        parser.error("--steps and --demo-steps must be 2 or more: the first evaluation of a run is not counted.")
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    arguments.out.mkdir(parents=True, exist_ok=True)
    load, sections = os.getloadavg()[0], []
    with ExitStack() as stack:
        for case in cases(arguments, lambda: stack.enter_context(scratch_weights("model", write_texts)) / "model"):
            start = time.perf_counter()
            pairs = [measure_pair(case, n, arguments.batches, arguments.threads) for n in range(case.pairs)]
            sections.append(section(case, pairs))
            sys.stderr.write(f"{case.title}: done in {time.perf_counter() - start:.0f} s\n")
            text = report(sections, arguments.threads, load)
            (arguments.out / f"text-{time.strftime('%Y-%m-%d')}.md").write_text(text)


if __name__ == "__main__":
    main()
