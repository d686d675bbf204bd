"""How well guides restore portraits that the demo model was not trained on, and what each way of guiding costs.

    python benchmarks/guidance.py
    python benchmarks/guidance.py --portraits 8 --methods none linear projection --noise 0 0.05 --out table.md

Each portrait is made smaller by four, loses a square of 48 pixels in the face, its colours, or its sharpness (by a
Gaussian of sigma 3), with noise where asked for; the model makes it again from what is left. Writes a Markdown table:

- PSNR to the portrait, mean (worst) in dB, over all pixels; the first stage alone reaches what the table says above.
- consistency: PSNR of the result, measured in the same way, to the measurement.
- feature distance: mean squared difference of the features of this first stage's own encoder, each place normalised to
  length one, mean of its levels. It is no LPIPS: nobody trained it on what people see. It ranks results of one table.
- evaluations of the UNet, decodings and encodings, gradients, for a picture.
- seconds for a picture, and the peak of memory above that before the run.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from common import DEMO_SCRIPTS, demo_module, forget_peak, machine, resident
from torch import Tensor

import ldm_backend
from ldm_backend.guidance.guided import Guided
from ldm_backend.guidance.guides import Guide, LossGradient, Projection, ScoreGradient
from ldm_backend.guidance.losses import encoder_features
from ldm_backend.guidance.measurements import Blurred, GreyPicture, KnownPixels, LowResolution, Measurement
from ldm_backend.guidance.operators import BOX, blurring, gaussian, shrinking
from ldm_backend.guidance.space import Space
from ldm_backend.memory.chunks import give_back
from ldm_backend.pipeline import evaluation
from ldm_backend.sampling.samplers import sample_seeds
from ldm_backend.views.images import as_channels, from_uint8

FIRST_PORTRAIT = 10_000_000  # a seed above those of the training
SIDE, FACTOR, SIGMA = 128, 4, 3.0
HOLE = slice(40, 88)


@dataclass(frozen=True)
class Method:
    """A way of guiding.

    Attributes:
        guides: For a measurement.
        eta: Of "ddim".
        cost: Decodings and encodings, and gradients, of a step.
    """

    guides: Callable[[Measurement], list[Guide]]
    eta: float
    cost: tuple[str, str]


METHODS = {
    "none": Method(lambda known: [], 1.0, ("0", "0")),
    "linear": Method(lambda known: [Projection(known, codec="linear")], 1.0, ("0", "0")),
    "projection": Method(lambda known: [Projection(known)], 1.0, ("1 + 2", "0")),
    "projection-eta0": Method(lambda known: [Projection(known)], 0.0, ("1 + 2", "0")),
    "loss": Method(lambda known: [LossGradient(known)], 1.0, ("0", "decoder")),
    "loss-3": Method(lambda known: [LossGradient(known, inner=3)], 1.0, ("0", "3 x decoder")),
    "score": Method(lambda known: [ScoreGradient(known)], 0.0, ("0", "decoder + UNet")),
}
NOISE_UNTOLD = "projection, noise not told"


def measured(truth: Tensor, noise: float) -> dict[str, Callable[[float], Measurement]]:
    """What is left of (N, C, H, W) portraits for each task, as a measurement with that noise told.

    Noisy pictures are clipped to what a file can hold.
    """
    shrink, _ = shrinking(SIDE, SIDE, FACTOR, BOX)
    blur = blurring(SIDE, SIDE, gaussian(SIGMA))
    mask = np.zeros((SIDE, SIDE), bool)
    mask[HOLE, HOLE] = True

    def picture(x: Tensor) -> Tensor:
        draws = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
        return ((x + 1.0) / 2.0 + noise * draws).clamp(0.0, 1.0).movedim(1, -1)

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
    before, started = resident(), time.monotonic()
    denoiser = evaluation(model)
    if guides:
        denoiser = Guided(denoiser, model.schedule, model.first_stage, guides, shape, model.unet)
    z = sample_seeds(
        "ddim", denoiser, range(len(truth)), shape[1:], model.schedule, steps, device=model.device, eta=method.eta
    )
    seconds, peak = (time.monotonic() - started) / len(truth), resident("VmHWM") - before
    found = decode(model, z)
    psnr = decibels((found - truth).square())
    difference = known.bound(Space(model.first_stage, len(truth), SIDE, SIDE)).difference(found, slice(None))
    share = difference.numel() / (SIDE**2 - 48**2) / 3 / len(truth) if isinstance(known, KnownPixels) else 1.0
    codings, gradients = method.cost
    return (
        f"{psnr.mean():.2f} ({psnr.min():.2f})",
        f"{(decibels(difference.square() * share)).mean():.1f}",
        f"{feature_distance(model, found, truth):.3f}",
        f"{steps}",
        f"{steps} x ({codings})" if codings != "0" else "0",
        f"{steps} x ({gradients})" if gradients != "0" else "0",
        f"{seconds:.1f}",
        f"{peak:.0f}",
    )


HEAD = (
    "task", "noise", "method", "PSNR", "consistency", "feature distance", "evaluations", "decodings + encodings",
    "gradients", "s", "MiB",
)  # fmt: skip


def main() -> None:
    """Measure each task, noise and method, and write a row for each."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--portraits", type=int, default=32)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--tasks", nargs="+", default=["upscale", "inpaint", "deblur", "colourise"])
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=METHODS)
    parser.add_argument("--noise", type=float, nargs="+", default=[0.0, 0.05], help="for pictures from 0 to 1")
    parser.add_argument("--out", type=Path, help="a file that the table is written to as well")
    args = parser.parse_args()
    model = ldm_backend.load(DEMO_SCRIPTS / "portraits-128", device="cpu")
    draw_portrait = demo_module("portraits").draw_portrait
    truth = from_uint8(np.stack([draw_portrait(FIRST_PORTRAIT + index) for index in range(args.portraits)]))
    with torch.no_grad():
        ceiling = decibels((decode(model, model.first_stage.encode(truth)) - truth).square()).mean()
    lines: list[str] = []

    def write(line: str) -> None:
        lines.append(line)
        sys.stdout.write(line + "\n")
        sys.stdout.flush()
        if args.out:
            args.out.write_text("\n".join(lines) + "\n", encoding="utf-8")

    write(f"{args.portraits} portraits of {SIDE}x{SIDE}, {args.steps} steps. First stage alone: {ceiling:.1f} dB.\n")
    write(f"| {' | '.join(HEAD)} |\n|{'---|' * len(HEAD)}")
    for noise in args.noise:
        tasks = measured(truth, noise)
        for task in args.tasks:
            names = [*args.methods, *([NOISE_UNTOLD] if noise and "projection" in args.methods else [])]
            for name in names:
                known = tasks[task](0.0 if name == NOISE_UNTOLD else noise)
                cells = row(model, truth, known, name, args.steps)
                write(f"| {task} | {noise:g} | {name} | {' | '.join(cells)} |")
    write(f"\n{machine()}")


if __name__ == "__main__":
    main()
