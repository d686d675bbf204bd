"""What guides know of a picture: operators against torch, projections exact in pixels, refusals."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d, interpolate, pad

import ldm_backend
from ldm_backend.errors import InputError
from ldm_backend.guidance.guided import damping
from ldm_backend.guidance.measurements import Blurred, GreyPicture, KnownPixels, LowResolution, Measurement
from ldm_backend.guidance.operators import FILTERS, blurring, gaussian, landweber, shrinking
from ldm_backend.guidance.space import Space
from ldm_backend.views.images import as_channels

Model = ldm_backend.LatentDiffusion
WHOLE = slice(None)


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2.0 - 1.0


def unit(x: Tensor) -> Tensor:
    """(N, C, H, W) in [-1, 1] as a user's pictures."""
    return (x.movedim(1, -1) + 1.0) / 2.0


@pytest.fixture
def space(tiny: Model) -> Space:
    return Space(tiny.first_stage, 2, 24, 32)


@pytest.mark.parametrize("factor", [1, 2, 3, 4, 8])
def test_shrinking_is_that_of_torch(factor):
    x = draw(2, 3, 24, 48)
    box, _ = shrinking(24, 48, factor, "box")
    torch.testing.assert_close(box(x), avg_pool2d(x, factor))
    bicubic, _ = shrinking(24, 48, factor, "bicubic")
    size = (24 // factor, 48 // factor)
    torch.testing.assert_close(bicubic(x), interpolate(x, size, mode="bicubic", antialias=True), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("factor", [1, 2, 3, 4, 8, 24])
@pytest.mark.parametrize("kind", FILTERS)
def test_the_right_inverse_of_shrinking_is_one_and_is_smooth(factor, kind):
    shrink, enlarge = shrinking(24, 48, factor, kind)
    y = draw(1, 3, 24 // factor, 48 // factor)
    torch.testing.assert_close(shrink(enlarge(y)), y, rtol=0, atol=1e-9)
    flat = enlarge(torch.ones_like(y))
    torch.testing.assert_close(flat, torch.ones_like(flat), rtol=0, atol=1e-9)
    if (
        factor == 4 and kind == "box"
    ):  # neighbours differ less at the edges of blocks than in blocks that repeat a pixel
        ramp = torch.linspace(-1, 1, 12, dtype=torch.float64).expand(1, 1, 6, 12)
        assert enlarge(ramp).diff(dim=3).abs().max() < 0.5 * ramp.repeat_interleave(4, dim=3).diff(dim=3).abs().max()


KERNELS = {
    "gaussian": gaussian(1.3),
    "motion": torch.eye(5, dtype=torch.float64) / 5.0,
    "odd": draw(3, 7, seed=4).abs(),
    "one": torch.ones((1, 1), dtype=torch.float64),
}


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS.keys())
def test_blurring_is_a_correlation_of_the_mirrored_picture(kernel):
    x = draw(2, 3, 16, 24)
    high, wide = (side // 2 for side in kernel.shape)
    mirrored = pad(x, (wide, wide, high, high), mode="reflect")
    expected = conv2d(mirrored.flatten(0, 1)[:, None], kernel[None, None]).view(x.shape)
    torch.testing.assert_close(blurring(16, 24, kernel)(x), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("kernel", KERNELS.values(), ids=KERNELS.keys())
def test_the_adjoint_of_blurring_and_landweber(kernel):
    blur = blurring(16, 24, kernel / kernel.sum())
    x, y = draw(1, 3, 16, 24), draw(1, 3, 16, 24, seed=1)
    torch.testing.assert_close((blur(x) * y).sum(), (x * blur.adjoint(y)).sum())
    errors = [(blur(landweber(blur, (16, 24), steps)(blur(x))) - blur(x)).norm().item() for steps in (1, 5, 40)]
    assert errors[0] > errors[1] > errors[2] or errors[0] < 1e-9


def measured(x: Tensor) -> dict[str, Measurement]:
    shrink, _ = shrinking(24, 32, 4, "box")
    mask = np.zeros((24, 32), bool)
    mask[5:19, 7:20] = True
    return {
        "low": LowResolution(unit(shrink(x)), 4),
        "known": KnownPixels(unit(x), mask),
        "grey": GreyPicture(unit(as_channels(x, 1))),
    }


@pytest.mark.parametrize("name", ["low", "known", "grey"])
def test_a_projection_is_exact_in_pixels_and_leaves_what_agrees(space, name):
    """To float32, in which a guide keeps its pictures."""
    truth, x = draw(2, 3, 24, 32), draw(2, 3, 24, 32, seed=1)
    bound = measured(truth)[name].bound(space)
    projected = x + bound.correction(x)
    assert bound.difference(x, WHOLE).abs().max() > 0.1
    assert bound.difference(projected, WHOLE).abs().max() < 1e-6
    assert bound.correction(truth).abs().max() < 1e-6
    alone = bound.difference(x[1:], slice(1, 2))
    torch.testing.assert_close(alone, bound.difference(x, WHOLE)[1:])


def test_grey_keeps_the_colours(space):
    x = draw(2, 3, 24, 32)
    correction = GreyPicture(torch.rand(1, 24, 32, 1)).bound(space).correction(x)
    assert correction.shape == x.shape
    assert torch.equal(correction[:, 0], correction[:, 1])
    assert torch.equal(correction[:, 0], correction[:, 2])


def test_a_deblurred_picture_agrees_better(space):
    truth, x = draw(2, 3, 24, 32), draw(2, 3, 24, 32, seed=1)
    blur = blurring(24, 32, gaussian(1.5))
    bound = Blurred(unit(blur(truth)), 1.5).bound(space)
    before = bound.difference(x, WHOLE).norm()
    assert bound.difference(x + bound.correction(x), WHOLE).norm() < 0.2 * before
    by_kernel = Blurred(unit(blur(truth)), 7.0 * gaussian(1.5)).bound(space)  # whatever its sum
    torch.testing.assert_close(by_kernel.correction(x), bound.correction(x), rtol=0, atol=1e-6)


def test_the_loss_of_a_measurement_is_half_its_squared_difference(space):
    x = draw(2, 3, 24, 32)
    for measurement in measured(draw(2, 3, 24, 32, seed=1)).values():
        bound = measurement.bound(space)
        expected = 0.5 * bound.difference(x, WHOLE).pow(2).sum((1, 2, 3))
        torch.testing.assert_close(measurement.loss(space)(x, WHOLE), expected)


def test_noise_makes_a_correction_smaller_towards_the_end():
    assert [damping(a, 0.0) for a in (0.0, 0.5, 1.0)] == [1.0, 1.0, 1.0]
    shares = [damping(a, 0.01) for a in (0.0, 0.5, 0.99, 1.0)]
    assert shares == sorted(shares, reverse=True)
    assert shares[0] > 0.9
    assert shares[-1] == 0.0
    assert damping(0.5, 0.01, 0.5) == pytest.approx(damping(0.5, 0.01) / 2)


def test_noise_counts_for_as_much_as_the_inverse_makes_of_it(space):
    """A low-resolution pixel determines one of f^2 numbers and fills all: f^2 times, a third more by being smooth."""
    x = torch.rand(2, 24, 32, 3)

    def gain(measurement: Measurement) -> float:
        return measurement.bound(space).variance / 0.2**2

    low = [gain(LowResolution(x[:, ::f, ::f], f, noise=0.1)) for f in (1, 2, 4)]
    assert low[0] == pytest.approx(1.0)
    assert 4.0 < low[1] < 4.0 * 1.4
    assert 16.0 < low[2] < 16.0 * 1.4
    assert gain(KnownPixels(x, np.eye(24, 32), noise=0.1)) == pytest.approx(1.0)
    assert gain(GreyPicture(x, noise=0.1)) == pytest.approx(3.0)
    one = torch.ones((1, 1))
    blurred = [gain(Blurred(x, kernel, noise=0.1)) for kernel in (one, 0.5, 1.0, 2.0)]
    assert blurred[0] == pytest.approx(1.0)
    assert blurred == sorted(blurred)
    assert gain(Blurred(x, 2.0, steps=3, noise=0.1)) < gain(Blurred(x, 2.0, steps=100, noise=0.1))
    assert LowResolution(x, 1).bound(space).variance == 0.0


PICTURE = torch.rand(2, 24, 32, 3)
NAN = PICTURE.clone()
NAN[1, 3, 4, 0] = torch.nan
REFUSED: dict[str, tuple[Any, str]] = {
    "size": (lambda: LowResolution(PICTURE, 4), r"The low-resolution picture: 2 of 32x24 .* of 8x6"),
    "factor that does not divide": (lambda: LowResolution(PICTURE, 5), "multiples of 5"),
    "factor": (lambda: LowResolution(PICTURE, 0), "factor is 0"),
    "factor that is no number": (lambda: LowResolution(PICTURE, True), "factor is True"),
    "filter": (lambda: LowResolution(PICTURE, 4, "lanczos"), "filter is 'lanczos'"),
    "number": (lambda: GreyPicture(torch.rand(3, 24, 32, 1)), "The grey picture: 3 of 32x24"),
    "nan": (lambda: GreyPicture(NAN), "NaN or infinity"),
    "shape": (lambda: GreyPicture(PICTURE[0]), "The images have shape"),
    "alpha": (lambda: GreyPicture(torch.rand(2, 24, 32, 4)), "transparency"),
    "mask of another size": (lambda: KnownPixels(PICTURE, np.ones((8, 8), bool)), "The masks have shape"),
    "empty mask": (lambda: KnownPixels(PICTURE, np.zeros((24, 32), bool)), "A mask is empty"),
    "one empty mask": (lambda: KnownPixels(PICTURE, np.arange(2)[:, None, None] * np.eye(24, 32)), "A mask is empty"),
    "full mask": (lambda: KnownPixels(PICTURE, np.ones((24, 32), bool)), "covers its whole picture of 32x24"),
    "nan in a known picture": (lambda: KnownPixels(NAN, np.eye(24, 32)), "NaN or infinity"),
    "wide kernel": (lambda: Blurred(PICTURE, torch.ones(3, 65)), "65x3 taps"),
    "even kernel": (lambda: Blurred(PICTURE, torch.ones(4, 5)), "both odd"),
    "kernel of nothing": (lambda: Blurred(PICTURE, torch.zeros(3, 3)), "adds up to 0"),
    "nan in a kernel": (lambda: Blurred(PICTURE, torch.full((3, 3), torch.nan)), "adds up to nan"),
    "sigma": (lambda: Blurred(PICTURE, 0.0), "sigma of the blur is 0.0"),
    "endless sigma": (lambda: Blurred(PICTURE, float("inf")), "sigma of the blur is inf"),
    "steps": (lambda: Blurred(PICTURE, 1.0, 0), "steps is 0"),
    "noise": (lambda: GreyPicture(PICTURE, noise=-0.1), "noise is -0.1"),
    "nan noise": (lambda: GreyPicture(PICTURE, noise=float("nan")), "noise is nan"),
}


@pytest.mark.parametrize(("make", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_what_does_not_fit_is_refused(space, make, words):
    with pytest.raises(InputError, match=words):
        make().bound(space)
