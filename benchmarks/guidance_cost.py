"""The ways of guiding that guidance.py compares, and what a step of each costs in steps without a guide.

The steps are measured in turns, one of each way in a round, so that whatever else the machine does slows all of them;
a ratio is that of two steps of one round. Nothing of a run but its steps is counted: no preparation, no decoding.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from common import spread

import ldm_backend
from ldm_backend.guidance.guided import Guided
from ldm_backend.guidance.guides import Guide, LossGradient, Projection, ScoreGradient
from ldm_backend.guidance.measurements import LowResolution, Measurement
from ldm_backend.pipeline import evaluation
from ldm_backend.sampling.prediction import prediction_of
from ldm_backend.sampling.step import Denoiser

TIMESTEP = 500
FACTOR = 4


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

    @property
    def by_gradient(self) -> bool:
        """Whether it takes gradients."""
        return self.cost[1] != "0"


PLAIN = "none"
METHODS = {
    PLAIN: Method(lambda known: [], 1.0, ("0", "0")),
    "linear": Method(lambda known: [Projection(known, codec="linear")], 1.0, ("0", "0")),
    "projection": Method(lambda known: [Projection(known)], 1.0, ("1 + 2", "0")),
    "projection-eta0": Method(lambda known: [Projection(known)], 0.0, ("1 + 2", "0")),
    "loss": Method(lambda known: [LossGradient(known)], 1.0, ("0", "decoder")),
    "loss-3": Method(lambda known: [LossGradient(known, inner=3)], 1.0, ("0", "3 x decoder")),
    "score": Method(lambda known: [ScoreGradient(known)], 0.0, ("0", "decoder + UNet")),
}
STEPS_OF = (PLAIN, "linear", "projection", "loss", "loss-3", "score")  # eta costs nothing


def step_seconds(model: ldm_backend.LatentDiffusion, rounds: int) -> dict[str, list[float]]:
    """Seconds of one step of each way for one picture of the model's size, `rounds` times in turns.

    Args:
        model: Any unconditional one.
        rounds: After one that is not measured.
    """
    config = model.config.unet
    shape = (1, config.in_channels, config.sample_size, config.sample_size)
    draws = torch.Generator().manual_seed(0)
    side = config.sample_size * model.first_stage.downscale // FACTOR
    known = LowResolution(torch.rand((1, side, side, 3), generator=draws), FACTOR)
    x_t = torch.randn(shape, generator=draws)
    denoisers = {name: _denoiser(model, METHODS[name].guides(known), shape) for name in STEPS_OF}
    seconds: dict[str, list[float]] = {name: [] for name in STEPS_OF}
    for index in range(rounds + 1):
        for name in STEPS_OF:
            start = time.perf_counter()
            _step(model, denoisers[name], x_t)
            if index:
                seconds[name].append(time.perf_counter() - start)
    return seconds


def _denoiser(model: ldm_backend.LatentDiffusion, guides: list[Guide], shape: tuple[int, ...]) -> Denoiser:
    plain = evaluation(model)
    return Guided(plain, model.schedule, model.first_stage, guides, shape, model.unet) if guides else plain


@torch.no_grad()
def _step(model: ldm_backend.LatentDiffusion, denoiser: Denoiser, x_t: torch.Tensor) -> torch.Tensor:
    """What a sampler does in a step, but for its few sums of latents."""
    found = prediction_of(model.schedule, denoiser(x_t, TIMESTEP), x_t, TIMESTEP).pred_x0
    return denoiser.corrected(found, TIMESTEP) if isinstance(denoiser, Guided) else found


def cost_table(title: str, seconds: dict[str, list[float]]) -> Sequence[str]:
    """Lines of a Markdown table: median (least to most) of the seconds, and of the ratios to the plain step."""
    lines = [f"{title}, median (least to most) of {len(seconds[PLAIN])} rounds:", ""]
    lines += ["| method | decodings + encodings | gradients | s | plain steps |", "|---|---|---|---|---|"]
    for name, found in seconds.items():
        ratios = [one / plain for one, plain in zip(found, seconds[PLAIN], strict=True)]
        codings, gradients = METHODS[name].cost
        cells = (spread(found, ".2f"), f"{statistics.median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})")
        lines.append(f"| {name} | {codings} | {gradients} | {cells[0]} | {cells[1]} |")
    return lines
