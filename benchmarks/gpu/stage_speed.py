"""Stage 4: speed beside diffusers, in one run and in turn: an evaluation, a decode, whole pictures."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

import torch
from peers import Diffusers, Ours, Side
from record import spread
from stage import Report, end, in_turn, latents, milliseconds, model_folder, seconds, start

BATCHES, DRY_BATCHES = (1, 64, 16, 4), (1, 2)  # the targets first: the time may run out
COMPILED_AT = (1, 64, *DRY_BATCHES)  # trying out kernels takes a minute or more for each size
STEPS, DRY_STEPS = (20, 200), (2,)
ROUNDS, DRY_ROUNDS = 7, 2
PICTURES_S = 45.0  # seconds that whole pictures of one batch size and number of steps may take
PEER = "diffusers, fp32 eager"


@torch.inference_mode()
def main() -> None:
    """All batch sizes; the sides of a batch size take turns, and each line is written when its part is done."""
    device, report = start("speed")
    dry = device.type == "cpu"
    report.text(
        "In turn, warm-ups not counted. A ratio is diffusers' fp32 eager time over that of the line, round by round. "
        "torch's own flags, so that diffusers' convolutions are TF32 on a card where the flags above say so.",
    )
    with model_folder(device) as folder:
        sides = build(report, folder, device)
        for batch in chosen(DRY_BATCHES if dry else BATCHES):
            able = [side for side in sides if batch in COMPILED_AT or not side.compiled]
            ready = [side for side in able if warm(report, side, batch, device)]
            report.tried(f"evaluation, batch {batch}", lambda s=ready, n=batch: evaluations(report, s, n, device))
            report.tried(f"decode, batch {batch}", lambda s=ready, n=batch: decodes(report, s, n, device))
            for steps in DRY_STEPS if dry else STEPS:
                what = f"pictures, batch {batch}, {steps} steps"
                report.tried(what, lambda s=ready, n=batch, k=steps: pictures(report, s, n, k, device))
    end(report)


def chosen(usual: tuple[int, ...]) -> tuple[int, ...]:
    """The batch sizes of `--batches`, else the usual ones."""
    return tuple(map(int, os.environ.get("LDM_GPU_BATCHES", "").split())) or usual


def build(report: Report, folder: Path, device: torch.device) -> list[Side]:
    """Those that can be built."""
    sides: list[Side] = []
    for what, make in {
        PEER: partial(Diffusers, folder, device, fast=False),
        "the real peer": partial(Diffusers, folder, device, fast=True),
        "ours, fp32": partial(Ours, folder, device, "fp32"),
        "ours, auto": partial(Ours, folder, device, "auto"),
        "ours, bf16": partial(Ours, folder, device, "bf16", first_stage="bf16"),
        "ours, auto, compiled": partial(Ours, folder, device, "auto", compiled=True),
    }.items():
        report.tried(what, lambda make=make: sides.append(make()))
    return sides


def warm(report: Report, side: Side, batch: int, device: torch.device) -> bool:
    """Compile and try; a side that cannot do this batch size is left out of it, and the stage fails."""
    done = []

    def once() -> None:
        x = latents(batch, side.config, device)
        first = seconds(lambda: side.evaluate(x), device)
        for _ in range(3):  # the first may lay out weights anew, the next is the first of these, the third is recorded
            side.evaluate(x)
        report.row("First evaluation, compiling included", side=side.name, batch=batch, seconds=first)
        done.append(True)

    report.tried(f"{side.name}, batch {batch}", once)
    return bool(done)


def rounds(device: torch.device) -> int:
    """Of the turns."""
    return ROUNDS if device.type == "cuda" else DRY_ROUNDS


def evaluations(report: Report, sides: list[Side], batch: int, device: torch.device) -> None:
    """One evaluation of the UNet."""
    x = latents(batch, sides[0].config, device)
    works = {side.name: partial(side.evaluate, x) for side in sides}
    lines(report, "One evaluation of the UNet", in_turn(works, device, rounds(device)), batch=batch)
    if PEER not in works:
        return
    exact = works[PEER]().double()
    for name, work in works.items():  # guards against comparing different work
        off = float((work().double() - exact).square().mean().sqrt() / exact.square().mean().sqrt())
        report.row("Relative difference to diffusers, fp32 eager", side=name, batch=batch, difference=f"{off:.1e}")


def decodes(report: Report, sides: list[Side], batch: int, device: torch.device) -> None:
    """Quantising and decoding, up to 16 at once: all of them need more memory than the rest of a run."""
    z = latents(min(batch, 16), sides[0].config, device)
    works = {side.name: partial(side.decode, z) for side in sides}
    lines(report, "Quantise and decode at once", in_turn(works, device, rounds(device)), batch=len(z))


def pictures(report: Report, sides: list[Side], batch: int, steps: int, device: torch.device) -> None:
    """Whole pictures to uint8 in the host's memory, as often as the time allows, at least twice or not at all."""
    x = latents(batch, sides[0].config, device)
    one = sum(seconds(partial(side.evaluate, x), device) for side in sides) * steps
    times = min(rounds(device), int(PICTURES_S / one))
    if times < 2:
        report.row("Left out", what=f"whole pictures, batch {batch}, {steps} steps", why=f"a round takes {one:.0f} s")
        return
    for side in sides:
        side.pictures(range(batch), 2)  # the warm-up: that of 200 steps would take as long as a round
    works = {side.name: partial(side.pictures, range(batch), steps) for side in sides}
    lines(report, "Whole pictures, DDIM", in_turn(works, device, times, warm_ups=0), batch=batch, steps=steps)


def lines(report: Report, table: str, found: dict[str, list[float]], batch: int, **cells: int) -> None:
    """A line for each side, with the ratio to diffusers as its documentation has it."""
    for name, values in found.items():
        rate = spread([batch / value for value in values], ".2f")
        ratio = spread([a / b for a, b in zip(found[PEER], values, strict=True)], ".2f") if PEER in found else ""
        columns = {"ms": milliseconds(values), "images/s": rate, "diffusers fp32 / it": ratio, "runs": len(values)}
        report.row(table, side=name, batch=batch, **cells, **columns)


if __name__ == "__main__":
    main()
