"""How well guides restore portraits that the demo model was not trained on, and what each way of guiding costs.

    python benchmarks/guidance.py
    python benchmarks/guidance.py --portraits 8 --methods none linear projection --noise 0 0.05 --out table.md
    python benchmarks/guidance.py --tasks --full-size

Each portrait is made smaller by four, loses a square of 48 pixels in the face, its colours, or its sharpness (by a
Gaussian of sigma 3), with noise where asked for; the model makes it again from what is left. Writes a Markdown table:

- portraits: how many. Ways by gradient take long and get the first few, and so does a second row of the projection:
  compare rows of one number.
- PSNR to the portrait, mean (worst) in dB, over all pixels; the first stage alone reaches what the table says above.
- agreeing: the same of the pictures after they were made to agree with the measurement once more, in pixels, which
  costs nothing. `ldm_backend.restore` ends so where it is told of no noise.
- consistency: PSNR of the result, measured in the same way, to the measurement.
- feature distance: mean squared difference of the features of this first stage's own encoder, each place normalised to
  length one, mean of its levels. It is no LPIPS: nobody trained it on what people see. It ranks results of one table.
- evaluations of the UNet, decodings and encodings, gradients, for a picture.
- seconds of the CPU for a picture, all cores added up, so that a busy machine changes little; and the peak of memory
  above that before the run.

Then what one step of each way costs in steps without a guide, see guidance_cost.py: on the demo, and with --full-size
on random weights of the size of the released celebahq model at 256 pixels. That takes 1.3 GB in the temporary folder,
4 GB of memory and several minutes a round on one thread, and needs `pip install -e '.[bench]'`.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from common import DEMO_SCRIPTS, demo_module, forget_peak, machine, resident, scratch_weights
from guidance_cost import FACTOR, METHODS, cost_table, step_seconds
from torch import Tensor

import ldm_backend
from ldm_backend.guidance.guided import Guided
from ldm_backend.guidance.losses import encoder_features
from ldm_backend.guidance.measurements import Blurred, GreyPicture, KnownPixels, LowResolution, Measurement
from ldm_backend.guidance.operators import BOX, blurring, gaussian, shrinking
from ldm_backend.guidance.space import Space
from ldm_backend.memory.chunks import give_back
from ldm_backend.pipeline import evaluation
from ldm_backend.sampling.samplers import sample_seeds
from ldm_backend.views.images import as_channels, from_uint8

FIRST_PORTRAIT = 10_000_000  # a seed above those of the training
SIDE, SIGMA = 128, 3.0
HOLE = slice(40, 88)


NOISE_UNTOLD = "projection, noise not told"


def measured(truth: Tensor, noise: float, portraits: int) -> dict[str, Callable[[float], Measurement]]:
    """What is left of the first of (N, C, H, W) portraits for each task, as a measurement with that noise told.

    Noisy pictures are clipped to what a file can hold.
    """
    shrink, _ = shrinking(SIDE, SIDE, FACTOR, BOX)
    blur = blurring(SIDE, SIDE, gaussian(SIGMA))
    mask = np.zeros((SIDE, SIDE), bool)
    mask[HOLE, HOLE] = True

    def picture(x: Tensor) -> Tensor:
        draws = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
        return ((x + 1.0) / 2.0 + noise * draws).clamp(0.0, 1.0).movedim(1, -1)[:portraits]

    low, whole, grey, soft = (picture(x) for x in (shrink(truth), truth, as_channels(truth, 1), blur(truth)))
    return {
        "upscale": lambda told: LowResolution(low, FACTOR, noise=told),
        "inpaint": lambda told: KnownPixels(whole, mask, noise=told),
        "deblur": lambda told: Blurred(soft, SIGMA, noise=told),
        "colourise": lambda told: GreyPicture(grey, noise=told),
    }


def decibels(squares: Tensor) -> Tensor:
    """(N,) PSNR of (N, ...) squared errors of pictures in [-1, 1]."""
    return 10.0 * torch.log10(4.0 / squares.flatten(1).mean(1))


@torch.no_grad()
def feature_distance(model: ldm_backend.LatentDiffusion, found: Tensor, truth: Tensor) -> float:
    """See above."""
    distances = []
    for a, b in zip(*(encoder_features(model.first_stage, x) for x in (found, truth)), strict=True):
        a, b = (x / x.norm(dim=1, keepdim=True).clamp_min(1e-6) for x in (a, b))
        distances.append((a - b).square().sum(1).mean())
    return float(torch.stack(distances).mean())


@torch.no_grad()
def decode(model: ldm_backend.LatentDiffusion, z: Tensor) -> Tensor:
    """One by one, as pictures are kept: within [-1, 1]."""
    return torch.cat([model.first_stage.decode(one[None]) for one in z]).clamp(-1.0, 1.0)


def row(model: ldm_backend.LatentDiffusion, truth: Tensor, known: Measurement, name: str, steps: int) -> Sequence[str]:
    """Run a method and tell what came out."""
    method = METHODS["projection" if name == NOISE_UNTOLD else name]
    guides, shape = method.guides(known), (len(truth), 3, SIDE // 4, SIDE // 4)
    give_back()
    forget_peak()
    before, started = resident(), time.process_time()
    denoiser = evaluation(model)
    if guides:
        denoiser = Guided(denoiser, model.schedule, model.first_stage, guides, shape, model.unet)
    z = sample_seeds(
        "ddim", denoiser, range(len(truth)), shape[1:], model.schedule, steps, device=model.device, eta=method.eta
    )
    seconds, peak = (time.process_time() - started) / len(truth), resident("VmHWM") - before
    found = decode(model, z)
    psnr = decibels((found - truth).square())
    bound = known.bound(Space(model.first_stage, len(truth), SIDE, SIDE))
    difference = bound.difference(found, slice(None))
    agreeing = (found + bound.correction(found)).clamp(-1.0, 1.0)
    share = difference.numel() / (SIDE**2 - 48**2) / 3 / len(truth) if isinstance(known, KnownPixels) else 1.0
    codings, gradients = method.cost
    return (
        f"{len(truth)}",
        f"{psnr.mean():.2f} ({psnr.min():.2f})",
        "-" if known.noise else f"{decibels((agreeing - truth).square()).mean():.2f}",
        f"{(decibels(difference.square() * share)).mean():.1f}",
        f"{feature_distance(model, found, truth):.3f}",
        f"{steps}",
        f"{steps} x ({codings})" if codings != "0" else "0",
        f"{steps} x ({gradients})" if gradients != "0" else "0",
        f"{seconds:.1f}",
        f"{peak:.0f}",
    )


HEAD = (
    "task", "noise", "method", "portraits", "PSNR", "agreeing", "consistency", "feature distance", "evaluations",
    "decodings + encodings", "gradients", "CPU s", "MiB",
)  # fmt: skip


def rows_of(methods: Sequence[str], noise: float, portraits: int, by_gradient: int) -> Iterator[tuple[str, int]]:
    """Which ways have rows, and with how many portraits.

    Args:
        methods: That are asked for.
        noise: Of the measurements.
        portraits: Of ways without gradients.
        by_gradient: Of those with; where it is less, the projection comes a second time with as many.
    """
    names = [*methods, *([NOISE_UNTOLD] if noise and "projection" in methods else [])]
    few = min(portraits, by_gradient)
    slow = [name for name in names if name != NOISE_UNTOLD and METHODS[name].by_gradient]
    yield from ((name, portraits) for name in names if name not in slow)
    if slow and few < portraits:
        yield "projection", few
    yield from ((name, few) for name in slow)


def arguments() -> argparse.Namespace:
    """What the command line says."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--portraits", type=int, default=32)
    parser.add_argument("--gradient-portraits", type=int, default=8, metavar="N", help="the first N, by gradient")
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--tasks", nargs="*", default=["upscale", "inpaint", "deblur", "colourise"])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--noise", type=float, nargs="+", default=[0.0, 0.05], help="for pictures from 0 to 1")
    parser.add_argument("--rounds", type=int, default=7, help="of single steps on the demo; 0 for none")
    parser.add_argument(
        "--full-size", type=int, nargs="?", const=3, default=0, metavar="ROUNDS", help="likewise, of the real size"
    )
    parser.add_argument("--out", type=Path, help="a file that the table is written to as well")
    return parser.parse_args()


def main() -> None:
    """Measure each task, noise and method, and write a row for each; then the cost of steps."""
    args = arguments()
    lines: list[str] = []

    def write(line: str) -> None:
        lines.append(line)
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
        if args.out:
            args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")

    model = ldm_backend.load(DEMO_SCRIPTS / "portraits-128", device="cpu")
    if args.tasks:
        write_restored(model, args, write)
    if args.rounds:
        seconds = step_seconds(model, args.rounds)
        write("\n".join(["", *cost_table(f"One step of the demo, {SIDE}x{SIDE} pixels", seconds)]))
    if args.full_size:
        with scratch_weights() as folder:
            seconds = step_seconds(ldm_backend.load(folder, device="cpu"), args.full_size)
        write("\n".join(["", *cost_table("One step of the released size, 256x256 pixels, random weights", seconds)]))
    write(f"\n{torch.get_num_threads()} threads of torch. {machine()}")


def write_restored(model: ldm_backend.LatentDiffusion, args: argparse.Namespace, write: Callable[[str], None]) -> None:
    """The table of restored portraits, row by row as they are made."""
    draw_portrait = demo_module("portraits").draw_portrait
    truth = from_uint8(np.stack([draw_portrait(FIRST_PORTRAIT + index) for index in range(args.portraits)]))
    with torch.no_grad():
        ceiling = decibels((decode(model, model.first_stage.encode(truth)) - truth).square()).mean()
    write(f"{args.portraits} portraits of {SIDE}x{SIDE}, {args.steps} steps. First stage alone: {ceiling:.1f} dB.\n")
    write(f"| {' | '.join(HEAD)} |\n|{'---|' * len(HEAD)}")
    for noise in args.noise:
        for task in args.tasks:
            for name, portraits in rows_of(args.methods, noise, args.portraits, args.gradient_portraits):
                known = measured(truth, noise, portraits)[task](0.0 if name == NOISE_UNTOLD else noise)
                cells = row(model, truth[:portraits], known, name, args.steps)
                write(f"| {task} | {noise:g} | {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
