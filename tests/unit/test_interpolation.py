"""Paths between latents: exact ends, the norm of noise all along, each image by itself."""

from __future__ import annotations

import math

import pytest
import torch

from ldm_backend.editing.interpolation import circle, line, slerp
from ldm_backend.errors import InputError
from ldm_backend.sampling.noise import draw_noise

SHAPE = (3, 32, 32)


@pytest.fixture
def ends() -> tuple[torch.Tensor, torch.Tensor]:
    a, b = draw_noise([3, 4], SHAPE).split(1)
    return a, b


def plane(*numbers: float) -> torch.Tensor:
    """A (1, 2, 1, 1) latent of two numbers, so that a path can be written down."""
    return torch.tensor(numbers, dtype=torch.float32).view(1, 2, 1, 1)


def test_slerp_divides_the_angle():
    """A third of a right angle is 30 degrees."""
    found = slerp(plane(1, 0), plane(0, 1), 1 / 3)
    torch.testing.assert_close(found, plane(math.cos(math.pi / 6), 0.5))


def test_slerp_of_unequal_norms():
    """The circle's weights apply to the vectors as they are: halfway between 2 and 1 at a right angle, each times
    sin(45) / sin(90)."""
    found = slerp(plane(2, 0), plane(0, 1), 0.5)
    torch.testing.assert_close(found, math.sqrt(0.5) * plane(2, 1))


def test_ends_are_exact(ends):
    a, b = ends
    assert torch.equal(slerp(a, b, 0.0), a)
    assert torch.equal(slerp(a, b, 1.0), b)
    for frames in (2, 7):
        path = line(a, b, frames)
        assert path.shape == (frames, *SHAPE)
        assert torch.equal(path[:1], a)
        assert torch.equal(path[-1:], b)


def test_a_line_keeps_the_norm_of_noise(ends):
    """Within the difference of the ends; a straight line would lose 29 percent halfway."""
    norms = line(ends[0], ends[1], 9).flatten(1).norm(dim=1)
    low, high = sorted((norms[0].item(), norms[-1].item()))
    assert low * 0.999 <= norms.min() <= norms.max() <= high * 1.001
    assert torch.lerp(ends[0], ends[1], 0.5).norm() < 0.75 * low


def test_steps_of_a_line_are_even(ends):
    path = line(ends[0], ends[1], 6).double().flatten(1)
    unit = path / path.norm(dim=1, keepdim=True)
    angles = (unit[1:] * unit[:-1]).sum(1).acos()
    # Even in the plane's own measure; the ends differ in norm by 2.6 percent, which bends the angles a little.
    assert angles.max() / angles.min() < 1.06


def test_parallel_latents_take_the_straight_line():
    """The same seed twice stays itself; twice as far is halfway 1.5 times as far."""
    x = draw_noise([1], SHAPE)
    torch.testing.assert_close(slerp(x, x, 0.3), x, rtol=0, atol=1e-6)
    torch.testing.assert_close(slerp(x, 2 * x, 0.5), 1.5 * x)


def test_zero_has_no_direction():
    x = draw_noise([1], SHAPE)
    torch.testing.assert_close(slerp(torch.zeros_like(x), x, 0.25), 0.25 * x)


def test_nearly_parallel_latents_are_not_noisy():
    """Just above the limit of the fallback the circle's formula still has all its digits."""
    a, b = plane(1, 0), plane(1, 1e-5)
    torch.testing.assert_close(slerp(a, b, 0.5), plane(1, 0.5e-5), rtol=1e-6, atol=1e-11)


def test_each_image_has_its_own_angle(ends):
    """A batch of an orthogonal, a parallel and an ordinary pair is the three alone."""
    a, b = ends
    first, second = torch.cat([a, a, b]), torch.cat([b, a, -0.5 * a + b])
    batch = slerp(first, second, 0.4)
    alone = [slerp(one, other, 0.4) for one, other in zip(first.split(1), second.split(1), strict=True)]
    assert torch.equal(batch, torch.cat(alone))


def test_opposites_have_no_shortest_way(ends):
    with pytest.raises(InputError, match="exact opposites"):
        slerp(ends[0], -ends[0], 0.5)


def test_a_circle_goes_through_both_and_closes(ends):
    a, b = ends
    loop = circle(a, b, 8)
    assert loop.shape == (8, *SHAPE)
    for index, expected in ((0, a), (2, b), (4, -a), (6, -b)):
        assert torch.equal(loop[index : index + 1], expected)
    torch.testing.assert_close(loop[1:2], math.sqrt(0.5) * (a + b))
    steps = (loop - loop.roll(1, dims=0)).flatten(1).norm(dim=1)  # the first one is from the last frame to the first
    assert steps.max() / steps.min() < 1.05


def test_a_circle_keeps_the_norm_of_noise(ends):
    """To half of the cosine between the two, 1 / sqrt(3072) = 0.018 in the mean."""
    norms = circle(ends[0], ends[1], 30).flatten(1).norm(dim=1)
    assert norms.max() / norms.min() < 1.06


def test_a_circle_of_frames_that_four_does_not_divide(ends):
    a, b = ends
    third = circle(a, b, 3)[1:2]
    torch.testing.assert_close(third, math.cos(math.tau / 3) * a + math.sin(math.tau / 3) * b)


def test_quarter_turns_are_exact():
    """math.cos(pi / 2) is 6e-17, which would show where b is zero."""
    assert circle(plane(1, 0), plane(0, 1), 4).flatten(1).tolist() == [[1, 0], [0, 1], [-1, 0], [0, -1]]


@pytest.mark.parametrize("factor", [1, -2])
def test_one_line_spans_no_circle(ends, factor):
    with pytest.raises(InputError, match="span no circle"):
        circle(ends[0], factor * ends[0], 4)


@pytest.mark.parametrize("path", [line, circle])
def test_what_is_no_path(ends, path):
    a, b = ends
    with pytest.raises(InputError, match=r"\(1, 3, 32, 32\) and \(1, 3, 32, 16\)"):
        path(a, b[..., :16], 4)
    with pytest.raises(InputError, match="got 2 of each"):
        path(torch.cat(ends), torch.cat(ends), 4)
    with pytest.raises(InputError, match="frames is 1"):
        path(a, b, 1)


@pytest.mark.parametrize("t", [-0.1, 1.5, float("nan")])
def test_t_out_of_range(ends, t):
    with pytest.raises(InputError, match="t is"):
        slerp(ends[0], ends[1], t)
