"""Speed and memory of the real model's size on the CPU, side by side with diffusers.

    python benchmarks/speed.py --parts unet decode image

Writes speed-<date>.md and .png. Needs Linux, 6 GB of memory, 1.4 GB in the temporary folder and
`pip install -e '.[bench]'`; all parts take about 45 minutes of two idle CPU cores. Each side has a process of its own
with the same number of threads, fp32, torch.inference_mode. The sides take turns and swap places, never at the same
time; a warm-up is not counted. A ratio is diffusers' time over ours of two runs that are neighbours in time.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from common import SIDES, machine, scratch_weights, spread
from speed_peers import SIDES as PEERS
from speed_peers import peers
from speed_report import Compared, Section, compared_table, difference, draw_plot, report, scaled
from speed_sides import TURN, Result, Worker, images_in_turns

CARD_STEPS = 200
SOLVER = {"sampler": "unipc", "grid": "log_snr", "steps": 20}
DEMO_STEPS = 10
BATCHES = (1, 4, 16)

Turn = dict[str, Result]


@dataclass(frozen=True)
class Bench:
    """What the parts measure with."""

    folder: Path
    arguments: argparse.Namespace
    workers: dict[str, Worker]

    def pairs(self, usual: int) -> int:
        """Pairs of a part: its own number, or that of the command line."""
        return self.arguments.pairs or usual

    def turns(self, pairs: int, task: str, *arguments: Any) -> list[Turn]:
        """Run a task on both sides, after a warm-up of each; one result of each side for each pair."""
        for worker in self.workers.values():
            worker.run(task, *arguments)
        return [{side: self.workers[side].run(task, *arguments) for side in order(number)} for number in range(pairs)]

    def pictures(self, sides: tuple[str, ...] = SIDES) -> list[Turn]:
        """Whole pictures of these sides, drawn in turns, after a warm-up of one step on both."""
        for worker in self.workers.values():
            worker.run("image", 1)
        drawn = dict.fromkeys(sides, ("image", (self.arguments.image_steps,), TURN))
        return [images_in_turns(self.workers, order(number, sides), drawn) for number in range(self.arguments.images)]


def order(number: int, sides: tuple[str, ...] = SIDES) -> tuple[str, ...]:
    """Sides of a pair, in turn."""
    return sides if number % 2 == 0 else sides[::-1]


def seconds_of(name: str, turns: list[Turn], images: int = 0) -> Compared:
    """Times of both sides, and how near their outputs are."""
    ours, theirs = ([turn[side].seconds for turn in turns] for side in SIDES)
    return Compared(name, ours, theirs, ".3f", same_of(turns[0]), images)


def same_of(turn: Turn) -> str:
    """How near the outputs of a pair are."""
    ours, theirs = (turn[side].output for side in SIDES)
    return "" if ours is None or theirs is None else difference(ours, theirs)


def unet(bench: Bench) -> list[Section]:
    """One evaluation of the UNet."""
    rows = [seconds_of("UNet, one evaluation", bench.turns(bench.pairs(9), "unet", 1))]
    return [Section("One evaluation of the UNet, 1x3x64x64", compared_table(rows, "s"), rows)]


def decode(bench: Bench) -> list[Section]:
    """One latent quantised and decoded."""
    rows = [seconds_of("VQ decode, one picture", bench.turns(bench.pairs(5), "decode", 1))]
    return [Section("Quantising and decoding one 64x64 latent to 256x256 pixels", compared_table(rows, "s"), rows)]


def batch(bench: Bench) -> list[Section]:
    """Evaluations of the UNet in batches."""
    rows = [
        seconds_of(f"UNet, batch {size}", bench.turns(bench.pairs(2), "unet", size), images=size) for size in BATCHES
    ]
    return [Section("Batches: evaluations of the UNet, counted in images", compared_table(rows, "images/s"), rows)]


def images(bench: Bench) -> list[Section]:
    """Whole pictures: the same steps on both sides, and our fast solver against diffusers' steps."""
    steps, parts = bench.arguments.image_steps, bench.arguments.parts
    card = bench.pictures(SIDES if "image" in parts else ("diffusers",))
    fast: list[Turn] = []
    if "solver" in parts:
        solver = SOLVER["steps"], SOLVER["sampler"], SOLVER["grid"]
        fast = [turn | {"ours": bench.workers["ours"].run("image", *solver)} for turn in card]
    return [
        *([card_section(card, steps)] if "image" in parts else []),
        *([solver_section(fast, steps)] if fast else []),
    ]


def card_section(turns: list[Turn], steps: int) -> Section:
    """The model card's picture on both sides."""
    ours, theirs = ([turn[side].laps[-1] / steps for turn in turns] for side in SIDES)
    rows = [seconds_of(f"Whole image, {steps} steps", turns), Compared("for each step", ours, theirs, ".3f")]
    text = (
        f"Seed 3, {steps} DDIM steps, eta 0, decoded to uint8; loading excluded. diffusers: the model card's loop. "
        f"{TURN} steps here, {TURN} there, so that a machine that changes its pace changes it for both."
    )
    return Section("A whole image", [text, "", *compared_table(rows, "s")], rows[:1])


def solver_section(turns: list[Turn], steps: int) -> Section:
    """Our fast solver against the model card's 200 steps, which is not the same picture."""
    ours = [turn["ours"].seconds for turn in turns]
    theirs = [scaled(turn["diffusers"].seconds, turn["diffusers"].laps[-1], steps, CARD_STEPS) for turn in turns]
    name = f"{SOLVER['sampler']}, {SOLVER['steps']} steps, against DDIM, {CARD_STEPS}"
    rows = [Compared(name, ours, theirs)]
    measured = "measured whole" if steps == CARD_STEPS else f"calculated from a run of {steps} steps"
    text = (
        f"Ours: `generate(sampler={SOLVER['sampler']!r}, grid={SOLVER['grid']!r}, steps={SOLVER['steps']})`, the "
        f"defaults of LDM Sampler, measured whole. diffusers: the model card's {CARD_STEPS} DDIM steps, {measured}. "
        "Not the same picture; benchmarks/convergence.py says how near it is."
    )
    # Not in the plot: it is not the same work, and ten times as long a bar would hide the others.
    return Section("The fast solver against the model card's steps", [text, "", *compared_table(rows, "s")])


def solvers(bench: Bench) -> list[Section]:
    """What each sampler costs beyond the network, on the demo model: our side only."""
    from ldm_backend.sampling.samplers import SAMPLERS

    worker = bench.workers["ours"]
    worker.run("load_demo")
    worker.run("solver", "ddim", DEMO_STEPS)
    rounds = []
    for number in range(bench.pairs(5)):
        names = SAMPLERS if number % 2 == 0 else SAMPLERS[::-1]
        rounds.append({name: worker.run("solver", name, DEMO_STEPS) for name in names})
    lines = [
        "| sampler | evaluations | ms each | time of ddim's | outside the network, ms each |",
        "|---|---:|---|---|---|",
    ]
    for name in SAMPLERS:
        found = [run[name] for run in rounds]
        count = len(found[0].laps)
        each = [1e3 * result.seconds / count for result in found]
        ddim = [1e3 * run["ddim"].seconds / len(run["ddim"].laps) for run in rounds]
        ratios = [mine / base for mine, base in zip(each, ddim, strict=True)]
        outside = [1e3 * (result.seconds - sum(result.laps)) / count for result in found]
        cells = spread(each, ".1f"), spread(ratios, ".2f"), spread(outside, ".2f")
        lines.append(f"| {name} | {count} | " + " | ".join(cells) + " |")
    text = (
        f"Demo model, one 32x32 latent, {DEMO_STEPS} steps of each, decoding excluded; {len(rounds)} rounds. The "
        "arithmetic between the evaluations does not grow with the network."
    )
    return [Section("Samplers: time of an evaluation", [text, "", *lines])]


def memory(bench: Bench) -> list[Section]:
    """Peak of a whole image, and working sets of decoding; each number from a fresh process."""

    def fresh(side: str, *tasks: tuple[Any, ...]) -> tuple[Result, Result]:
        with Worker(side, bench.folder, bench.arguments.threads) as worker:
            return worker.loaded, [worker.run(*task) for task in tasks][-1]

    def compared(name: str, value: Callable[[str], float], usual: int = 2) -> Compared:
        found = [{side: value(side) for side in order(number)} for number in range(bench.pairs(usual))]
        ours, theirs = ([pair[side] for pair in found] for side in SIDES)
        return Compared(name, ours, theirs, ".0f")

    def of_image(side: str) -> float:
        return max(result.peak for result in fresh(side, ("image", 2)))

    def of_decode(task: str, batch: int) -> Callable[[str], float]:
        # The small latent first: it reads the weights and compiles nothing that depends on the size.
        return lambda side: fresh(side, ("decode", 1, 8), (task, batch))[1].working_set

    rows = [
        compared("Peak memory, image", of_image, 5),
        compared("decode to uint8, 1 picture", of_decode("decode_pictures", 1)),
        compared("decode to uint8, 8 pictures (ours one by one)", of_decode("decode_pictures", 8)),
        compared("decode, 8 pictures in one batch", of_decode("decode", 8)),
    ]
    text = (
        "Image: resident memory at most while loading, sampling (2 steps; more need no more) and decoding, above that "
        "after the imports; the weights are in it. Decoding: resident at most, above that before it."
    )
    return [Section("Memory", [text, "", *compared_table(rows, "MiB")], rows[:1])]


PARTS: dict[str, Callable[[Bench], list[Section]]] = {
    "unet": unet,
    "decode": decode,
    "image": images,
    "solver": images,
    "batch": batch,
    "solvers": solvers,
    "memory": memory,
}


def measure(folder: Path, arguments: argparse.Namespace) -> Iterator[tuple[list[Section], int]]:
    """After each of the chosen parts: the sections so far, and the number of threads of each side."""
    sections: list[Section] = []
    if arguments.peers is not None:
        sections, threads = peers(arguments.peers or PEERS, folder, arguments.threads, arguments.pairs or 5)
        yield sections, threads
    if not arguments.parts:
        return
    with ExitStack() as stack:
        workers = {side: stack.enter_context(Worker(side, folder, arguments.threads)) for side in SIDES}
        bench = Bench(folder, arguments, workers)
        for part in dict.fromkeys(PARTS[name] for name in PARTS if name in arguments.parts):
            start = time.perf_counter()
            sections += part(bench)
            sys.stderr.write(f"{part.__name__}: done in {time.perf_counter() - start:.0f} s\n")
            yield sections, workers["ours"].threads


def write(sections: list[Section], threads: int, load: float, out: Path) -> None:
    """Write the tables and the plot.

    Args:
        sections: of the report.
        threads: of each side.
        load: load average at the start.
        out: folder.
    """
    head = (
        f"Made by `{' '.join(['python benchmarks/speed.py', *sys.argv[1:]])}`; README.md beside this folder says what "
        "each part is. Random weights of the real model's size, fp32, CPU, eager diffusers, both sides with "
        f"{threads} threads and in torch.inference_mode, taking turns; median (least to most). The ratio is diffusers "
        "over ours, of neighbours in time: 1.25 means that ours takes 0.8 of diffusers' time, or memory."
    )
    name = f"speed-{time.strftime('%Y-%m-%d')}"
    foot = f"Load average {load:.1f} at the start. {machine()}"
    bars = [bar for section in sections for bar in section.bars] if find_spec("matplotlib") else []
    (out / f"{name}.md").write_text(report(sections, head, foot, f"{name}.png" if bars else None))
    if bars:
        draw_plot(bars, out / f"{name}.png")


def main() -> None:
    """Measure; write after each part, so that an interrupted run leaves what it has."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--parts", nargs="+", choices=PARTS, help="what to measure (default: all, with --peers none)")
    parser.add_argument(
        "--peers",
        nargs="*",
        choices=PEERS,
        metavar="ENGINE",
        help=f"measure beside these engines, or all of them (18 GB of memory): {'; '.join(PEERS)}",
    )
    parser.add_argument(
        "--pairs", "--runs", type=int, help="pairs of each part but whole images (default: 2 to 9, by part)"
    )
    parser.add_argument(
        "--images",
        type=int,
        default=1,
        help="pairs of whole images (default: 1, some 8 minutes each)",
    )
    parser.add_argument("--image-steps", type=int, default=CARD_STEPS, help=f"of a whole image (default: {CARD_STEPS})")
    parser.add_argument("--threads", type=int, help="of each side (default: as torch chooses)")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder of the table and the plot")
    arguments = parser.parse_args()
    arguments.parts = arguments.parts or (list(PARTS) if arguments.peers is None else [])
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    arguments.out.mkdir(parents=True, exist_ok=True)
    if not find_spec("matplotlib"):
        sys.stderr.write("matplotlib is not installed: there will be no plot. pip install -e '.[bench]' brings it.\n")
    load = os.getloadavg()[0]
    with scratch_weights() as folder:
        for sections, threads in measure(folder, arguments):
            write(sections, threads, load, arguments.out)


if __name__ == "__main__":
    main()
