"""How far short runs end from the limit of many steps: what timesteps and coefficients are fitted by."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..memory.sizes import latent_size
from ..pipeline import LatentDiffusion, evaluation
from ..sampling.fitted import Rows, combined
from ..sampling.noise import draw_noise
from ..sampling.prediction import prediction_at, thresholded
from ..sampling.samplers import sample
from ..sampling.schedule import Pairs, Schedule

PICTURES = 64
AT_ONCE = 8  # as many go through a run together
LIMIT_STEPS = 60
# Far from those that people count up from, so that what is measured with these is not what was fitted. A generator of
# torch takes 32 bits of a seed.
_SEEDS = range(3_000_000_000, 3_000_000_000 + PICTURES)

Evaluated = Callable[[int], None]  # told how many more evaluations, each of AT_ONCE pictures, were made


class Objective:
    """Short runs of a model beside the limit, which is made at first.

    Args:
        model: From `load`, unconditional.
        evaluated: Called as the evaluations go.

    Raises:
        LDMError: The model cannot be sampled.
    """

    def __init__(self, model: LatentDiffusion, evaluated: Evaluated) -> None:
        self.schedule = model.schedule.with_signal
        self._unet, self._evaluated = model.unet, evaluated
        self._lambdas = half_log_snrs(self.schedule)
        shape = (model.config.first_stage.z_channels, *latent_size(model.config, None, None))
        self._x_T = draw_noise(_SEEDS, shape).to(model.device)
        pairs, denoiser = self.schedule.timesteps(LIMIT_STEPS, "log_snr"), evaluation(model)
        self._limit = torch.cat(
            [
                sample("unipc", denoiser, x, self.schedule, pairs, callback=lambda _: evaluated(1))
                for x in self._x_T.split(AT_ONCE)
            ]
        )
        self._variance = self._limit.double().flatten(1).var(dim=1).clamp_min(1e-12)

    def losses(self, lambdas: Tensor, rows: Sequence[Tensor], pictures: Sequence[int]) -> Tensor:
        """(pictures,) logarithm of the error's power over the variance of the limit: none counts more than another.

        Args:
            lambdas: (N,) float64 on the CPU, half the log-SNR of each evaluation, noisiest first; may have gradients.
            rows: Of each step, see `FittedSteps.coefficients`; likewise.
            pictures: Which of them.
        """
        chosen = list(pictures)
        *_, x_0 = self._parts(lambdas, rows, self._x_T[chosen])
        error = (x_0 - self._limit[chosen]).double().square().flatten(1).mean(dim=1)
        return (error / self._variance[chosen] + 1e-7).log().cpu()

    @torch.no_grad()
    def loss(self, lambdas: Tensor, rows: Sequence[Tensor]) -> float:
        """The mean over all pictures."""
        firsts = range(0, PICTURES, AT_ONCE)
        parts = [self.losses(lambdas, rows, range(first, first + AT_ONCE)) for first in firsts]
        return float(torch.cat(parts).mean())

    @torch.no_grad()
    def products(self, lambdas: Tensor, rows: Sequence[Tensor]) -> Tensor:
        """(N + 1, N + 1) float64, means over all pictures of the products of what the rows are sums of."""
        total = torch.zeros(len(rows) + 1, len(rows) + 1, dtype=torch.float64)
        for x_T in self._x_T.split(AT_ONCE):
            *parts, _ = self._parts(lambdas, rows, x_T)
            flat = torch.stack([part.flatten() for part in parts]).double()
            total += (flat @ flat.T / flat.shape[1]).cpu()
        return total / (PICTURES / AT_ONCE)

    def _parts(self, lambdas: Tensor, rows: Sequence[Tensor], x_T: Tensor) -> list[Tensor]:
        """x_T, the clean latents that are predicted one after the other, and x_0."""
        timesteps = timesteps_at(self._lambdas, lambdas)
        x_t, parts = x_T, [x_T]
        for index, row in enumerate(rows):
            # Kept for the gradients are the latents alone; the rest is computed again for them, one evaluation a time.
            output = checkpoint(
                self._unet, x_t, timesteps[index].float().to(x_t.device), use_reentrant=False, preserve_rng_state=False
            )
            a_t = torch.sigmoid(2.0 * lambdas[index]).float().to(x_t.device)
            found = prediction_at(self.schedule.config, output.float(), x_t, a_t.sqrt(), (1.0 - a_t).sqrt())
            parts.append(thresholded(self.schedule.config, found.pred_x0))
            x_t = combined(parts, row.float().to(x_t.device))
            self._evaluated(1)
        return [*parts, x_t]


def decibels(loss: float) -> float:
    """A loss as signal over error; more is closer."""
    return -10.0 * loss / math.log(10.0)


def half_log_snrs(schedule: Schedule) -> Tensor:
    """(T,) float64, falling."""
    return torch.tensor(
        [schedule.half_log_snr(t) for t in range(schedule.num_train_timesteps)], dtype=torch.float64
    )  # fmt: skip


def timesteps_at(table: Tensor, lambdas: Tensor) -> Tensor:
    """The timesteps of these `lambdas` in the table of `half_log_snrs`, with their gradients."""
    low = torch.searchsorted(-table, -lambdas.detach()).clamp(1, len(table) - 1) - 1
    return low + (lambdas - table[low]) / (table[low + 1] - table[low])


def rows_of(sampler: str, schedule: Schedule, pairs: Pairs) -> Rows:
    """The coefficients of a sampler that has none that are free: it is run on numbers in the place of latents.

    Args:
        sampler: One of `fitted.FITTED_SAMPLERS`.
        schedule: Tables.
        pairs: Of the run.
    """
    count = len(pairs)
    clean = replace(schedule.config, prediction_type="sample", thresholding=False, clip_sample=False)
    ends: list[Tensor] = []

    def denoiser(x_t: Tensor, t: float) -> Tensor:
        ends.append(x_t.flatten())
        return torch.eye(count + 1)[len(ends)].view_as(x_t)

    ends_at = sample(sampler, denoiser, torch.eye(count + 1)[0].view(1, -1, 1, 1), Schedule(clean), pairs)
    return tuple(tuple(row[: index + 2].tolist()) for index, row in enumerate([*ends[1:], ends_at.flatten()]))
