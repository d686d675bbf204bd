"""The model as one run of a sampler calls it, with the check of each evaluation."""

from __future__ import annotations

import math
from dataclasses import dataclass
from types import TracebackType

import torch
from torch import Tensor

from ..errors import SamplingError
from .schedule import Schedule
from .step import EpsModel, runs_ahead


@dataclass(frozen=True)
class _Evaluation:
    """One that was started and not yet checked."""

    index: int  # of the step
    t: float
    x_t: Tensor
    finite: Tensor  # (N,) bool on the CPU, to be read once it is `copied`
    copied: torch.cuda.Event | None  # None where it was computed on the CPU


class Evaluations:
    """Evaluates the model and ends the run where that gives NaN or infinity, which would end as a black picture.

    On the CPU an evaluation is checked before it is returned. On a card that would leave the card without work while
    the CPU waits for the answer: there each one is checked when the next one has been started, and the last one when
    the block ends. So the CPU is one evaluation ahead at most, and a cancelled run ends as soon as before.

    Used in a `with` statement around the whole loop. A block that ends with an exception checks nothing more, so that
    the reason of the run's end stays what it is.

    Args:
        eps_model: The model.
        steps: Of the whole run, for the message.
    """

    def __init__(self, eps_model: EpsModel, steps: int) -> None:
        self._eps_model, self._steps = eps_model, steps
        self._unchecked: _Evaluation | None = None

    def __enter__(self) -> Evaluations:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._check()
        self._unchecked = None

    def predict_eps(self, x_t: Tensor, t: float, index: int) -> Tensor:
        """One evaluation of the model.

        Args:
            x_t: (N, C, H, W) float32 latents; not to be written to afterwards.
            t: Their timestep.
            index: Of the step, from 0, for the message.

        Returns:
            (N, C, H, W) float32 noise.

        Raises:
            SamplingError: The model gave NaN or infinity, here or, on a card, in the evaluation before.
        """
        eps = self._eps_model(x_t, t).float()
        ahead, copied = runs_ahead(eps.device), None
        # Where it does not block, torch copies into pinned memory.
        finite = torch.isfinite(eps).flatten(1).all(dim=1).to("cpu", non_blocking=ahead)
        if ahead:
            copied = torch.cuda.Event(blocking=True)  # to sleep meanwhile costs nothing: the card has work
            copied.record(torch.cuda.current_stream(eps.device))
            self._check()
        self._unchecked = _Evaluation(index, t, x_t, finite, copied)
        if not ahead:
            self._check()
        return eps

    def predict_x0(self, x_t: Tensor, schedule: Schedule, t: float, index: int) -> Tensor:
        """One evaluation of the model, as the clean latent that its noise implies.

        Args:
            x_t: (N, C, H, W) float32 latents; not to be written to afterwards.
            schedule: tables.
            t: Their timestep.
            index: Of the step, from 0, for the message.

        Returns:
            (N, C, H, W) float32 latents.

        Raises:
            SamplingError: As `predict_eps`.
        """
        a_t = schedule.alpha_cumprod(t)
        eps = self.predict_eps(x_t, t, index)
        return (x_t - math.sqrt(1.0 - a_t) * eps) / math.sqrt(a_t)

    def _check(self) -> None:
        """Wait for the evaluation that is not yet checked, if there is one, and raise if it is not finite."""
        one, self._unchecked = self._unchecked, None
        if one is None:
            return
        if one.copied is not None:
            one.copied.synchronize()
        if one.finite.all():
            return
        bad = [image for image, good in enumerate(one.finite.tolist()) if not good]
        cause = "its input was finite" if torch.isfinite(one.x_t).all() else "its input was already not finite"
        raise SamplingError(
            f"The model returned NaN or infinity in step {one.index + 1} of {self._steps} (timestep {one.t:g}), for "
            f"{len(bad)} of {len(one.finite)} images, the first at index {bad[0]}; {cause}. "
            "Check the latent that the sampler starts from, the checkpoint (LDM Model Info, or `ldm inspect`) and "
            "whatever patches the model; if it runs in half precision, try float32."
        )
