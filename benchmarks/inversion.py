"""How exactly DDIM inversion finds the noise of a picture: invert, sample again, compare the latents.

    python benchmarks/inversion.py --steps 20 50 200 --iterations 1 2 --grids leading trailing

Uses the demo model and portraits that it was not trained on, encoded by its own first stage and not quantised. Writes
a Markdown table. PSNR = 20 log10(peak) - 10 log10(mean squared error), over the latent of one image; peak is that
latent's largest value minus its smallest.
"""

from __future__ import annotations

import argparse
import sys
import time

import numpy as np
import torch
from common import DEMO_SCRIPTS, demo_module
from torch import Tensor

import ldm_backend
from ldm_backend.editing.inversion import evaluations_of, invert_ddim
from ldm_backend.sampling.samplers import sample_ddim
from ldm_backend.views.images import from_uint8

FIRST_PORTRAIT = 10_000_000  # a seed above those of the training


def psnr(found: Tensor, expected: Tensor) -> Tensor:
    """(N,) PSNR in dB of (N, C, H, W) latents; peak is max - min of each expected one."""
    peak = expected.amax((1, 2, 3)) - expected.amin((1, 2, 3))
    return 20.0 * peak.log10() - 10.0 * (found - expected).pow(2).mean((1, 2, 3)).log10()


@torch.no_grad()
def main() -> None:
    """Measure each setting and print a row."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--images", type=int, default=16, help="number of portraits")
    parser.add_argument("--steps", type=int, nargs="+", default=[200])
    parser.add_argument("--iterations", type=int, nargs="+", default=[1])
    parser.add_argument("--grids", nargs="+", default=["leading"])
    args = parser.parse_args()
    model = ldm_backend.load(DEMO_SCRIPTS / "portraits-128", device="cpu")
    draw_portrait = demo_module("portraits").draw_portrait
    portraits = np.stack([draw_portrait(FIRST_PORTRAIT + index) for index in range(args.images)])
    x_0 = model.first_stage.encode(from_uint8(portraits))
    write = sys.stdout.write
    write("| grid | steps | iterations | evaluations | PSNR, least | PSNR, median | std of x_T | seconds |\n")
    write("|---|---|---|---|---|---|---|---|\n")
    for grid in args.grids:
        for steps in args.steps:
            for iterations in args.iterations:
                pairs = model.schedule.timesteps(steps, grid)
                started = time.monotonic()
                x_T = invert_ddim(model.unet, x_0, model.schedule, pairs, iterations)
                seconds = time.monotonic() - started
                result = psnr(sample_ddim(model.unet, x_T, model.schedule, pairs), x_0)
                write(
                    f"| {grid} | {steps} | {iterations} | {evaluations_of(steps, iterations)} | {result.min():.1f} | "
                    f"{result.median():.1f} | {x_T.std():.3f} | {seconds:.0f} |\n"
                )
                sys.stdout.flush()


if __name__ == "__main__":
    main()
