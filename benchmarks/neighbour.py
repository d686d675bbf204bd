"""What this pack costs those who do not use it: the start of ComfyUI, and a prompt of core nodes, with and without it.

    python benchmarks/neighbour.py --pairs 5

Each pair is two fresh private ComfyUIs, one after the other, in an order that alternates; one warm-up pair is not
counted. Prints the table that is kept in results/. Needs the private host (`make host`).
"""

from __future__ import annotations

import argparse
import statistics
import time
from dataclasses import dataclass
from typing import Any

from common import machine, spread

from ldm_headless import PACK_ROOT, ComfyClient, PrivateHost, find_host

PROMPTS = 12


@dataclass(frozen=True)
class Cost:
    """Seconds until the host answers, and the median seconds of a prompt."""

    start: float
    prompt: float


def core_prompt(color: int) -> dict[str, Any]:
    """An image, blurred and inverted; another colour each time, or the host would answer from its cache."""

    def node(class_type: str, **inputs: Any) -> dict[str, Any]:
        return {"class_type": class_type, "inputs": inputs}

    return {
        "1": node("EmptyImage", width=512, height=512, batch_size=1, color=color),
        "2": node("ImageBlur", image=["1", 0], blur_radius=15, sigma=4.0),
        "3": node("ImageInvert", image=["2", 0]),
        "4": node("PreviewImage", images=["3", 0]),
    }


def measure(with_pack: bool) -> Cost:
    """One fresh host."""
    packs = {"comfyui-ldm": PACK_ROOT} if with_pack else {}
    begin = time.perf_counter()
    with PrivateHost(find_host(), packs) as host, ComfyClient(host.url) as client:
        started = time.perf_counter() - begin
        seconds = []
        for color in range(PROMPTS):
            begin = time.perf_counter()
            client.follow(client.submit(core_prompt(color)))
            seconds.append(time.perf_counter() - begin)
    return Cost(started, statistics.median(seconds[1:]))


def table(without: list[Cost], with_pack: list[Cost]) -> list[str]:
    """Markdown: median (least to most), and the difference of pairs."""
    lines = ["| | without the pack, s | with it, s | difference of a pair, s |", "|---|---|---|---|"]
    for title, name in (("start of ComfyUI", "start"), ("prompt of core nodes", "prompt")):
        before, after = ([getattr(cost, name) for cost in side] for side in (without, with_pack))
        differences = [late - early for early, late in zip(before, after, strict=True)]
        lines.append(f"| {title} | {spread(before, '.3f')} | {spread(after, '.3f')} | {spread(differences, '+.3f')} |")
    return lines


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pairs", type=int, default=5)
    arguments = parser.parse_args()
    costs: dict[bool, list[Cost]] = {False: [], True: []}
    for number in range(arguments.pairs + 1):
        for with_pack in (False, True) if number % 2 == 0 else (True, False):
            costs[with_pack].append(measure(with_pack))
    print("\n".join([*table(costs[False][1:], costs[True][1:]), "", machine()]))  # noqa: T201 - its whole output


if __name__ == "__main__":
    main()
