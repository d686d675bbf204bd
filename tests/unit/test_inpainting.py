"""RePaint's moves, the kept area, masks and the composite; no network."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from ldm_backend.config.model import ScheduleConfig
from ldm_backend.editing.inpainting import Move, composite, distance_inside, inpaint, latent_mask, repaint_moves
from ldm_backend.errors import InputError, SamplingError, ScheduleError
from ldm_backend.sampling.noise import StepNoise, add_noise, draw_noise
from ldm_backend.sampling.schedule import CLEAN, Schedule

SCHEDULE = Schedule(ScheduleConfig())
SHAPE = (3, 16, 16)
HALF = torch.zeros(1, 1, 16, 16, dtype=torch.bool)
HALF[..., 8:] = True


def test_moves_of_four_steps():
    """Two stretches of two steps, each twice, with a jump back in between."""
    down = [Move(999, 749, True), Move(749, 499, True), Move(499, 249, True), Move(249, CLEAN, True)]
    expected = [
        *down[:2], Move(499, 999, False), *down[:2],
        *down[2:], Move(CLEAN, 499, False), *down[2:],
    ]  # fmt: skip
    assert repaint_moves(SCHEDULE.timesteps(4, "trailing"), 2, 2) == expected


@pytest.mark.parametrize("grid", ["leading", "compvis", "trailing", "log_snr"])
@pytest.mark.parametrize(("steps", "jump_length", "resamples"), [(10, 1, 3), (10, 5, 1), (10, 3, 4), (4, 10, 2)])
def test_moves_join_and_are_counted(grid, steps, jump_length, resamples):
    pairs = SCHEDULE.timesteps(steps, grid)
    moves = repaint_moves(pairs, jump_length, resamples)
    assert sum(move.down for move in moves) == steps * resamples
    assert sum(not move.down for move in moves) == math.ceil(steps / jump_length) * (resamples - 1)
    assert all(left.t_prev == right.t for left, right in zip(moves, moves[1:], strict=False))
    assert all((move.t_prev < move.t) == move.down for move in moves)
    assert (moves[0].t, moves[-1].t_prev) == (pairs[0][0], pairs[-1][1])
    assert {(move.t, move.t_prev) for move in moves if move.down} == set(pairs)


def test_without_resampling_there_are_no_jumps():
    pairs = SCHEDULE.timesteps(7)
    assert repaint_moves(pairs, 3, 1) == [Move(t, t_prev, True) for t, t_prev in pairs]


@pytest.mark.parametrize(("jump_length", "resamples", "name"), [(0, 1, "jump_length"), (1, 0, "resamples")])
def test_moves_out_of_range(jump_length, resamples, name):
    with pytest.raises(ScheduleError, match=f"{name} is 0"):
        repaint_moves(SCHEDULE.timesteps(4), jump_length, resamples)


def towards(x_0: Tensor):
    """The perfect model of data that is always x_0."""

    def eps_model(x: Tensor, t: float) -> Tensor:
        a = SCHEDULE.alpha_cumprod(t)
        return (x - math.sqrt(a) * x_0) / math.sqrt(1 - a)

    return eps_model


def run(seeds, x_0, mask=HALF, eps_model=None, grid="trailing", steps=6, jump_length=2, resamples=3, callback=None):
    moves = repaint_moves(SCHEDULE.timesteps(steps, grid), jump_length, resamples)
    shape = x_0.shape[1:]
    return inpaint(
        eps_model or (lambda x, t: 0.9 * x), draw_noise(seeds, shape), x_0, mask.expand(len(x_0), -1, -1, -1), SCHEDULE,
        moves, StepNoise(seeds, shape), callback,
    )  # fmt: skip


@pytest.mark.parametrize("grid", ["leading", "compvis", "trailing"])
def test_the_kept_cells_are_the_input_to_the_bit(grid):
    x_0 = draw_noise([5, 6], SHAPE)
    result = run([1, 2], x_0, grid=grid, steps=5)
    assert torch.equal(result[..., :8], x_0[..., :8])
    assert (result[..., 8:] != x_0[..., 8:]).all()


def test_a_perfect_model_fills_in_what_it_knows():
    """Whatever the jumps, the masked half of the only image there is comes back."""
    x_0 = draw_noise([5], SHAPE)
    result = run([1], x_0 * ~HALF, eps_model=towards(x_0))
    torch.testing.assert_close(result, x_0, rtol=1e-4, atol=1e-4)


def test_every_evaluation_sees_the_noise_level_of_its_timestep():
    """Where the data is one image, x_t minus its share of it is noise of variance 1 - alphas_cumprod, on both sides."""
    x_0 = draw_noise([5], (3, 64, 64))
    mask = torch.zeros(1, 1, 64, 64, dtype=torch.bool)
    mask[..., 32:] = True
    model, visits = towards(x_0), []

    def watched(x, t):
        noise = (x - math.sqrt(SCHEDULE.alpha_cumprod(t)) * x_0) / math.sqrt(1 - SCHEDULE.alpha_cumprod(t))
        visits.append(t)
        for half in (noise[..., :32], noise[..., 32:]):
            assert half.std().item() == pytest.approx(1.0, abs=0.05)  # 6144 values: 0.009 is one standard error
        return model(x, t)

    run([1], x_0, mask, watched, steps=10, jump_length=5, resamples=4)
    assert len(visits) == 40


def test_image_of_a_batch_is_the_image_of_its_seed():
    x_0 = draw_noise([5, 6, 7], SHAPE)
    batch = run([1, 2, 3], x_0)
    backwards = run([3, 2, 1], x_0.flip(0)).flip(0)
    assert torch.equal(batch, backwards)
    for index, seed in enumerate([1, 2, 3]):
        assert torch.equal(batch[index : index + 1], run([seed], x_0[index : index + 1]))


def test_another_seed_paints_something_else():
    x_0 = draw_noise([5], SHAPE)
    assert not torch.equal(run([1], x_0), run([2], x_0))
    assert torch.equal(run([1], x_0), run([1], x_0))


def test_progress_counts_evaluations():
    seen = []
    x_0 = draw_noise([5], SHAPE)
    run(
        [1],
        x_0,
        callback=lambda info: seen.append((info.index, info.steps, torch.equal(info.pred_x0 * ~HALF, x_0 * ~HALF))),
    )
    assert seen == [(index, 18, True) for index in range(18)]


def test_nan_names_the_step():
    with pytest.raises(SamplingError, match="step 7 of 18"):
        run(
            [1],
            draw_noise([5], SHAPE),
            eps_model=lambda x, t: x * (math.nan if t < 700 else 1.0),
            jump_length=2,
            steps=6,
        )


def test_one_pixel_takes_its_cell():
    mask = torch.zeros(2, 8, 12)
    mask[1, 5, 3] = 0.01
    cells = latent_mask(mask, torch.Size([2, 3, 2, 3]), 4)
    assert cells.dtype == torch.bool
    assert cells[:, 0].tolist() == [[[False] * 3] * 2, [[False] * 3, [True, False, False]]]


@pytest.mark.parametrize("shape", [(8, 12), (1, 8, 12)])
def test_one_mask_serves_a_batch(shape):
    cells = latent_mask(torch.ones(shape), torch.Size([5, 3, 2, 3]), 4)
    assert cells.shape == (5, 1, 2, 3)
    assert cells.all()


@pytest.mark.parametrize(
    ("shape", "words"),
    [((1, 64, 64), ["(1, 64, 64)", "12 pixels wide and 8 high", "Load Image"]), ((3, 8, 12), ["3 masks for 2"])],
)
def test_mask_that_does_not_fit(shape, words):
    with pytest.raises(InputError) as caught:
        latent_mask(torch.ones(shape), torch.Size([2, 3, 2, 3]), 4)
    assert all(word in str(caught.value) for word in words)


def test_composite_is_exact_on_both_sides():
    image, inpainted = (draw_noise(seeds, (3, 16, 16)).movedim(1, -1).sigmoid() for seeds in ([1], [2, 3, 4]))
    mask = HALF[0].float()
    for feather in (0, 3):
        result = composite(image, inpainted, mask, feather)
        assert result.shape == (3, 16, 16, 3)
        assert torch.equal(result[:, :, :8], image[:, :, :8].expand(3, -1, -1, -1))
        assert torch.equal(result[:, :, 8 + feather :], inpainted[:, :, 8 + feather :])


def test_feather_fades_inside_the_mask_only():
    """Also when the mask touches the picture's border, where nothing is to fade into."""
    weight = composite(torch.zeros(1, 16, 16, 1), torch.ones(1, 16, 16, 1), HALF[0].float(), 3)[0, :, :, 0]
    expected = torch.tensor([0.0] * 8 + [0.25, 0.5, 0.75] + [1.0] * 5).expand(16, -1)
    torch.testing.assert_close(weight, expected)


def test_a_soft_mask_blends():
    result = composite(torch.zeros(1, 2, 2, 3), torch.ones(1, 2, 2, 3), torch.full((1, 2, 2), 0.25))
    assert torch.equal(result, torch.full((1, 2, 2, 3), 0.25))


def test_distance_is_euclidean():
    """Against the distance to every unmasked pixel."""
    mask = torch.rand(2, 20, 13, generator=torch.Generator().manual_seed(0)) > 0.05
    found = distance_inside(mask, 5)
    grid = torch.stack(torch.meshgrid(torch.arange(20.0), torch.arange(13.0), indexing="ij"), dim=-1).reshape(-1, 2)
    for own, image in zip(found, mask, strict=True):
        distances = torch.cdist(grid, grid[~image.reshape(-1)]).amin(dim=1).clamp(max=5)
        torch.testing.assert_close(own.reshape(-1), distances, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("shapes", "feather", "word"),
    [
        (((1, 8, 8, 3), (1, 8, 12, 3), (8, 8)), 0, "same height"),
        (((1, 8, 8, 3), (1, 8, 8, 3), (1, 8, 9)), 0, "same height"),
        (((2, 8, 8, 3), (3, 8, 8, 3), (1, 8, 8)), 0, "2 pictures"),
        (((1, 8, 8, 3), (3, 8, 8, 3), (2, 8, 8)), 0, "mask 2"),
        (((1, 8, 8, 3), (1, 8, 8, 3), (8, 8)), -1, "feather is -1"),
    ],
)
def test_composite_of_what_does_not_fit(shapes, feather, word):
    with pytest.raises(InputError, match=word):
        composite(*(torch.zeros(shape) for shape in shapes), feather=feather)


@pytest.mark.parametrize("alpha_cumprod", [0.0, 0.25, 1.0])
def test_add_noise(alpha_cumprod):
    """At 1 the image, at 0 the noise, and unit variance is kept in between."""
    x_0, noise = draw_noise([1], (3, 64, 64)), draw_noise([2], (3, 64, 64))
    noisy = add_noise(x_0, noise, alpha_cumprod)
    torch.testing.assert_close(noisy, alpha_cumprod**0.5 * x_0 + (1 - alpha_cumprod) ** 0.5 * noise)
    assert noisy.std().item() == pytest.approx(1.0, abs=0.03)
