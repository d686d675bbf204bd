"""How near enlarged portraits come to the truth: the default of `upscale`, the original's 100 steps, and others.

    python benchmarks/upscale_quality.py

Writes upscale-quality-<date>.md, anew after each portrait. Portraits of 512 pixels of which the demo upscaler was not
trained are made small in two ways, plainly and as its training did it, and enlarged again with each setting.
"""

from __future__ import annotations

import argparse
import inspect
import sys
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import DEMO_SCRIPTS, demo_module, machine, psnr, spread
from PIL import Image

import ldm_backend
from ldm_backend.sampling.samplers import eta_of
from ldm_backend.tasks.colours import with_colours_of
from ldm_backend.views.images import from_uint8, to_uint8

DEMO = DEMO_SCRIPTS / "upscaler-4x"
SIDE, SCALE = 512, 4
BICUBIC, FIRST_STAGE = "bicubic, no model", "first stage alone: the truth, encoded and decoded"
ORIGINAL: dict[str, Any] = {"sampler": "ddim", "eta": 1.0, "steps": 100, "grid": "compvis"}
# Arguments of `upscale`; those that are not named have its defaults.
SETTINGS: tuple[dict[str, Any], ...] = (
    {},
    {"steps": 10},
    {"steps": 20},
    {"sampler": "dpmpp_2m", "steps": 20},
    {"sampler": "unipc", "steps": 20},
    {"sampler": "dpmpp_2m_sde", "steps": 20},
    {"sampler": "ddim", "steps": 20, "eta": 0.0},
    ORIGINAL,
)
KINDS = {
    "box": "Made small plainly, by means of 4x4 pixels",
    "degraded": "Made small as in the training: lightly blurred, resized, noisy and compressed",
}


def label(setting: dict[str, Any]) -> str:
    """Name of a row."""
    parameters = inspect.signature(ldm_backend.upscale).parameters
    full = {name: setting.get(name, parameters[name].default) for name in ("sampler", "steps", "eta", "grid")}
    words = [full["sampler"], f"{full['steps']} steps"]
    words += [f"eta {eta_of(full['sampler'], full['eta']):g}"] if full["sampler"] == "ddim" else []
    words += [f"grid {full['grid']}"] if "grid" in setting else []
    return ", ".join(words) + (" (the default)" if not setting else " (the original)" if setting is ORIGINAL else "")


def made_small(kind: str, truth: np.ndarray, number: int) -> np.ndarray:
    """The small picture of a portrait, uint8 (SIDE / SCALE, SIDE / SCALE, 3)."""
    if kind == "degraded":
        return np.array(demo_module("upscaler_data").degrade(truth, np.random.default_rng(number)))
    return np.array(Image.fromarray(truth).reduce(SCALE))


def detail(image: np.ndarray, truth: np.ndarray) -> float:
    """Root mean square of what is lost when a picture is halved, over that of the truth."""

    def fine(picture: np.ndarray) -> float:
        height, width, _ = picture.shape
        blocks = picture.astype(float).reshape(height // 2, 2, width // 2, 2, 3)
        return float(blocks.var(axis=(1, 3)).mean() ** 0.5)

    return fine(image) / fine(truth)


@dataclass(frozen=True)
class Score:
    """Of one picture.

    Args:
        psnr: to the truth, dB.
        kept: likewise, with the low frequencies of the small picture, as `keep_colours` of `upscale` gives it.
        detail: see there.
        seconds: that it took.
        evaluations: of the UNet.
    """

    psnr: float
    kept: float
    detail: float
    seconds: float = 0.0
    evaluations: int = 0


Scores = dict[str, list[Score]]  # by row, one for each portrait


def scored(
    image: np.ndarray, small: np.ndarray, truth: np.ndarray, seconds: float = 0.0, evaluations: int = 0
) -> Score:
    """The score of a picture."""
    kept = with_colours_of(from_uint8(small[None]), image[None])
    near, nearer = (psnr(one, truth[None])[0] for one in (image[None], kept))
    return Score(near, nearer, detail(image, truth), seconds, evaluations)


def enlarged(model: ldm_backend.LatentDiffusion, small: np.ndarray, truth: np.ndarray, number: int) -> dict[str, Score]:
    """Scores of all settings, another first for each portrait, and of what needs no diffusion."""
    large = Image.fromarray(small).resize(truth.shape[1::-1], Image.Resampling.BICUBIC)
    plain = {BICUBIC: np.array(large), FIRST_STAGE: through_first_stage(model, truth)}
    found = {name: scored(image, small, truth) for name, image in plain.items()}
    first = number % len(SETTINGS)
    for setting in (*SETTINGS[first:], *SETTINGS[:first]):
        steps: list[object] = []
        start = time.perf_counter()
        image = ldm_backend.upscale(model, small[None], [number], callback=steps.append, **setting)[0]
        found[label(setting)] = scored(image, small, truth, time.perf_counter() - start, len(steps))
    return found


@torch.no_grad()
def through_first_stage(model: ldm_backend.LatentDiffusion, truth: np.ndarray) -> np.ndarray:
    """What the first stage makes of a picture: the most that any sampler can come to."""
    return to_uint8(model.first_stage.decode(model.first_stage.encode(from_uint8(truth[None]))))[0]


def table(scores: Scores) -> list[str]:
    """A line for each setting: median (least to most) over the portraits; differences are of the same portrait."""
    base = scores[label(ORIGINAL)]
    gain = "minus the original's"
    lines = [
        f"| | evaluations | s a picture | PSNR, dB | {gain} | colours kept: PSNR, dB | {gain} | detail |",
        "|---|---:|---|---|---|---|---|---|",
    ]
    for name in (*map(label, SETTINGS), BICUBIC, FIRST_STAGE):
        ones = scores[name]
        cells = [str(ones[0].evaluations), spread([one.seconds for one in ones], ".1f")]
        if not ones[0].evaluations:
            cells = ["", ""]
        for measure in ("psnr", "kept"):
            values, others = ([getattr(one, measure) for one in row] for row in (ones, base))
            gains = [value - other for value, other in zip(values, others, strict=True)]
            cells += [spread(values, ".2f"), "" if ones is base else spread(gains, "+.2f")]
        lines.append(f"| {name} | {' | '.join(cells)} | {spread([one.detail for one in ones], '.2f')} |")
    return lines


def report(scores: dict[str, Scores], portraits: int) -> str:
    """The Markdown file."""
    head = (
        f"Made by `{' '.join(['python benchmarks/upscale_quality.py', *sys.argv[1:]])}`. Demo upscaler, {portraits} "
        f"drawn portraits of {SIDE} pixels that it was not trained on, enlarged from {SIDE // SCALE} pixels one by "
        "one, fp32, CPU. Median (least to most) over the portraits. PSNR is to the portrait as it was drawn; *minus "
        "the original's* is of the same portrait, above 0 where it comes nearer than 100 steps of DDIM with eta 1. "
        "*Colours kept*: with `keep_colours`, so that a shift of colours as a whole, which costs many dB, is left out. "
        "*Detail* is the contrast between neighbouring pixels over that of the truth: PSNR rewards blur, this does not."
    )
    lines = ["# Quality of super-resolution by sampler and steps", "", head, ""]
    for kind, found in scores.items():
        lines += [f"## {KINDS[kind]}", "", *table(found), ""]
    return "\n".join([*lines, machine(), ""])


def main() -> None:
    """Measure; write after each portrait, so that an interrupted run leaves what it has."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--model", type=Path, default=DEMO, help="folder of the upscaler")
    parser.add_argument("--kinds", nargs="+", choices=KINDS, default=list(KINDS), help="how pictures are made small")
    parser.add_argument("--portraits", type=int, default=16, help="held-out portraits (default: 16)")
    parser.add_argument("--threads", type=int, help="of torch (default: as it chooses)")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results"), help="folder of the table")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    arguments.out.mkdir(parents=True, exist_ok=True)
    model = ldm_backend.load(arguments.model, device="cpu")
    portraits, pairs = demo_module("portraits"), demo_module("upscaler_data")
    scores: dict[str, Scores] = {kind: defaultdict(list) for kind in arguments.kinds}
    for number in range(arguments.portraits):
        truth = portraits.draw_portrait(pairs.FIRST + pairs.COUNT + number, SIDE)
        for kind, found in scores.items():
            for name, score in enlarged(model, made_small(kind, truth, number), truth, number).items():
                found[name].append(score)
        sys.stderr.write(f"{number + 1} of {arguments.portraits} portraits: done\n")
        text = report(scores, number + 1)
        (arguments.out / f"upscale-quality-{time.strftime('%Y-%m-%d')}.md").write_text(text)


if __name__ == "__main__":
    main()
