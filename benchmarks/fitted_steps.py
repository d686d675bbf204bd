"""How close runs on fitted steps come to the limit of many steps, beside the grids that need no fit, on the demo model.

    python benchmarks/fitted_steps.py demo/portraits-128/steps-unipc-8.json --cache /tmp/convergence

Writes fitted-steps-<date>.md. The files are those of `ldm fit-steps`; no seed that is measured was fitted. The limit is
DDIM with all 1000 timesteps as in convergence.py (64 seeds take half an hour of one idle core), or with
`--limit unipc-200` 200 steps of unipc on log_snr: a fifth of that, and 55 dB from it (median of 32 seeds, least 46).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from common import machine, spread
from convergence import DEMO, Run, decibels, latents_of
from torch import Tensor

import ldm_backend
from ldm_backend.pipeline import sample_latents
from ldm_backend.sampling.fitted import FittedSteps

LIMITS = {"ddim-1000": (Run("ddim", "leading"), 1000), "unipc-200": (Run("unipc", "log_snr"), 200)}
# What few steps are to reach.
TARGETS = ((Run("unipc", "log_snr"), 20), (Run("ddim", "leading"), 50))
GRIDS = ("log_snr", "trailing")


def rows(model: ldm_backend.LatentDiffusion, files: list[FittedSteps], limit: Tensor, cache: Path | None) -> list[str]:
    """A row for each run: the fitted ones beside their sampler's grids, then the targets."""
    power, seeds = limit.flatten(1).var(dim=1), len(limit)

    def row(name: str, evaluations: int, latents: Tensor) -> str:
        return f"| {name} | {evaluations} | {spread(decibels(power, latents, limit), '.1f')} |"

    lines = []
    for steps in files:
        count = len(steps.timesteps)
        for grid in GRIDS:
            run = Run(steps.sampler, grid)
            lines.append(row(str(run), count, latents_of(model, run, count, seeds, cache)))
        found = sample_latents(model, range(seeds), count, sampler=steps.sampler, grid=steps)
        lines.append(row(f"{steps.sampler}, fitted", count, found))
    return lines + [row(str(run), count, latents_of(model, run, count, seeds, cache)) for run, count in TARGETS]


def report(lines: list[str], files: list[FittedSteps], seeds: int, limit: str) -> str:
    """The Markdown file."""
    timesteps = [f"- {len(each.timesteps)} of {each.sampler}: {', '.join(map(str, each.timesteps))}" for each in files]
    head = f"Demo model, seeds 0 to {seeds - 1}, fp32; the limit is {limit}. Signal over error of the latents, in dB:"
    text = [
        "# Fitted steps",
        "",
        f"{head} variance of the limit over the mean square of the difference. Median (least to most); more is closer.",
        "",
        "| run | evaluations | latents |",
        "|---|---:|---|",
        *lines,
        "",
        "## The fitted timesteps",
        "",
        *timesteps,
        "",
        machine(),
        "",
    ]
    return "\n".join(text)


def main() -> None:
    """Measure, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("files", type=Path, nargs="+", help="of `ldm fit-steps demo/portraits-128`")
    parser.add_argument("--seeds", type=int, default=64, help="pictures of each run (default: 64)")
    parser.add_argument("--limit", choices=LIMITS, default="ddim-1000", help="what runs are compared with")
    parser.add_argument("--cache", type=Path, help="folder that keeps the latents of each run")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder of the table")
    arguments = parser.parse_args()
    for folder in (arguments.cache, arguments.out):
        if folder:
            folder.mkdir(parents=True, exist_ok=True)
    model = ldm_backend.load(DEMO, device="cpu")
    files = [ldm_backend.read_fitted_steps(file) for file in arguments.files]
    with torch.no_grad():
        limit = latents_of(model, *LIMITS[arguments.limit], arguments.seeds, arguments.cache)
        lines = rows(model, files, limit, arguments.cache)
    file = arguments.out / f"fitted-steps-{time.strftime('%Y-%m-%d')}.md"
    file.write_text(report(lines, files, arguments.seeds, arguments.limit))


if __name__ == "__main__":
    main()
