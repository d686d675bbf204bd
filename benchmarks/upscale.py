"""Time and memory of super-resolution on the CPU: ours at its defaults, the original's way, and diffusers' pipeline.

    python benchmarks/upscale.py

Writes upscale-<date>.md. Needs Linux, 8 GB of memory, 0.7 GB in the temporary folder and `pip install -e '.[bench]'`.
Each side has a process of its own, fresh for each pair, with the same number of threads, fp32, torch.inference_mode;
they take turns. The demo upscaler draws whole pictures. The size of the released one takes a minute for an evaluation
of a large picture: of it a few evaluations are measured, with all that comes before and after them, and the whole is
calculated, which the table says.
"""

from __future__ import annotations

import argparse
import inspect
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from common import DEMO_SCRIPTS, demo_module, machine, psnr, scratch_weights, spread
from speed_sides import Result, Worker, images_in_turns
from upscale_sides import PROGRAMS, SCALE, STEPS, write_upscaler

DEMO = DEMO_SCRIPTS / "upscaler-4x"
PORTRAIT = 2_000_000  # a seed of which nothing was trained
SIDES = {"ours": "ours", "original": "original's way", "diffusers": "diffusers"}
ROUNDS = 10  # of a whole picture, in which each side computes a tenth
WARM_SIDE, WARM_STEPS = 32, 2


@dataclass(frozen=True)
class Case:
    """What is measured.

    Args:
        title: heading.
        folder: of the weights.
        side: of the small picture in pixels.
        steps: evaluations of each side for a whole picture.
        measured: evaluations of each side that are measured.
        pairs: how often.
    """

    title: str
    folder: Path
    side: int
    steps: dict[str, int]
    measured: dict[str, int]
    pairs: int

    @property
    def whole(self) -> bool:
        """Whether whole pictures are measured, and nothing is calculated."""
        return self.steps == self.measured


@dataclass(frozen=True)
class Taken:
    """What a picture of one side took.

    Args:
        seconds: of all.
        laps: seconds from the start to the end of each evaluation.
        peak: MiB resident at most, loading included, above that after the imports.
        picture: that came of it.
    """

    seconds: float
    laps: list[float]
    peak: float
    picture: np.ndarray

    @property
    def evaluations(self) -> list[float]:
        """Seconds of each evaluation but the first, before which other things happen."""
        return np.diff(self.laps).tolist()

    @property
    def outside(self) -> float:
        """Seconds of all but the evaluations: what comes before, as encoding, and after, as decoding."""
        return self.seconds - self.laps[-1] + self.laps[0] - statistics.median(self.evaluations)

    def total(self, steps: int) -> float:
        """Seconds of a picture of that many evaluations, by the median of those that were measured."""
        return self.outside + steps * statistics.median(self.evaluations)

    def rounds(self, turn: int) -> list[float]:
        """Mean seconds of an evaluation in each turn of so many."""
        starts = [0.0, *self.laps[turn - 1 :: turn]]
        found = [(end - start) / turn for start, end in zip(starts, starts[1:], strict=False)]
        return found[1:]  # the first has what comes before the evaluations


def order(number: int) -> tuple[str, ...]:
    """Sides of a pair, another first each time."""
    sides = tuple(SIDES)
    return sides[number % len(sides) :] + sides[: number % len(sides)]


def turn_of(steps: int) -> int:
    """Evaluations of a turn."""
    return max(1, steps // ROUNDS)


def draw_pair(case: Case, number: int, threads: int | None) -> dict[str, Taken]:
    """The same small picture enlarged by all sides, in turns, by fresh processes."""
    small = demo_module("portraits").draw_portrait(PORTRAIT + number, case.side)
    with ExitStack() as stack:
        workers = {side: stack.enter_context(Worker(side, case.folder, threads, PROGRAMS)) for side in order(number)}
        for worker in workers.values():
            worker.run("image", small[:WARM_SIDE, :WARM_SIDE].copy(), WARM_STEPS)
        messages = {side: ("image", (small, steps), turn_of(steps)) for side, steps in case.measured.items()}
        results = images_in_turns(workers, order(number), messages)
        return {side: taken(workers[side].loaded, results[side]) for side in SIDES}


def taken(loaded: Result, result: Result) -> Taken:
    """The numbers of one picture."""
    if result.output is None:
        raise SystemExit("A side made no picture.")
    return Taken(result.seconds, result.laps, max(loaded.peak, result.peak), result.output)


Values = dict[str, list[float]]


def row(name: str, values: Values, form: str) -> str:
    """A line of the table: median (least to most) of each side, and of the ratios to ours, neighbour by neighbour."""
    ratios = [
        [their / mine for mine, their in zip(values["ours"], values[side], strict=True)]
        for side in SIDES
        if side != "ours"
    ]
    cells = [*(spread(values[side], form) for side in SIDES), *(spread(ratio, ".2f") for ratio in ratios)]
    return f"| {name} | {len(values['ours'])} | {' | '.join(cells)} |"


def section(case: Case, pairs: Sequence[dict[str, Taken]]) -> list[str]:
    """Heading, text and table of a case."""

    def of_pairs(value: Callable[[str, Taken], float]) -> Values:
        return {side: [value(side, pair[side]) for pair in pairs] for side in SIDES}

    each: Values = {side: [] for side in SIDES}
    for pair in pairs:
        rounds = {side: pair[side].rounds(turn_of(case.measured[side])) for side in SIDES}
        for neighbours in zip(*rounds.values(), strict=False):  # some sides may have a round more
            for side, value in zip(rounds, neighbours, strict=True):
                each[side].append(value)
    whole = of_pairs(lambda side, one: one.seconds if case.whole else one.total(case.steps[side]))
    measured = [] if case.whole else [row("what was measured, s", of_pairs(lambda _, one: one.seconds), ".1f")]
    return [
        f"## {case.title}, {case.side}x{case.side} to {SCALE * case.side}x{SCALE * case.side} pixels",
        "",
        explained(case, pairs),
        "",
        "| | times | " + " | ".join(SIDES.values()) + " | original's way / ours | diffusers / ours |",
        "|---|---:|" + "---|" * (2 * len(SIDES) - 1),
        row("whole picture, s" if case.whole else "**extrapolated:** whole picture, s", whole, ".1f"),
        *measured,
        row("one evaluation of the UNet, s", each, ".3f"),
        row("all but the evaluations, s", of_pairs(lambda _, one: one.outside), ".1f"),
        row("peak memory, MiB", of_pairs(lambda _, one: one.peak), ".0f"),
        "",
    ]


def explained(case: Case, pairs: Sequence[dict[str, Taken]]) -> str:
    """How the numbers came about."""
    steps = ", ".join(f"{SIDES[side]} {count}" for side, count in case.steps.items())
    text = f"Evaluations of a picture: {steps}. "
    if not case.whole:
        counts = ", ".join(f"{SIDES[side]} {count}" for side, count in case.measured.items())
        return (
            f"{text}Measured: a run with fewer evaluations ({counts}), and all that comes before and after them. The "
            "whole picture is calculated from that: all but the evaluations, and the evaluations of a picture times "
            "the median of those that were measured. Random weights."
        )
    near = {
        side: spread([psnr(pair[side].picture[None], pair["ours"].picture[None])[0] for pair in pairs], ".1f")
        for side in SIDES
        if side != "ours"
    }
    likeness = " dB, ".join(f"{SIDES[side]} {value}" for side, value in near.items())
    return f"{text}Measured whole. PSNR of the pictures to ours, which are other samples: {likeness} dB."


def cases(arguments: argparse.Namespace, folder: Callable[[], Path]) -> Iterator[Case]:
    """What the command line asks for.

    Args:
        arguments: of it.
        folder: of weights of the released size, written when called.
    """
    import ldm_backend

    ours = inspect.signature(ldm_backend.upscale).parameters["steps"].default
    steps = {"ours": ours, **STEPS}
    few = dict.fromkeys(steps, arguments.evaluations)

    def pairs(side: int, usual: int) -> int:
        return arguments.pairs or (1 if side >= 512 else usual)

    if "demo" in arguments.parts:
        for side in arguments.side:
            yield Case("Demo upscaler", arguments.model, side, steps, steps, pairs(side, 3))
    if "full" in arguments.parts:
        for side in arguments.full_side:
            yield Case("Size of the released upscaler", folder(), side, steps, few, pairs(side, 2))


def report(sections: Sequence[Sequence[str]], threads: int | None, load: float) -> str:
    """The Markdown file."""
    head = (
        f"Made by `{' '.join(['python benchmarks/upscale.py', *sys.argv[1:]])}`. fp32, CPU, "
        f"{threads or 'as many'} threads{'' if threads else ' as torch chooses'}, all sides in torch.inference_mode, "
        "each in a process of its own, taking turns; loading is not in the times. Median (least to most); the ratios "
        "are of neighbours in time: 5 means that ours takes a fifth. Ours: the defaults of `ldm_backend.upscale`. The "
        "original's way: what its scripts compute, over diffusers' networks: encode the enlarged picture, 100 DDIM "
        "steps of eta 1, three decodes; whole, though the scripts cut large pictures into overlapping tiles, which "
        "costs more evaluations. diffusers: LDMSuperResolutionPipeline, 100 steps. Peak memory: resident at most, "
        "loading included, above that after the imports. What fewer evaluations change in the picture, "
        "upscale_quality.py says."
    )
    lines = ["# Super-resolution beside the original's way and diffusers", "", head, ""]
    for one in sections:
        lines += one
    return "\n".join([*lines, f"Load average {load:.1f} at the start. {machine()}", ""])


def main() -> None:
    """Measure; write after each part, so that an interrupted run leaves what it has."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--parts", nargs="+", choices=("demo", "full"), default=["demo", "full"])
    parser.add_argument("--model", type=Path, default=DEMO, help="folder of the upscaler that draws whole pictures")
    parser.add_argument("--side", type=int, nargs="+", default=[128, 512], help="of its small pictures, in pixels")
    parser.add_argument("--full-side", type=int, nargs="+", default=[128], help="likewise, at the released size")
    parser.add_argument("--evaluations", type=int, default=4, help="of the released size, measured (default: 4)")
    parser.add_argument("--pairs", type=int, help="of each case (default: 1 from 512 pixels on, else 3 and 2)")
    parser.add_argument("--threads", type=int, help="of each side (default: as torch chooses)")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder of the table")
    arguments = parser.parse_args()
    if arguments.evaluations < 2:
        parser.error("--evaluations must be 2 or more: the first one of a run is not counted.")
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    arguments.out.mkdir(parents=True, exist_ok=True)
    load, sections = os.getloadavg()[0], []
    with ExitStack() as stack:
        for case in cases(arguments, lambda: stack.enter_context(scratch_weights(write=write_upscaler))):
            start = time.perf_counter()
            sections.append(section(case, [draw_pair(case, n, arguments.threads) for n in range(case.pairs)]))
            sys.stderr.write(f"{case.title}, {case.side}: done in {time.perf_counter() - start:.0f} s\n")
            text = report(sections, arguments.threads, load)
            (arguments.out / f"upscale-{time.strftime('%Y-%m-%d')}.md").write_text(text)


if __name__ == "__main__":
    main()
