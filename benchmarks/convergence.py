"""How close each solver comes to the limit of many steps, by the number of evaluations, on the demo model.

    python benchmarks/convergence.py --cache /tmp/convergence --out benchmarks/results
    python benchmarks/convergence.py --cache /tmp/convergence --defaults

Writes convergence-<date>.md and .png. The limit is DDIM with all 1000 timesteps, eta 0: the model card's own sampler
with as many steps as there are. From scratch it takes about 20 minutes of two idle CPU cores; `--cache` keeps what each
run drew, so that an interrupted run goes on and a changed plot costs nothing. Needs `pip install -e '.[bench]'`.

With `--defaults` it prints one table: each sampler at the grid that nodes and `ldm generate` take by themselves, beside
the two grids that were their defaults before.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from common import machine, spread
from torch import Tensor

import ldm_backend
from ldm_backend.sampling.noise import draw_noise
from ldm_backend.sampling.samplers import AUTO, SAMPLERS, adds_noise, grid_of, sample
from ldm_backend.sampling.schedule import Pairs

DEMO = Path(__file__).parents[1] / "demo" / "portraits-128"
EVALUATIONS = (5, 8, 10, 15, 20, 25, 30, 50, 100, 200)
BASELINE_EVALUATIONS = 100
DEFAULT_STEPS = 20


@dataclass(frozen=True)
class Run:
    """A solver on a grid, up to a number of evaluations."""

    sampler: str
    grid: str
    most: int = 200

    def __str__(self) -> str:
        return f"{self.sampler}, {self.grid}"


# Samplers that add noise have no picture in common with the limit and are left out. So is the grid "compvis": it is
# "leading", moved by one timestep. The fast solvers on "trailing" gain little after 50 evaluations, since their last
# step is too long there, and are not followed further.
RUNS = (
    Run("ddim", "leading"),
    Run("ddim", "trailing"),
    Run("plms", "trailing", most=50),
    Run("plms", "log_snr"),
    Run("dpmpp_2m", "trailing", most=50),
    Run("dpmpp_2m", "log_snr"),
    Run("dpmpp_3m", "log_snr"),
    Run("unipc", "trailing", most=50),
    Run("unipc", "log_snr"),
)
BASELINE = RUNS[0]


def latents_of(
    model: ldm_backend.LatentDiffusion, run: Run, evaluations: int, seeds: int, cache: Path | None
) -> Tensor:
    """(seeds, C, H, W) latents of seeds 0, 1, ... for that many evaluations, from the cache if it has them."""
    file = cache / f"{run.sampler}-{run.grid}-{evaluations}-{seeds}.pt" if cache else None
    if file and file.is_file():
        return torch.load(file, weights_only=True)
    steps = evaluations - 1 if run.sampler == "plms" else evaluations  # plms evaluates twice in its first step
    latents = drawn(model, run.sampler, model.schedule.timesteps(steps, run.grid), seeds)
    if file:
        torch.save(latents, file.with_suffix(".part"))
        file.with_suffix(".part").rename(file)
    return latents


def drawn(model: ldm_backend.LatentDiffusion, sampler: str, pairs: Pairs, seeds: int) -> Tensor:
    """(seeds, C, H, W) latents of seeds 0, 1, ... on these timesteps."""
    size = model.config.unet.sample_size
    x_T = draw_noise(range(seeds), (model.config.unet.in_channels, size, size))
    # In batches of 16: larger ones are slower on a CPU.
    return torch.cat([sample(sampler, model.unet, x, model.schedule, pairs) for x in x_T.split(16)])


@torch.no_grad()
def decoded(model: ldm_backend.LatentDiffusion, latents: Tensor) -> Tensor:
    """(N, 3, H, W) pictures in [-1, 1], quantised and decoded as LDM VQ Decode does."""
    return torch.cat([model.first_stage.decode(latent) for latent in latents.split(1)]).clamp(-1.0, 1.0)


def decibels(power: Tensor | float, found: Tensor, limit: Tensor) -> list[float]:
    """Of each image: 10 log10 of `power` over the mean square of the difference."""
    error = (found - limit).square().flatten(1).mean(dim=1).clamp_min(1e-12)
    return (10.0 * torch.log10(power / error)).tolist()


Distances = dict[tuple[Run, int], list[float]]


def measure(seeds: int, cache: Path | None) -> tuple[Distances, Distances]:
    """Distance to the limit of pictures and latents, in dB, for each seed."""
    model = ldm_backend.load(DEMO, device="cpu")
    limit = latents_of(model, Run("ddim", "leading"), model.schedule.num_train_timesteps, seeds, cache)
    pictures, power = decoded(model, limit), limit.flatten(1).var(dim=1)
    images: Distances = {}
    latents: Distances = {}
    for evaluations in EVALUATIONS:
        for run in (run for run in RUNS if evaluations <= run.most):
            found = latents_of(model, run, evaluations, seeds, cache)
            latents[run, evaluations] = decibels(power, found, limit)
            images[run, evaluations] = decibels(4.0, decoded(model, found), pictures)  # 4: the range of 2, squared
        sys.stderr.write(f"{evaluations} evaluations: done\n")
    return images, latents


def defaults_table(seeds: int, cache: Path | None) -> list[str]:
    """Each sampler with DEFAULT_STEPS at its own grid, "leading" and "log_snr"; PSNR as in `measure`."""
    model = ldm_backend.load(DEMO, device="cpu")

    def pictures_of(run: Run, evaluations: int) -> Tensor:
        return decoded(model, latents_of(model, run, evaluations, seeds, cache))

    limit = pictures_of(Run("ddim", "leading"), model.schedule.num_train_timesteps)
    lines = ["| sampler | steps | auto is | auto | leading | log_snr |", "|---|---:|---|---|---|---|"]
    for sampler in SAMPLERS:
        own = grid_of(model.schedule, AUTO, sampler)
        cells = ["adds noise: no picture in common"] * 3
        if not adds_noise(sampler):
            runs = (Run(sampler, own), Run(sampler, "leading"), Run(sampler, "log_snr"))
            evaluations = DEFAULT_STEPS + (sampler == "plms")
            cells = [spread(decibels(4.0, pictures_of(run, evaluations), limit), ".1f") for run in runs]
        lines.append(f"| {sampler} | {DEFAULT_STEPS} | {own} | " + " | ".join(cells) + " |")
    return lines


def table(distances: Distances) -> list[str]:
    """Rows of evaluations, columns of runs; median (least to most)."""
    lines = ["| evaluations | " + " | ".join(map(str, RUNS)) + " |", "|---:|" + "---|" * len(RUNS)]
    for evaluations in EVALUATIONS:
        cells = [spread(distances[run, evaluations], ".1f") if evaluations <= run.most else "" for run in RUNS]
        lines.append(f"| {evaluations} | " + " | ".join(cells) + " |")
    return lines


def medians(distances: Distances, run: Run) -> dict[int, float]:
    """Median over the seeds by evaluations, as far as the run goes."""
    return {n: statistics.median(distances[run, n]) for n in EVALUATIONS if n <= run.most}


def needed(distances: Distances, run: Run) -> str:
    """Fewest evaluations from which the median is at least that of the baseline."""
    target = statistics.median(distances[BASELINE, BASELINE_EVALUATIONS])
    enough = [n for n, median in medians(distances, run).items() if median >= target]
    return str(min(enough)) if enough else f"more than {run.most}"


def report(images: Distances, latents: Distances, seeds: int, plot: str) -> str:
    """The Markdown file."""
    baseline = f"{BASELINE} at {BASELINE_EVALUATIONS}"
    lines = [
        "# Convergence to the picture of 1000 DDIM steps",
        "",
        f"Demo model, seeds 0 to {seeds - 1}, fp32. Median (least to most) over the seeds, in dB; more is closer.",
        "",
        f"![Distance to the limit by evaluations]({plot})",
        "",
        f"## Fewest evaluations that are as close as {baseline} (medians)",
        "",
        "| run | picture | latents |",
        "|---|---:|---:|",
        *(f"| {run} | {needed(images, run)} | {needed(latents, run)} |" for run in RUNS),
        "",
        "## Pictures: PSNR, dB",
        "",
        *table(images),
        "",
        "## Latents: variance of the limit over the mean square of the difference, dB",
        "",
        *table(latents),
        "",
        machine(),
        "",
    ]
    return "\n".join(lines)


def draw_plot(images: Distances, latents: Distances, file: Path) -> None:
    """Two panels, latents and pictures: a colour for each solver, a line style for each grid."""
    # Here, so that measuring needs no matplotlib, which only the extra `bench` installs.
    import matplotlib as mpl  # pyright: ignore[reportMissingImports]

    mpl.use("Agg")
    import matplotlib.pyplot as plt  # pyright: ignore[reportMissingImports]

    colours = {
        "ddim": "0.35",
        "plms": "tab:brown",
        "dpmpp_2m": "tab:blue",
        "dpmpp_3m": "tab:purple",
        "unipc": "tab:red",
    }
    styles = {"log_snr": "-", "trailing": "--", "leading": "-."}
    figure, panels = plt.subplots(1, 2, figsize=(13, 6), sharex=True)
    for axes, distances, title in (
        (panels[0], latents, "Latents: signal over error, dB"),
        (panels[1], images, "Decoded pictures: PSNR, dB"),
    ):
        for run in RUNS:
            points = medians(distances, run)
            axes.plot(
                list(points), list(points.values()), styles[run.grid], color=colours[run.sampler], label=str(run),
                marker="o", markersize=3.5, linewidth=1.8,
            )  # fmt: skip
        target = statistics.median(distances[BASELINE, BASELINE_EVALUATIONS])
        axes.axhline(target, color="0.6", linewidth=0.8)
        axes.annotate(
            f"{BASELINE} at {BASELINE_EVALUATIONS}", (EVALUATIONS[0], target), color="0.4", fontsize=9,
            xytext=(0, 3), textcoords="offset points",
        )  # fmt: skip
        axes.set(xscale="log", xlabel="evaluations of the network", title=title)
        axes.set_xticks(EVALUATIONS, [str(n) for n in EVALUATIONS])
        axes.minorticks_off()
        axes.grid(alpha=0.25)
    panels[1].legend(loc="lower right", fontsize=9, handlelength=3.5)
    figure.suptitle("Distance to the limit of 1000 DDIM steps, demo model, median over the seeds (higher is closer)")
    figure.tight_layout()
    figure.savefig(file, dpi=110)


def main() -> None:
    """Measure, then write the table and the plot."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seeds", type=int, default=32, help="pictures of each run (default: 32)")
    parser.add_argument("--cache", type=Path, help="folder that keeps the latents of each run")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder of the table and the plot")
    parser.add_argument("--defaults", action="store_true", help="print the table of the samplers' own grids instead")
    arguments = parser.parse_args()
    for folder in (arguments.cache, arguments.out):
        if folder:
            folder.mkdir(parents=True, exist_ok=True)
    if arguments.defaults:
        sys.stdout.write("\n".join(defaults_table(arguments.seeds, arguments.cache)) + "\n")
        return
    images, latents = measure(arguments.seeds, arguments.cache)
    name = f"convergence-{time.strftime('%Y-%m-%d')}"
    draw_plot(images, latents, arguments.out / f"{name}.png")
    (arguments.out / f"{name}.md").write_text(report(images, latents, arguments.seeds, f"{name}.png"))


if __name__ == "__main__":
    main()
