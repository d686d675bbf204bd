"""What a shorter number format of the UNet saves and changes, and what one of the first stage changes.

    python benchmarks/precision.py

Time: an evaluation of the real model's size with random weights, 64x64 latent, batch 1, beside fp32 in turn. Pictures:
PSNR to those of fp32, demo model, 8 seeds. Prints the table that is kept in results/. Everything on one device, CUDA
where there is one. fp16 on a CPU is emulated and left out there; so is bf16 on CPUs without instructions for it, where
an evaluation takes a minute: `--pairs 0` leaves the times out, `--first-stage` all but the first stage's pictures.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from common import machine, psnr, scratch_weights, spread
from speed_sides import DEMO, TIMESTEP, latents

import ldm_backend

SEEDS = range(1, 9)
SOLVERS = {"ddim, 50 steps": ("ddim", "leading", 50), "unipc, 20 steps": ("unipc", "log_snr", 20)}


def evaluation(model: ldm_backend.LatentDiffusion) -> float:
    """Seconds of one evaluation."""
    x = latents(1).to(model.device)
    start = time.perf_counter()
    model.unet(x, TIMESTEP).sum().item()  # the number waits for the device
    return time.perf_counter() - start


def times(folder: Path, names: list[str], pairs: int) -> dict[str, list[tuple[float, float]]]:
    """For each format: seconds in fp32 and in it, of neighbours in time."""
    exact = ldm_backend.load(folder)
    found = {}
    for name in names:
        short = ldm_backend.load(folder, precision=name)
        evaluation(exact)  # warm-ups
        evaluation(short)
        found[name] = [(evaluation(exact), evaluation(short)) for _ in range(pairs)]
    return found


def pictures(choice: dict[str, str], sampler: str, grid: str, steps: int) -> list[float]:
    """PSNR of each seed's picture; `choice` are arguments of `load`."""
    exact, short = (
        ldm_backend.generate(ldm_backend.load(DEMO, **formats), SEEDS, steps, sampler=sampler, grid=grid)  # pyright: ignore[reportArgumentType]
        for formats in ({}, choice)
    )
    return psnr(short, exact)


def time_table(names: list[str], pairs: int) -> list[str]:
    """Markdown."""
    with scratch_weights() as folder:
        seconds = times(folder, names, pairs)
    lines = ["| one evaluation | fp32, s | it, s | fp32 / it |", "|---|---|---|---|"]
    for name in names:
        exact, short = zip(*seconds[name], strict=True)
        ratios = [one / other for one, other in seconds[name]]
        lines.append(
            f"| {name}, {pairs} pairs | {spread(exact, '.3f')} | {spread(short, '.3f')} | {spread(ratios, '.2f')} |"
        )
    return [*lines, ""]


def picture_table(names: list[str]) -> list[str]:
    """Markdown."""
    heads = [f"PSNR of pictures, {solver}, dB" for solver in SOLVERS]
    lines = [f"| {len(SEEDS)} seeds | " + " | ".join(heads) + " |", "|---|" + "---|" * len(heads)]
    rows = {f"UNet in {name}": {"precision": name} for name in names}
    for name, choice in (rows | {"first stage in bf16": {"first_stage_precision": "bf16"}}).items():
        quality = [spread(pictures(choice, *settings), ".1f") for settings in SOLVERS.values()]
        lines.append(f"| {name} | " + " | ".join(quality) + " |")
    return [*lines, ""]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--first-stage", action="store_true")
    arguments = parser.parse_args()
    has_gpu = torch.cuda.is_available()
    names = [] if arguments.first_stage else ["bf16", "fp16"] if has_gpu else ["bf16"]
    lines = [*(time_table(names, arguments.pairs) if names and arguments.pairs else []), *picture_table(names)]
    print("\n".join([*lines, f"{torch.cuda.get_device_name() if has_gpu else 'CPU'}. {machine()}"]))  # noqa: T201


if __name__ == "__main__":
    main()
