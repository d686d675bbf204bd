"""Images a second by the number sampled together, on this machine: what `ldm generate --batch auto` goes by.

    python benchmarks/batch.py [--checkpoint FOLDER] [--batches 1 2 4 8] [--rounds 5] [--out FOLDER]

Without a checkpoint: the demo, and random weights of the real model's size. One round evaluates the UNet once for each
batch size, in turn, so that all sizes meet the same load; an image's share is that time by the size.
"""

from __future__ import annotations

import argparse
import statistics
import time
from contextlib import ExitStack
from pathlib import Path

import torch
from common import machine, scratch_weights, spread

import ldm_backend

DEMO = Path(__file__).parents[1] / "demo" / "portraits-128"


@torch.inference_mode()
def shares(model: ldm_backend.LatentDiffusion, batches: list[int], rounds: int) -> dict[int, list[float]]:
    """Seconds for each image and evaluation, by batch size."""
    side, channels = model.config.unet.sample_size, model.config.unet.in_channels
    inputs = {n: torch.randn(n, channels, side, side, device=model.device) for n in batches}
    found: dict[int, list[float]] = {n: [] for n in batches}
    for index in range(rounds + 1):
        for n, x in inputs.items():
            start = time.perf_counter()
            model.unet(x, 500.0)
            if model.device.type == "cuda":
                torch.cuda.synchronize()
            if index:  # the first round prepares kernels
                found[n].append((time.perf_counter() - start) / n)
    return found


def table(name: str, found: dict[int, list[float]]) -> str:
    """Markdown."""
    least = min(found)
    one = statistics.median(found[least])
    rows = [
        f"| {n} | {spread([1000 * value for value in values], '.1f')} | {one / statistics.median(values):.3f} |"
        for n, values in found.items()
    ]
    head = f"## {name}\n\n| batch | ms for an image and evaluation | rate, batch {least} is 1 |\n|---:|---|---:|"
    return "\n".join([head, *rows])


def main() -> None:
    """Print the tables, and write them where asked."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", type=Path)
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 2, 4, 8])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, help="folder for batch-<date>.md")
    given = parser.parse_args()
    with ExitStack() as stack:
        models = {given.checkpoint.name: given.checkpoint} if given.checkpoint else {"Demo": DEMO}
        if not given.checkpoint:
            models["Random weights of the real model's size"] = stack.enter_context(scratch_weights())
        tables = [
            table(name, shares(ldm_backend.load(path), given.batches, given.rounds)) for name, path in models.items()
        ]
    text = (
        "\n\n".join(
            [
                "# Images sampled together",
                f"Made by `python benchmarks/batch.py`, {torch.get_num_threads()} thread(s). {machine()}",
                *tables,
            ]
        )
        + "\n"
    )
    print(text)  # noqa: T201 - what it is for
    if given.out:
        (given.out / f"batch-{time.strftime('%Y-%m-%d')}.md").write_text(text)


if __name__ == "__main__":
    main()
