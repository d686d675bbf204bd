"""DeepCache on the demo model: what it saves and what it changes.

    python benchmarks/feature_cache.py --runs 5

Prints a Markdown table. Each run samples the same seeds without and with each cache, one after the other, so a ratio is
that of two neighbours in time. On a machine that does other work too, set OMP_NUM_THREADS=1: threads that wait for each
other measure the other work. PSNR is that of the decoded uint8 pictures to the uncached ones.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np
from common import machine, psnr, spread

import ldm_backend

DEMO = Path(__file__).parents[1] / "demo" / "portraits-128"
SEEDS = (10, 11)
CACHES = [(interval, depth) for interval in (2, 3, 5, 10) for depth in (1, 2, 3, 4)]


def draw(model: ldm_backend.LatentDiffusion, steps: int, interval: int, depth: int) -> tuple[float, np.ndarray]:
    """Seconds for all seeds as one batch, decoding included, and their pictures."""
    start = time.perf_counter()
    images = ldm_backend.generate(model, SEEDS, steps=steps, cache_interval=interval, cache_depth=depth)
    return time.perf_counter() - start, images


def table(model: ldm_backend.LatentDiffusion, steps: int, runs: int) -> list[str]:
    """One row for each cache."""
    draw(model, steps, 1, 1)  # warm up
    lines = ["| interval | depth | times as fast | PSNR, dB |", "|---|---|---|---|"]
    for interval, depth in CACHES:
        ratios: list[float] = []
        quality: list[float] = []
        for _ in range(runs):
            plain, exact = draw(model, steps, 1, 1)
            seconds, images = draw(model, steps, interval, depth)
            ratios.append(plain / seconds)
            quality = psnr(images, exact)
        lines.append(f"| {interval} | {depth} | {spread(ratios, '.2f')} | {spread(quality, '.1f')} |")
    return lines


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=5, help="pairs of runs for each row (default: 5)")
    parser.add_argument("--steps", type=int, default=50, help="DDIM steps (default: 50)")
    arguments = parser.parse_args()
    model = ldm_backend.load(DEMO, device="cpu")
    head = f"{arguments.runs} pairs a row, {arguments.steps} steps, {len(SEEDS)} images as a batch, decoding included; "
    lines = [head + "median (least to most), speed over the pairs, PSNR over the images.", ""]
    lines += [*table(model, arguments.steps, arguments.runs), "", machine()]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
