"""What the graph costs: a whole picture through a real ComfyUI with previews on, beside the bare backend.

    python benchmarks/host_overhead.py --steps 200

Random weights of the real model's size, fp32, CPU. The same seeds go through `ldm_backend.generate` in a process of its
own and through the host's /prompt (loader, noise, DDIM, decode, Save Image), in turn, never at the same time; a
warm-up of each is not counted. The host keeps the model between prompts, as it does for a user. Prints the table that
is kept in results/. Needs Linux and the private host (`make host`).
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from common import machine, scratch_weights, spread
from speed_sides import SEED, Worker

from ldm_headless import PACK_ROOT, ComfyClient, PrivateHost, find_host

WEIGHTS = "models/ldm/weights"  # in the host's base folder


def prompt(seed: int, steps: int) -> dict[str, Any]:
    """The core graph in API format; another seed each time, or the host would answer from its cache."""

    def node(class_type: str, **inputs: Any) -> dict[str, Any]:
        return {"class_type": class_type, "inputs": inputs}

    return {
        "1": node("LDMCheckpointLoader", checkpoint="weights"),
        "2": node("LDMLatentNoise", seed=seed, width=256, height=256, batch_size=1),
        "3": node("LDMDDIMSampler", model=["1", 0], latent=["2", 0], steps=steps, eta=0.0, grid="leading"),
        "4": node("LDMVQDecode", vae=["1", 1], latent=["3", 0]),
        "5": node("SaveImage", images=["4", 0], filename_prefix="overhead"),
    }


def through_host(client: ComfyClient, seed: int, steps: int) -> tuple[float, int]:
    """Seconds from submitting to the end, and how many previews arrived."""
    previews = 0

    def count(event: Any) -> None:
        nonlocal previews
        previews += event.type == "preview"

    start = time.perf_counter()
    client.follow(client.submit(prompt(seed, steps)), count)
    return time.perf_counter() - start, previews


def measure(folder: Path, steps: int, pairs: int) -> list[str]:
    """One line for each pair, then the ratio."""
    arguments = ("--preview-method", "latent2rgb")
    bare, graph, previews = [], [], 0
    with (
        Worker("ours", folder / WEIGHTS, None) as worker,
        PrivateHost(find_host(), {"comfyui-ldm": PACK_ROOT}, folder, arguments=arguments) as host,
        ComfyClient(host.url) as client,
    ):
        worker.run("image", 1)
        through_host(client, SEED, 1)
        for number in range(pairs):
            for side in ("bare", "graph") if number % 2 == 0 else ("graph", "bare"):
                if side == "bare":
                    bare.append(worker.run("image", steps).seconds)
                else:
                    seconds, previews = through_host(client, SEED + 1 + number, steps)
                    graph.append(seconds)
    ratios = [with_host / alone for with_host, alone in zip(graph, bare, strict=True)]
    return [
        f"| | bare backend, s | graph with previews, s | graph / bare | previews of {steps} steps |",
        "|---|---|---|---|---:|",
        f"| whole image, {steps} steps, {pairs} pairs | {spread(bare, '.2f')} | {spread(graph, '.2f')} | "
        f"{spread(ratios, '.3f')} | {previews} |",
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--pairs", type=int, default=3)
    arguments = parser.parse_args()
    with scratch_weights(WEIGHTS) as folder:
        lines = measure(folder, arguments.steps, arguments.pairs)
    print("\n".join([*lines, "", machine()]))  # noqa: T201 - its whole output


if __name__ == "__main__":
    main()
