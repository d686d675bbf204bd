"""Weights mapped from their file beside weights copied into memory (LDM_COPY_WEIGHTS=1): what the safer way costs.

    python benchmarks/copied_weights.py --pairs 15

Prints a Markdown table, and each pair on standard error. Needs Linux, 5 GB of memory, 1.4 GB in the temporary folder
and `pip install -e '.[bench]'`. Random weights of the real size are in the page cache when the clock starts. Each
measurement is a fresh process; the two ways take turns and swap places, and a difference is that of two neighbours in
time.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from common import MIB, machine, resident, scratch_weights, spread

WAYS = {"mapped": "0", "copied": "1"}
MEASURES = {
    "load": ("load, s", ".3f"),
    "read": ("all weights read once afterwards, s", ".3f"),
    "own": ("memory of its own, MiB above imports", ".0f"),
    "peak": ("peak memory with the pages of files, MiB above imports", ".0f"),
}


def measure(folder: Path) -> dict[str, float]:
    """Import, load, read. Memory of its own is what the system cannot take back and read again from a file."""
    import ldm_backend
    import ldm_backend.pipeline

    own, all_of_it = resident("RssAnon"), resident()
    start = time.perf_counter()
    model = ldm_backend.load(folder, device="cpu")
    loaded = time.perf_counter()
    for weights in (*model.unet.parameters(), *model.first_stage.parameters()):
        weights.numpy().max()
    read = time.perf_counter()
    return {
        "load": loaded - start,
        "read": read - loaded,
        "own": resident("RssAnon") - own,
        "peak": resident("VmHWM") - all_of_it,
    }


def run(way: str, folder: Path) -> dict[str, float]:
    """The measurement in a fresh process."""
    done = subprocess.run(
        [sys.executable, __file__, "--measure", str(folder)],
        env=os.environ | {"LDM_COPY_WEIGHTS": WAYS[way]},
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def compare(folder: Path, pairs: int) -> list[dict[str, dict[str, float]]]:
    """Results of each pair by way."""
    run("copied", folder)  # imports are compiled, files are in the page cache
    results = []
    for number in range(pairs):
        order = tuple(WAYS) if number % 2 == 0 else tuple(WAYS)[::-1]
        results.append({way: run(way, folder) for way in order})
        sys.stderr.write(json.dumps(results[-1]) + "\n")
    return results


def report(results: list[dict[str, dict[str, float]]], size: float) -> str:
    """The Markdown that is printed."""
    lines = [
        f"{len(results)} pairs, taking turns; median (least to most). Files: {size:.0f} MiB.",
        "",
        "| | mapped | copied | copied - mapped |",
        "|---|---|---|---|",
    ]
    for key, (name, form) in MEASURES.items():
        mapped, copied = ([result[way][key] for result in results] for way in WAYS)
        more = [second - first for first, second in zip(mapped, copied, strict=True)]
        lines.append(f"| {name} | {spread(mapped, form)} | {spread(copied, form)} | {spread(more, form)} |")
    return "\n".join([*lines, "", machine()])


def main() -> None:
    """Compare, or be one of the measured processes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pairs", type=int, default=15, help="measurements of each way (default: 15)")
    parser.add_argument("--measure", metavar="FOLDER", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        sys.stdout.write(json.dumps(measure(Path(arguments.measure))) + "\n")
        return
    with scratch_weights() as folder:
        size = sum(file.stat().st_size for file in folder.rglob("*.safetensors")) / MIB
        results = compare(folder, arguments.pairs)
    sys.stdout.write(report(results, size) + "\n")


if __name__ == "__main__":
    main()
