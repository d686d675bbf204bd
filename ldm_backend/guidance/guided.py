"""A denoiser with guides: what a sampler calls instead of the network, whichever sampler it is."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError, SamplingError, short_repr
from ..memory.chunks import Chunks
from ..networks.conditioned import Conditioned
from ..networks.decoding import most_at_once
from ..networks.deep_cache import DeepCache
from ..networks.first_stage import FirstStage
from ..networks.unet import UNet
from ..pipeline import LatentDiffusion
from ..sampling.prediction import prediction_of
from ..sampling.schedule import Schedule
from ..sampling.step import Denoiser
from .codecs import LinearCodec, NetworkCodec
from .costs import check_gradients
from .gradients import descended, gradient, normalised, tracked, with_gradients
from .guides import LINEAR, NETWORK, Guide, LossGradient, Projection, ScoreGradient
from .measurements import Bound, BoundLoss
from .space import Space

# Turns that several projections take on one picture, which cost no network.
_TURNS = 10
# Variance of the pixels of a picture in [-1, 1] that nothing is known of, see `damping`.
_PIXEL_VARIANCE = 0.25


def damping(alpha_cumprod: float, variance: float, strength: float = 1.0) -> float:
    """The share of a correction that is added, 1 where the measurement is exact.

    A prediction is uncertain by about r^2 = v (1 - a_t), since what is left of a normal variable's variance of 1 after
    x_t was seen is 1 - a_t. Of two estimates the best mean weighs each by the other's variance: r^2 / (r^2 + variance).
    So the early steps follow the measurement, and the last ones, which would copy its noise, do not.

    Args:
        alpha_cumprod: a_t of the evaluation.
        variance: Of what the noise in the measurement adds to a picture, see `Bound`.
        strength: Factor of the result.

    Source: the weights of IIGDM (Song et al., ICLR 2023, Pseudoinverse-guided diffusion models), eq. 8.
    """
    r2 = _PIXEL_VARIANCE * (1.0 - alpha_cumprod)
    return strength * r2 / (r2 + variance) if variance else strength


class Guided:
    """A `Denoiser` for one run that knows what its guides know; each run needs its own.

    Called, it gives what the network predicts, with the noise corrected by score gradients. Afterwards the sampler has
    the clean latent that follows from it corrected by the other guides (`Correcting`), and DDIM goes on with the noise
    as the network predicted it. The noise that belongs to the corrected latent would be the alternative, and with it
    DDIM would need no more than the call: on the demo that costs 0.2 to 1.5 dB at eta 1 (docs/guidance.md). For the
    solvers, which know clean latents alone, and for DDPM both are the same.

    Args:
        denoiser: The network, or `Conditioned`. A `ScoreGradient` calls it with any part of the batch.
        schedule: Tables of the model.
        first_stage: Of the model.
        guides: At least one; score gradients work first, then gradients of losses, then projections.
        shape: (N, C, h, w) of the latents of the run.
        unet: That the denoiser calls, for its share of the memory of score gradients; None where it is another one.
        device: To work on; None is where the weights of the first stage are.

    Raises:
        InputError: A guide does not fit to the pictures of the run, or needs a gradient that cannot be.
        TooLargeError: A gradient needs more memory than there is.
    """

    def __init__(
        self,
        denoiser: Denoiser,
        schedule: Schedule,
        first_stage: FirstStage,
        guides: Sequence[Guide],
        shape: Sequence[int],
        unet: UNet | None = None,
        device: torch.device | None = None,
    ) -> None:
        if not guides or not all(isinstance(guide, Projection | LossGradient | ScoreGradient) for guide in guides):
            raise InputError(
                f"guides is {short_repr(list(guides))}; expected Projection, LossGradient or ScoreGradient."
            )
        if isinstance(denoiser, DeepCache) and any(isinstance(guide, ScoreGradient) for guide in guides):
            raise InputError(
                "guides hold a ScoreGradient, whose gradient goes through the whole UNet, and cache_interval is above "
                "1; set it to 1, or take a LossGradient."
            )
        self._denoiser, self._schedule, self._first_stage = denoiser, schedule, first_stage
        scale = first_stage.downscale
        space = Space(first_stage, shape[0], shape[2] * scale, shape[3] * scale, device)
        self._cost = check_gradients(guides, space, unet)
        self._projections = [(g, g.known.bound(space)) for g in guides if isinstance(g, Projection)]
        self._losses = [(g, g.wanted.loss(space)) for g in guides if isinstance(g, LossGradient)]
        self._scores = [(g, g.wanted.loss(space)) for g in guides if isinstance(g, ScoreGradient)]
        makers: dict[str, Callable[[], Any]] = {
            LINEAR: lambda: LinearCodec(first_stage),
            NETWORK: lambda: NetworkCodec(first_stage, space.device),
        }
        used = {guide.codec for guide, _ in self._projections}
        self._codecs = {name: make() for name, make in makers.items() if name in used}
        self._chunks = Chunks("Guidance by gradient")
        self._last_t: float | None = None
        self._seen = dict.fromkeys(guides, 0)  # timesteps within the window of each
        self._active: set[Guide] = set()  # at the last one

    @torch.no_grad()
    def __call__(self, x_t: Tensor, t: float) -> Tensor:
        """What the network predicts for (N, C, h, w) latents at timestep t, corrected by score gradients.

        Raises:
            TooLargeError: Memory ran out for a single image.
            InputError: A loss has another shape than it must, or no gradient.
            SamplingError: A loss is NaN or infinite.
        """
        self._count(t)
        scores = [one for one in self._scores if one[0] in self._active]
        if not scores or self._schedule.alpha_cumprod(t) == 0.0:  # then x_t is all noise, whatever the picture
            return self._denoiser(x_t, t)
        return self._in_parts(x_t, lambda part: self._scored(x_t, t, part, scores))

    @torch.no_grad()
    def corrected(self, pred_x0: Tensor, t: float) -> Tensor:
        """The clean latent that was predicted at timestep t, (N, C, h, w), corrected by all other guides.

        Raises:
            TooLargeError, InputError, SamplingError: As when it is called; also where the result is not finite.
        """
        z = pred_x0
        for guide, loss in self._losses:
            if guide in self._active:
                z = self._moved(z, t, guide, loss)
        for name, codec in self._codecs.items():
            projections = [one for one in self._projections if one[0] in self._active and one[0].codec == name]
            if projections:
                before = codec.picture(z)
                z = z + codec.change(before, self._agreeing(before, t, projections))
        if z is not pred_x0 and not bool(torch.isfinite(z).all()) and bool(torch.isfinite(pred_x0).all()):
            raise SamplingError(
                f"A guide made NaN or infinity of finite latents at timestep {t:g}. Take a smaller strength, or "
                "float32 for the first stage."
            )
        return z

    def _count(self, t: float) -> None:
        """Find the guides that work at this timestep; asked for the same one again, as by plms, the same ones."""
        if t == self._last_t:
            return
        self._last_t = t
        progress = 1.0 - t / max(1, self._schedule.num_train_timesteps - 1)
        inside = [guide for guide in self._seen if guide.start <= progress <= guide.end]
        self._active = {guide for guide in inside if self._seen[guide] % guide.every == 0}
        for guide in inside:
            self._seen[guide] += 1

    def _in_parts(self, x: Tensor, work: Callable[[slice], Tensor]) -> Tensor:
        return self._chunks.whole(work, x.shape, x.device, self._cost, most_at_once(x.device, elsewhere=1))

    def _scored(self, x_t: Tensor, t: float, part: slice, scores: list[tuple[ScoreGradient, BoundLoss]]) -> Tensor:
        """The network's output, its noise corrected as LDM appendix C says, see `ScoreGradient`."""
        a_t = self._schedule.alpha_cumprod(t)
        denoiser = self._denoiser.part(part) if isinstance(self._denoiser, Conditioned) else self._denoiser
        with with_gradients():
            x = tracked(x_t[part])
            output = denoiser(x, t)
            z = prediction_of(self._schedule, output, x, t).pred_x0
            total = torch.zeros_like(x)
            for guide, loss in scores:
                total = total + guide.strength * normalised(gradient(self._first_stage, loss, z, part, x))
        return output.detach() + factor_of_score(self._schedule.config.prediction_type, a_t) * total.detach()

    def _moved(self, z: Tensor, t: float, guide: LossGradient, loss: BoundLoss) -> Tensor:
        length = guide.strength * math.sqrt(1.0 - self._schedule.alpha_cumprod(t))

        def work(part: slice) -> Tensor:
            def of(tracked_z: Tensor) -> Tensor:
                return gradient(self._first_stage, loss, tracked_z, part)

            return descended(z[part], of, length, guide.inner)

        return self._in_parts(z, work)

    def _agreeing(self, x: Tensor, t: float, projections: list[tuple[Projection, Bound]]) -> Tensor:
        """Pictures that agree with all measurements, or as far as these are certain."""
        a_t = self._schedule.alpha_cumprod(t)
        turns = 1 if len(projections) == 1 else _TURNS
        for _ in range(turns):
            for guide, bound in projections:
                share = damping(a_t, bound.variance, guide.strength)
                x = x + (1.0 - (1.0 - share) ** (1.0 / turns)) * bound.correction(x)
        return x


class Guides:
    """Guides for `ldm_backend.generate`, and for any function that runs a denoiser over a batch.

    Args:
        guides: At least one; see `guides`.
    """

    def __init__(self, *guides: Guide) -> None:
        self._guides = guides

    def __call__(self, model: LatentDiffusion, denoiser: Denoiser, shape: tuple[int, int, int, int]) -> Guided:
        """The denoiser of one run, guided; arguments and errors are those of `Guided`."""
        return Guided(denoiser, model.schedule, model.first_stage, self._guides, shape, model.unet)


def factor_of_score(prediction_type: str, a_t: float) -> float:
    """How much the output of a network changes where its noise changes by sqrt(1 - a_t) times a gradient of 1."""
    signal, noise = math.sqrt(a_t), math.sqrt(1.0 - a_t)
    if prediction_type == "sample":  # x_0 = (x_t - noise * eps) / signal
        return -noise * noise / signal
    if prediction_type == "v_prediction":  # v = (eps - noise * x_t) / signal
        return noise / signal
    return noise
