"""How far a sampler's pictures are from the limit of many steps: what steps are fitted by."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import Tensor

from ..memory.sizes import latent_size
from ..pipeline import LatentDiffusion, evaluation
from ..sampling.noise import draw_noise
from ..sampling.samplers import sample
from ..sampling.schedule import Pairs, Schedule, joined
from ..sampling.step import Denoiser

PICTURES = 8
LIMIT_STEPS = 100
# Far from those that people count up from, so that what is measured with these is not what was fitted. A generator of
# torch takes 32 bits of a seed.
_SEEDS = range(3_000_000_000, 3_000_000_000 + PICTURES)

Evaluated = Callable[[int], None]  # told how many more evaluations, each of all pictures, were made


@dataclass(frozen=True)
class Run:
    """What a sampler made on one grid.

    Attributes:
        lambdas: Half the log-SNR of each evaluation but the first, which is at the noisiest timestep.
        error: (PICTURES, n) float64 on the CPU: latents minus the limit, in units of the limit's deviation.
        outputs: Of the network, one for each evaluation.
    """

    lambdas: tuple[float, ...]
    error: Tensor
    outputs: tuple[Tensor, ...]

    @property
    def powers(self) -> Tensor:
        """(PICTURES,) mean squares of the error."""
        return self.error.square().mean(dim=1).clamp_min(1e-12)

    @property
    def loss(self) -> float:
        """Mean over the pictures of the logarithm of the error's power: no picture counts more than another."""
        return float(self.powers.log().mean())

    @property
    def decibels(self) -> float:
        """The same as signal over error; more is closer."""
        return -10.0 * self.loss / math.log(10.0)


class Objective:
    """Runs of one sampler of one model beside the limit, which is made at first.

    Args:
        model: From `load`, unconditional.
        sampler: One of `fitted.FITTED_SAMPLERS`.
        evaluated: Called as the evaluations go.

    Raises:
        LDMError: The model cannot be sampled.
    """

    def __init__(self, model: LatentDiffusion, sampler: str, evaluated: Evaluated) -> None:
        self.schedule = model.schedule
        self._denoiser, self._sampler, self._evaluated = evaluation(model), sampler, evaluated
        shape = (model.config.first_stage.z_channels, *latent_size(model.config, None, None))
        self._x_T = draw_noise(_SEEDS, shape).to(model.device)
        limit = self._sampled("unipc", self.schedule.timesteps(LIMIT_STEPS, "log_snr"), self._denoiser)
        self._deviation = limit.std(dim=1, keepdim=True).clamp_min(1e-6)
        self._limit = limit

    def run(self, lambdas: Sequence[float], base: Run | None = None) -> Run:
        """The sampler on a grid.

        Args:
            lambdas: As `Run.lambdas`.
            base: A run whose first evaluations are taken over, as far as its grid is the same.
        """
        known = 0
        if base is not None:
            same = [ours == theirs for ours, theirs in zip(lambdas, base.lambdas, strict=True)]
            known = 1 + (same.index(False) if False in same else len(same))
        replay = _Replay(self._denoiser, base.outputs[:known] if base else ())
        found = self._sampled(self._sampler, pairs_at(self.schedule, lambdas), replay)
        return Run(tuple(lambdas), (found - self._limit) / self._deviation, tuple(replay.outputs))

    def _sampled(self, sampler: str, pairs: Pairs, denoiser: Denoiser) -> Tensor:
        """(PICTURES, n) float64 on the CPU."""
        latents = sample(sampler, denoiser, self._x_T, self.schedule, pairs, callback=lambda _: self._evaluated(1))
        return latents.flatten(1).double().cpu()


class _Replay:
    """A denoiser whose first answers are known."""

    def __init__(self, denoiser: Denoiser, known: Sequence[Tensor]) -> None:
        self._denoiser, self._known = denoiser, len(known)
        self.outputs = list(known)
        self._calls = 0

    def __call__(self, x_t: Tensor, t: float) -> Tensor:
        self._calls += 1
        if self._calls > self._known:
            self.outputs.append(self._denoiser(x_t, t))
        return self.outputs[self._calls - 1]


def pairs_at(schedule: Schedule, lambdas: Sequence[float]) -> Pairs:
    """The steps of a run with these `Run.lambdas`."""
    return joined(timesteps_at(schedule, lambdas))


def timesteps_at(schedule: Schedule, lambdas: Sequence[float]) -> tuple[float, ...]:
    """Of each evaluation, to a thousandth."""
    return (schedule.num_train_timesteps - 1.0, *(round(float(schedule.timestep(each)), 3) for each in lambdas))
