"""Noise depends on an image's own seed and on nothing else."""

from __future__ import annotations

import pytest
import torch

from ldm_backend.errors import InputError
from ldm_backend.sampling.noise import StepNoise, draw_noise

SHAPE = (3, 64, 64)


def test_x_t_is_what_manual_seed_gives():
    """The model card's `torch.manual_seed(3)` and draw of (1, 3, 64, 64)."""
    with torch.random.fork_rng():
        torch.manual_seed(3)
        expected = torch.randn((1, *SHAPE))
    assert torch.equal(draw_noise([3], SHAPE), expected)


def test_batch_order_and_neighbours_do_not_matter():
    batch = draw_noise([5, 6, 7], SHAPE)
    assert torch.equal(batch[2:], draw_noise([7], SHAPE))
    assert torch.equal(batch.flip(0), draw_noise([7, 6, 5], SHAPE))


def test_step_noise_continues_the_stream_of_each_seed():
    """Draws two and three of the generator whose first draw is x_T."""
    generator = torch.Generator().manual_seed(9)
    draws = [torch.randn(SHAPE, generator=generator) for _ in range(3)]
    step_noise = StepNoise([1, 9], SHAPE)
    assert torch.equal(step_noise()[1], draws[1])
    assert torch.equal(step_noise()[1], draws[2])


def test_the_global_generator_is_left_alone():
    before = torch.random.get_rng_state()
    draw_noise([1], SHAPE)
    StepNoise([1], SHAPE)()
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_largest_seed_works():
    assert torch.isfinite(draw_noise([2**64 - 1], (1, 4, 4))).all()


@pytest.mark.parametrize("seeds", [[], [-1], [2**64], [1.5], ["3"], [True]])
def test_bad_seeds(seeds):
    with pytest.raises(InputError, match="seed"):
        draw_noise(seeds, SHAPE)
