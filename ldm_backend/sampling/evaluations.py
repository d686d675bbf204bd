"""The model as one run of a sampler calls it, with the check of each evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType

import torch
from torch import Tensor

from ..errors import SamplingError
from .prediction import Prediction, clipped, prediction_of, thresholded
from .schedule import Schedule
from .step import Correcting, Denoiser, runs_ahead


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
        denoiser: The model; where it is `Correcting`, clean latents are those that it has corrected.
        schedule: Tables; its configuration says what the model gives.
        steps: Of the whole run, for the message.
    """

    def __init__(self, denoiser: Denoiser, schedule: Schedule, steps: int) -> None:
        self._denoiser, self._schedule, self._steps = denoiser, schedule, steps
        self._unchecked: _Evaluation | None = None
        self._correcting = denoiser if isinstance(denoiser, Correcting) else None

    def __enter__(self) -> Evaluations:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._check()
        self._unchecked = None

    def output(self, x_t: Tensor, t: float, index: int) -> Tensor:
        """One evaluation of the model, as it comes.

        Args:
            x_t: (N, C, H, W) float32 latents; not to be written to afterwards.
            t: Their timestep.
            index: Of the step, from 0, for the message.

        Returns:
            (N, C, H, W) float32, the noise or what else `prediction_type` says.

        Raises:
            SamplingError: The model gave NaN or infinity, here or, on a card, in the evaluation before.
        """
        output = self._denoiser(x_t, t).float()
        ahead, copied = runs_ahead(output.device), None
        # Where it does not block, torch copies into pinned memory.
        finite = torch.isfinite(output).flatten(1).all(dim=1).to("cpu", non_blocking=ahead)
        if ahead:
            copied = torch.cuda.Event(blocking=True)  # to sleep meanwhile costs nothing: the card has work
            copied.record(torch.cuda.current_stream(output.device))
            self._check()
        self._unchecked = _Evaluation(index, t, x_t, finite, copied)
        if not ahead:
            self._check()
        return output

    def predict(self, x_t: Tensor, t: float, index: int) -> Prediction:
        """One evaluation, for DDIM and its like: the clean latent clipped where the configuration says so.

        The noise stays the one that the model means, also where the clean latent was clipped, as in diffusers.

        Args:
            x_t: (N, C, H, W) float32 latents; not to be written to afterwards.
            t: Their timestep.
            index: Of the step, from 0, for the message.

        Raises:
            SamplingError: As `output`.
            ScheduleError: As `prediction_of`.
        """
        pred_x0, eps = prediction_of(self._schedule, self.output(x_t, t, index), x_t, t)
        return Prediction(self.corrected(clipped(self._schedule.config, pred_x0), t), eps)

    def predict_x0(self, x_t: Tensor, t: float, index: int) -> Tensor:
        """One evaluation, for the solvers: the clean latent, thresholded where the configuration says so.

        Args, raises: as `predict`.

        Returns:
            (N, C, H, W) float32 latents.
        """
        pred_x0 = prediction_of(self._schedule, self.output(x_t, t, index), x_t, t).pred_x0
        return self.corrected(thresholded(self._schedule.config, pred_x0), t)

    def corrected(self, pred_x0: Tensor, t: float) -> Tensor:
        """The clean latent of the last evaluation as the model corrects it, where it does."""
        return pred_x0 if self._correcting is None else self._correcting.corrected(pred_x0, t)

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
