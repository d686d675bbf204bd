"""Loading the real model's size, side by side with diffusers: time, time to the first evaluation, memory.

    python benchmarks/load.py --runs 5

Writes a Markdown table. Needs Linux, 3 GB of memory, 1.4 GB in the temporary folder and `pip install -e '.[bench]'`.
Random weights are written once by diffusers' own save_pretrained and are in the page cache when the clock starts. Each
measurement is a fresh process; the two sides take turns, and a ratio is that of two neighbours in time.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import MIB, SIDES, forget_peak, machine, resident, scratch_weights, spread

# In the measured process


def import_ours() -> Callable[[Path], Callable[[Any], Any]]:
    """What a program imports to load with this project."""
    import ldm_backend
    import ldm_backend.pipeline

    def load(folder: Path) -> Callable[[Any], Any]:
        model = ldm_backend.load(folder, device="cpu")
        return lambda x: model.unet(x, 500)

    return load


def import_diffusers() -> Callable[[Path], Callable[[Any], Any]]:
    """What a program imports to load with diffusers."""
    from diffusers.models.autoencoders.vq_model import VQModel
    from diffusers.models.unets.unet_2d import UNet2DModel

    def load(folder: Path) -> Callable[[Any], Any]:
        unet, vq = (
            cls.from_pretrained(folder, subfolder=part, local_files_only=True)
            for cls, part in ((UNet2DModel, "unet"), (VQModel, "vqvae"))
        )
        return lambda x, keep=vq: unet(x, 500).sample  # both networks stay, as in a program that decodes later

    return load


def measure(side: str, folder: Path) -> dict[str, float]:
    """Import, load, evaluate once, then once more."""
    load = import_ours() if side == "ours" else import_diffusers()
    import torch

    baseline = resident()
    start = time.perf_counter()
    model = load(folder)
    loaded = time.perf_counter()
    after_load = resident()
    x = torch.zeros(1, 3, 64, 64)
    with torch.no_grad():
        model(x)
        evaluated = time.perf_counter()
        peak = resident("VmHWM")
        if "--working-set" in sys.argv:
            return {"working_set": working_set(model, x)}
    return {
        "load": loaded - start,
        "evaluation": evaluated - loaded,
        "after_load": after_load - baseline,
        "peak": peak - baseline,
    }


def working_set(model: Callable[[Any], Any], x: Any) -> float:
    """Memory that a later evaluation takes for a while, beyond what stays."""
    forget_peak()
    before = resident()
    model(x)
    return resident("VmHWM") - before


# In the process that compares


def run(*arguments: str) -> tuple[float, str]:
    """Wall time and output of a fresh process of this file."""
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, __file__, *arguments], env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    return time.perf_counter() - start, done.stdout


def compare(folder: Path, runs: int) -> tuple[list[dict[str, dict[str, float]]], float]:
    """Results of each run by side, and the working set of diffusers' evaluation in MiB."""
    working = json.loads(run("--measure", "diffusers", str(folder), "--working-set")[1])["working_set"]
    run("--measure", "ours", str(folder))  # imports are compiled, files are in the page cache
    results = []
    for number in range(runs):
        result = {}
        for side in SIDES if number % 2 == 0 else SIDES[::-1]:
            wall, output = run("--measure", side, str(folder))
            result[side] = json.loads(output.splitlines()[-1]) | {"process": wall}
        results.append(result)
    return results, working


def row(name: str, results: list[dict[str, dict[str, float]]], key: str, form: str, target: str) -> str:
    """One measure as a line of the table."""
    ours, theirs = ([result[side][key] for result in results] for side in SIDES)
    ratios = [mine / their for mine, their in zip(ours, theirs, strict=True)]
    return f"| {name} | {spread(ours, form)} | {spread(theirs, form)} | {spread(ratios, '.2f')} | {target} |"


def report(results: list[dict[str, dict[str, float]]], working: float, size: float) -> str:
    """The Markdown that is printed."""
    allowed = 1.15 * size + working
    peaks = [result["ours"]["peak"] / allowed for result in results]
    lines = [
        f"{len(results)} runs of each side, taking turns; median (least to most). Files: {size:.0f} MiB.",
        "",
        "| | ours | diffusers | ours / diffusers | target |",
        "|---|---|---|---|---|",
        row("load, s", results, "load", ".3f", "at most 0.2 s"),
        row("first evaluation of the UNet, s", results, "evaluation", ".2f", ""),
        row("process: import, load, evaluate once, s", results, "process", ".2f", "at most 0.80 of diffusers"),
        row("memory after load, MiB above imports", results, "after_load", ".0f", ""),
        row("peak memory, MiB above imports", results, "peak", ".0f", f"at most {allowed:.0f}"),
        "",
        f"Peak memory is allowed 1.15 times the files and diffusers' working set of an evaluation ({working:.0f} MiB); "
        f"ours is {spread(peaks, '.2f')} of that.",
        "",
        machine(),
    ]
    return "\n".join(lines)


def main() -> None:
    """Compare, or be one of the measured processes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=5, help="measurements of each side (default: 5)")
    parser.add_argument("--measure", nargs=2, metavar=("SIDE", "FOLDER"), help=argparse.SUPPRESS)
    parser.add_argument("--working-set", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        sys.stdout.write(json.dumps(measure(arguments.measure[0], Path(arguments.measure[1]))) + "\n")
    else:
        with scratch_weights() as folder:
            size = sum(file.stat().st_size for file in folder.rglob("*.safetensors")) / MIB
            results, working = compare(folder, arguments.runs)
        sys.stdout.write(report(results, working, size) + "\n")


if __name__ == "__main__":
    main()
