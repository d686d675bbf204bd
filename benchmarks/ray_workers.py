"""What Ray costs `ldm generate`: images/s of 1, 2, ... workers on this machine, beside as many processes without Ray.

    pip install -e '.[cli,ray]'
    python benchmarks/ray_workers.py

N Ray workers are compared with N processes that know nothing of each other or of Ray, started together right before:
what is left is Ray and the pool. How N processes compare with one is the affair of the machine (memory bandwidth, other
work), and stands beside it. Starting is timed apart.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from common import machine, spread

from ldm_headless.generation.job import Format, Job
from ldm_headless.pools.pool import LocalPool, Pool
from ldm_headless.pools.ray_pool import LOCAL, Needs, RayPool, ray_cluster

ROOT = Path(__file__).resolve().parent.parent
_IN_FLIGHT = 2  # as `ldm generate`


def timed(pool: Pool, job: Job, warm_up: int) -> tuple[float, float]:
    """Images/s after the first `warm_up` images, and seconds until the first one."""
    start = time.perf_counter()
    first = begin = start
    for index, _ in enumerate(pool.map(job.units(()))):
        if index == 0:
            first = time.perf_counter()
        if index == warm_up - 1:
            begin = time.perf_counter()
    return (len(job.seeds) - warm_up) / (time.perf_counter() - begin), first - start


def apart(factory: Any, job: Job, count: int) -> float:
    """Images/s of processes on their own, added up."""
    context = multiprocessing.get_context("spawn")
    together, rates = context.Barrier(count), context.SimpleQueue()
    processes = [context.Process(target=_lone, args=(factory, job, together, rates)) for _ in range(count)]
    for process in processes:
        process.start()
    total = sum(rates.get() for _ in processes)
    for process in processes:
        process.join()
    return total


def _lone(factory: Any, job: Job, together: Any, rates: Any) -> None:
    worker = factory()
    together.wait()
    rates.put(timed(LocalPool(lambda: worker, _IN_FLIGHT), job, len(job.seeds) // 5)[0])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--images", type=int, default=100, help="of each worker")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, nargs="+", default=list(range(1, len(os.sched_getaffinity(0)) + 1)))
    options = parser.parse_args()
    from ldm_headless.generation.image_maker import ImageMaker, Source, settings_of

    source = Source(str(ROOT / "demo" / "portraits-128"), "auto", None)
    settings = settings_of(
        source,
        steps=options.steps,
        eta=0.0,
        sampler="ddim",
        grid="leading",
        batch=1,
        device="cpu",
        precision="fp32",
        first_stage_precision="fp32",
        compiled=False,
        threads=1,
    )
    factory = partial(ImageMaker, source, settings, "benchmark")
    rounds: dict[int, list[tuple[float, float, float]]] = {count: [] for count in options.workers}
    with ray_cluster(LOCAL):
        for _ in range(options.rounds):
            for count, measured in rounds.items():
                job = Job(settings, tuple(range(options.images)), Format.PNG, 1)
                alone = apart(factory, job, count)
                job = Job(settings, tuple(range(options.images * count)), Format.PNG, 1)
                pool = RayPool(factory, count, Needs(), _IN_FLIGHT)
                measured.append((alone, *timed(pool, job, len(job.seeds) // 5)))
                print(count, measured[-1], file=sys.stderr)  # noqa: T201
    report(rounds)


def report(rounds: dict[int, list[tuple[float, float, float]]]) -> None:
    """Print the table."""
    lines = [
        "| Workers | Processes apart, images/s | Ray workers, images/s | Ratio | Ray costs an image, ms | Start, s |",
        "|---|---|---|---|---|---|",
    ]
    for count, measured in rounds.items():
        apart, workers, starts = zip(*measured, strict=True)
        ratios = [b / a for a, b in zip(apart, workers, strict=True)]
        costs = [count * 1e3 * (1 / b - 1 / a) for a, b in zip(apart, workers, strict=True)]
        cells = [spread(apart, ".2f"), spread(workers, ".2f"), spread(ratios, ".3f"), spread(costs, ".1f")]
        lines.append(f"| {count} | {' | '.join(cells)} | {spread(starts, '.1f')} |")
    print("\n".join(lines), "\n\n" + machine(), sep="")  # noqa: T201


if __name__ == "__main__":
    main()
