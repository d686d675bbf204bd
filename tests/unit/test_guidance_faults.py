"""Guided runs that are interrupted or out of memory, numbers that are none in guides, each image of a batch alone."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import ldm_backend
from ldm_backend.errors import InputError, SamplingError, TooLargeError
from ldm_backend.guidance import costs
from ldm_backend.guidance.guided import Guides
from ldm_backend.guidance.guides import Guide, LossGradient, Projection, ScoreGradient
from ldm_backend.guidance.losses import AnyLoss, MeanColour, Palette, PictureLoss, Reference, Style
from ldm_backend.guidance.measurements import Blurred, GreyPicture, KnownPixels, LowResolution, Measurement
from ldm_backend.pipeline import sample_latents
from ldm_backend.sampling.samplers import StepInfo

Model = ldm_backend.LatentDiffusion
RNG = np.random.default_rng(8)
PICTURES = RNG.random((3, 32, 32, 3)).astype(np.float32)
MASKS = RNG.random((3, 32, 32)) > 0.6
SEEDS = [7, 2**64 - 1, 3]


def measured(part: slice = slice(None)) -> dict[str, Measurement]:
    pictures = PICTURES[part]
    return {
        "low resolution": LowResolution(pictures[:, ::4, ::4], 4),
        "known pixels": KnownPixels(pictures, MASKS[part]),
        "grey": GreyPicture(pictures, noise=0.05),
        "blurred": Blurred(pictures, 1.0),
    }


def wanted(part: slice = slice(None)) -> dict[str, PictureLoss]:
    pictures = PICTURES[part]
    return {
        "mean colour": MeanColour((0.9, 0.2, 0.1)),
        "palette": Palette([(0.9, 0.2, 0.1), (0.0, 0.3, 0.4)]),
        "reference": Reference(pictures, MASKS[part]),
        "style": Style(pictures),
        "any": AnyLoss(lambda x: x.abs().mean((1, 2, 3))),
    }


def guides_of(part: slice = slice(None)) -> dict[str, Guide]:
    """Every way with everything that it takes."""
    found: dict[str, Guide] = {f"projection, {name}": Projection(known) for name, known in measured(part).items()}
    found |= {f"linear, {name}": Projection(known, codec="linear") for name, known in measured(part).items()}
    both: dict[str, Measurement | PictureLoss] = {**measured(part), **wanted(part)}
    found |= {f"loss, {name}": LossGradient(each, inner=2) for name, each in both.items()}
    return found | {f"score, {name}": ScoreGradient(each) for name, each in both.items()}


def run(model: Model, guide: Guide, seeds: list[int] = SEEDS, steps: int = 2, **settings: Any) -> Tensor:
    return sample_latents(model, seeds, steps, 1.0, guides=Guides(guide), **settings)


@pytest.mark.parametrize("name", guides_of())
def test_each_image_of_a_batch_is_that_of_its_own_run(tiny, name):
    """A batch of another size rounds its sums otherwise: 1e-3 of latents of 1; a guide of another image is far more."""
    together = run(tiny, guides_of()[name])
    assert (together - sample_latents(tiny, SEEDS, 2, 1.0)).abs().amax((1, 2, 3)).min() > 0.01
    for index in range(3):
        part = slice(index, index + 1)
        torch.testing.assert_close(run(tiny, guides_of(part)[name], SEEDS[part])[0], together[index], rtol=0, atol=1e-3)


def numbers_of_numpy() -> np.ndarray:
    state: Any = np.random.get_state()
    return state[1].copy()


def test_no_guide_touches_a_global_generator(tiny):
    torch_before, numpy_before, own_before = torch.get_rng_state(), numbers_of_numpy(), random.getstate()
    for guide in guides_of().values():
        run(tiny, guide, steps=1)
    images = (PICTURES * 255).astype(np.uint8)
    tasks: dict[str, dict[str, Any]] = {
        "upscale": {}, "inpaint": {"masks": MASKS}, "colourise": {}, "deblur": {"blur": 1.0},
    }  # fmt: skip
    for task, given in tasks.items():
        ldm_backend.restore(tiny, images, SEEDS, task, steps=1, **given)
    assert torch.equal(torch_before, torch.get_rng_state())
    assert np.array_equal(numpy_before, numbers_of_numpy())
    assert own_before == random.getstate()


class InterruptedByUserError(Exception):
    """Of a user, in a callback."""


@pytest.mark.parametrize("kind", ["projection", "linear", "loss", "score"])
def test_an_interruption_ends_the_run_and_leaves_the_model_as_it_was(tiny, kind):
    guide = guides_of()[f"{kind}, low resolution"]
    before, plain = run(tiny, guide, steps=4), sample_latents(tiny, SEEDS, 4, 1.0)
    steps: list[int] = []

    def interrupt(info: StepInfo) -> None:
        steps.append(info.index)
        if info.index == 1:
            raise InterruptedByUserError

    with pytest.raises(InterruptedByUserError):
        run(tiny, guide, steps=4, callback=interrupt)
    assert steps == [0, 1]
    assert torch.is_grad_enabled()
    assert not torch.is_inference_mode_enabled()
    assert all(weight.grad is None for network in (tiny.unet, tiny.first_stage) for weight in network.parameters())
    assert torch.equal(run(tiny, guide, steps=4), before)
    assert torch.equal(sample_latents(tiny, SEEDS, 4, 1.0), plain)


def test_an_interrupted_restoration_can_be_repeated(tiny):
    images = (PICTURES * 255).astype(np.uint8)
    before = ldm_backend.restore(tiny, images, SEEDS, "colourise", steps=3)

    def interrupt(info: StepInfo) -> None:
        if info.index == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ldm_backend.restore(tiny, images, SEEDS, "colourise", steps=3, callback=interrupt)
    assert np.array_equal(ldm_backend.restore(tiny, images, SEEDS, "colourise", steps=3), before)


@pytest.mark.parametrize("kind", [LossGradient, ScoreGradient])
@pytest.mark.parametrize("name", [*measured(), *wanted()])
def test_too_little_memory_for_a_gradient_is_told_before_anything_is_computed(tiny, monkeypatch, kind, name):
    monkeypatch.setattr(costs, "free_bytes", lambda device: 2**20)
    monkeypatch.setattr(type(tiny.unet), "forward", lambda *_: pytest.fail("evaluated"))
    monkeypatch.setattr(type(tiny.first_stage), "decode", lambda *_, **__: pytest.fail("decoded"))
    each = ({**measured(), **wanted()})[name]
    with pytest.raises(TooLargeError, match="A gradient through the decoder: 1 image of 32x32"):
        run(tiny, kind(each), callback=lambda info: pytest.fail("a step"))


def running_out(network: torch.nn.Module, from_call: float, images: int, calls: list[int]) -> Any:
    """A hook by which a network runs out of memory from a call on, where it is asked for at least so many images."""

    def run_out(module: torch.nn.Module, given: tuple[Tensor, ...]) -> None:
        calls.append(len(given[0]))
        if len(calls) >= from_call and len(given[0]) >= images:
            raise torch.OutOfMemoryError("CUDA out of memory.")

    return network.register_forward_pre_hook(run_out)


# What works in the middle of a step: the decoder for all, the encoder for a projection, the UNet for a score.
IN_THE_MIDDLE = {"projection": "decoder", "projection, encoding": "encoder", "loss": "decoder", "score": "unet"}


@pytest.mark.parametrize("kind", IN_THE_MIDDLE)
def test_memory_that_runs_out_in_the_middle_costs_time_alone(tiny, kind):
    """The batch goes on in parts, with the pictures that it would have had; other batches round otherwise."""
    guide = guides_of()[f"{kind.partition(',')[0]}, low resolution"]
    before = run(tiny, guide, steps=4)
    network = tiny.unet if IN_THE_MIDDLE[kind] == "unet" else getattr(tiny.first_stage, IN_THE_MIDDLE[kind])
    hook = running_out(network, from_call=2, images=2, calls=[])
    try:
        made = run(tiny, guide, steps=4)
    finally:
        hook.remove()
    torch.testing.assert_close(made, before, rtol=0, atol=1e-3)


@pytest.mark.parametrize("kind", IN_THE_MIDDLE)
def test_where_one_picture_is_too_much_in_the_middle_it_is_said(tiny, kind):
    guide = guides_of()[f"{kind.partition(',')[0]}, low resolution"]
    network = tiny.unet if IN_THE_MIDDLE[kind] == "unet" else getattr(tiny.first_stage, IN_THE_MIDDLE[kind])
    calls, steps = [], []
    hook = running_out(network, from_call=math.inf, images=1, calls=calls)
    before = run(tiny, guide, steps=4)
    hook.remove()
    hook = running_out(network, from_call=len(calls) // 2, images=1, calls=[])
    try:
        with pytest.raises(TooLargeError, match="Make the image smaller, or close other programs"):
            run(tiny, guide, steps=4, callback=lambda info: steps.append(info.index))
    finally:
        hook.remove()
    assert 0 < len(steps) < 4
    assert torch.is_grad_enabled()
    assert torch.equal(run(tiny, guide, steps=4), before)


def spoiled(value: float, *shape: int) -> np.ndarray:
    found = np.full(shape, 0.5, np.float32)
    found.flat[-1] = value
    return found


# What holds a number that is none; each makes a guide, or is refused when it is bound to a run.
SPOILED: dict[str, Callable[[float], Guide]] = {
    "low resolution": lambda v: Projection(LowResolution(spoiled(v, 3, 8, 8, 3), 4)),
    "known pixels": lambda v: Projection(KnownPixels(spoiled(v, 3, 32, 32, 3), MASKS)),
    "masks": lambda v: Projection(KnownPixels(PICTURES, spoiled(v, 3, 32, 32))),
    "grey": lambda v: Projection(GreyPicture(spoiled(v, 1, 32, 32, 1))),
    "blurred": lambda v: Projection(Blurred(spoiled(v, 3, 32, 32, 3), 1.0)),
    "kernel": lambda v: Projection(Blurred(PICTURES, spoiled(v, 3, 3))),
    "sigma": lambda v: Projection(Blurred(PICTURES, v)),
    "noise": lambda v: Projection(GreyPicture(PICTURES, noise=v)),
    "strength of a projection": lambda v: Projection(GreyPicture(PICTURES), v),
    "strength of a loss": lambda v: LossGradient(GreyPicture(PICTURES), v),
    "strength of a score": lambda v: ScoreGradient(GreyPicture(PICTURES), v),
    "start": lambda v: Projection(GreyPicture(PICTURES), start=v),
    "end": lambda v: Projection(GreyPicture(PICTURES), end=v),
    "colour": lambda v: LossGradient(MeanColour((0.5, v, 0.5))),
    "palette": lambda v: ScoreGradient(Palette([(0.5, 0.5, 0.5), (v, 0.5, 0.5)])),
    "reference": lambda v: LossGradient(Reference(spoiled(v, 3, 32, 32, 3))),
    "mask of a reference": lambda v: LossGradient(Reference(PICTURES, spoiled(v, 32, 32))),
    "style": lambda v: ScoreGradient(Style(spoiled(v, 1, 32, 32, 3))),
}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", SPOILED)
def test_a_number_that_is_none_is_refused_before_anything_is_drawn(tiny, name, value):
    with pytest.raises(InputError):
        run(tiny, SPOILED[name](value), callback=lambda info: pytest.fail("a step"))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("kind", [LossGradient, ScoreGradient])
def test_a_loss_that_becomes_none_ends_the_run_and_not_the_model(tiny, kind, value):
    """At the second step, and of one picture alone."""
    plain, calls = sample_latents(tiny, SEEDS, 3, 1.0), [0]

    def function(x: Tensor) -> Tensor:
        calls[0] += 1
        factor = torch.ones(len(x))
        factor[-1] = value if calls[0] > 1 else 1.0
        return (1.0 + x.square().mean((1, 2, 3))) * factor

    with pytest.raises(SamplingError, match="loss of a guide is NaN or infinite for 1 of"):
        run(tiny, kind(AnyLoss(function)), steps=3)
    assert torch.equal(sample_latents(tiny, SEEDS, 3, 1.0), plain)


@pytest.mark.parametrize("kind", [LossGradient, ScoreGradient])
@pytest.mark.parametrize(
    "function",
    [lambda x: (x * 0.0).mean((1, 2, 3)).sqrt(), lambda x: (x * 0.0).sum((1, 2, 3)).abs().pow(0.25)],
    ids=["NaN", "infinite times zero"],
)
def test_a_gradient_that_is_none_of_a_finite_loss_ends_the_run(tiny, kind, function):
    """A root has none at zero; it was taken for a gradient of zero, and the guide did nothing without a word."""
    with pytest.raises(SamplingError, match="gradient of the loss of a guide is NaN or infinite for"):
        run(tiny, kind(AnyLoss(function)))


SIZES: dict[str, Callable[[], Guide]] = {
    "low resolution": lambda: Projection(LowResolution(PICTURES[:, :4, :4], 4)),
    "known pixels": lambda: Projection(KnownPixels(PICTURES[:, :24], MASKS)),
    "their masks": lambda: Projection(KnownPixels(PICTURES, MASKS[:, :24])),
    "grey": lambda: LossGradient(GreyPicture(PICTURES[:, :, :16])),
    "blurred": lambda: ScoreGradient(Blurred(PICTURES[:, :16, :16], 1.0)),
    "reference": lambda: LossGradient(Reference(PICTURES[:, :16])),
    "mask of a reference": lambda: LossGradient(Reference(PICTURES, MASKS[:, :16])),
    "style": lambda: ScoreGradient(Style(PICTURES[:, :16])),
    "number": lambda: Projection(GreyPicture(PICTURES[:2])),
    "mask of nothing": lambda: Projection(KnownPixels(PICTURES, MASKS & False)),
    "mask of everything": lambda: Projection(KnownPixels(PICTURES, MASKS | True)),
    "reference of nothing": lambda: LossGradient(Reference(PICTURES, MASKS & False)),
}


@pytest.mark.parametrize("name", SIZES)
def test_a_guide_of_another_size_and_masks_without_sense_are_refused_before_anything_is_drawn(tiny, name):
    with pytest.raises(InputError):
        run(tiny, SIZES[name](), callback=lambda info: pytest.fail("a step"))


def test_a_reference_everywhere_is_one_with_a_mask_of_everything(tiny):
    whole = run(tiny, LossGradient(Reference(PICTURES)))
    torch.testing.assert_close(run(tiny, LossGradient(Reference(PICTURES, MASKS | True))), whole)
