"""Upscale, inpaint and synthesise: any size and batch, each image of its own seed, tiles without a seam, refusals."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conditional_models import CONFIGS, INPAINTING, SEMANTIC, SUPER_RESOLUTION, load_conditional
from torch import Tensor

import ldm_backend
from ldm_backend import pipeline
from ldm_backend.conditioning.low_resolution import low_resolution
from ldm_backend.errors import CheckpointError, InputError, SamplingError, ScheduleError, TooLargeError
from ldm_backend.memory import chunks
from ldm_backend.memory.estimates import evaluation_bytes
from ldm_backend.networks import conditioned
from ldm_backend.networks.conditioned import Conditioned
from ldm_backend.networks.tiles import averaged_over_tiles, check_tile, starts
from ldm_backend.sampling.noise import draw_noise

RNG = np.random.default_rng(1)
Model = ldm_backend.LatentDiffusion


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("conditional")


@pytest.fixture(scope="module")
def upscaler(folders: Path) -> Model:
    return load_conditional(folders / "sr", SUPER_RESOLUTION)


@pytest.fixture(scope="module")
def inpainter(folders: Path) -> Model:
    return load_conditional(folders / "inpainting", INPAINTING)


@pytest.fixture(scope="module")
def synthesiser(folders: Path) -> Model:
    return load_conditional(folders / "semantic", SEMANTIC)


def pixels(*shape: int) -> np.ndarray:
    return RNG.integers(0, 256, shape, np.uint8)


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (6, 10), (13, 9)])
def test_any_size_is_enlarged_four_times(upscaler, size):
    large = ldm_backend.upscale(upscaler, pixels(2, *size, 3), [1, 2], steps=2)
    assert (large.dtype, large.shape) == (np.uint8, (2, 4 * size[0], 4 * size[1], 3))
    assert large.flags.c_contiguous


def test_what_is_cut_off_is_what_was_added(upscaler):
    """A picture that is continued by hand gives the same pixels as one that is continued here."""
    small = pixels(1, 13, 9, 3)
    by_hand = np.pad(small, [(0, 0), (0, 1), (0, 1), (0, 0)], "reflect")
    by_itself = ldm_backend.upscale(upscaler, small, [5], steps=3)
    assert np.array_equal(by_itself, ldm_backend.upscale(upscaler, by_hand, [5], steps=3)[:, : 4 * 13, : 4 * 9])


TASKS: dict[str, Any] = {
    "upscale": lambda model, n, seeds, **run: ldm_backend.upscale(model, SMALL[:n], seeds, **run),
    "inpaint": lambda model, n, seeds, **run: ldm_backend.inpaint(model, LARGE[:n], MASKS[:n], seeds, **run),
    "synthesise": lambda model, n, seeds, **run: ldm_backend.synthesise(model, LABELS[:n], seeds, **run),
}
SMALL, LARGE = pixels(3, 8, 12, 3), pixels(3, 24, 20, 3)
MASKS = RNG.random((3, 24, 20)) > 0.7
LABELS = RNG.integers(0, 5, (3, 16, 24))


@pytest.fixture(params=TASKS)
def task(request: pytest.FixtureRequest, upscaler: Model, inpainter: Model, synthesiser: Model) -> tuple[str, Model]:
    return request.param, {"upscale": upscaler, "inpaint": inpainter, "synthesise": synthesiser}[request.param]


@pytest.mark.parametrize("settings", [{}, {"sampler": "ddim", "eta": 1.0}, {"sampler": "dpmpp_2m_sde"}])
def test_an_image_depends_on_no_neighbour_and_on_no_order(task, settings):
    """To one level: a batch of another size rounds its sums otherwise."""
    name, model = task
    run = TASKS[name]
    seeds = [7, 2**64 - 1, 3]
    together = run(model, 3, seeds, steps=3, **settings).astype(int)
    for index, seed in enumerate(seeds):
        inputs = {"SMALL": SMALL, "LARGE": LARGE, "MASKS": MASKS, "LABELS": LABELS}
        alone = _alone(name, model, {key: value[index : index + 1] for key, value in inputs.items()}, seed, settings)
        assert np.abs(alone[0] - together[index]).max() <= 1
    backwards = _batch(name, model, slice(None, None, -1), seeds[::-1], settings)
    assert np.abs(backwards[::-1] - together).max() <= 1
    assert (run(model, 3, [8, 9, 10], steps=3, **settings) != together).any()


def _alone(name: str, model: Model, one: dict[str, np.ndarray], seed: int, settings: dict[str, Any]) -> np.ndarray:
    arguments = {
        "upscale": (one["SMALL"],),
        "inpaint": (one["LARGE"], one["MASKS"]),
        "synthesise": (one["LABELS"],),
    }[name]
    return getattr(ldm_backend, name)(model, *arguments, [seed], steps=3, **settings).astype(int)


def _batch(name: str, model: Model, order: slice, seeds: list[int], settings: dict[str, Any]) -> np.ndarray:
    arguments = {"upscale": (SMALL[order],), "inpaint": (LARGE[order], MASKS[order]), "synthesise": (LABELS[order],)}
    return getattr(ldm_backend, name)(model, *arguments[name], seeds, steps=3, **settings).astype(int)


def test_the_global_generator_is_left_alone(task):
    name, model = task
    before = torch.random.get_rng_state()
    TASKS[name](model, 1, [1], steps=2, sampler="ddim", eta=1.0)
    assert torch.equal(before, torch.random.get_rng_state())


def test_steps_are_reported_and_the_run_can_be_ended(task):
    name, model = task
    seen: list[tuple[int, int]] = []

    def end(info: Any) -> None:
        seen.append((info.index, info.steps))
        if info.index == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        TASKS[name](model, 1, [1], steps=4, callback=end)
    assert seen == [(0, 4), (1, 4)]


def test_inputs_are_not_written_to(inpainter):
    image, mask = pixels(1, 24, 20, 3), MASKS[:1].copy()
    copies = image.copy(), mask.copy()
    result = ldm_backend.inpaint(inpainter, image, mask, [1], steps=1)
    result[:] = 0
    assert np.array_equal(image, copies[0])
    assert np.array_equal(mask, copies[1])


@pytest.mark.parametrize("reduction", ["any", "nearest"])
@pytest.mark.parametrize("size", [(1, 1), (5, 70), (33, 31), (64, 32)])
@pytest.mark.parametrize("kind", ["one pixel", "a stroke", "everything", "half", "noise"])
def test_every_pixel_outside_of_the_mask_stays_to_the_bit(inpainter, kind, size, reduction):
    image, mask = pixels(1, *size, 3), np.zeros((1, *size), bool)
    if kind == "one pixel":
        mask[0, size[0] // 2, size[1] // 2] = True
    elif kind == "a stroke":
        mask[0, size[0] // 3] = True
    elif kind == "half":
        mask[0, :, size[1] // 2 :] = True
    else:
        mask[0] = kind == "everything" or RNG.random(size) > 0.5
    result = ldm_backend.inpaint(inpainter, image, mask, [1], steps=2, mask_reduction=reduction)
    assert (result.dtype, result.shape) == (image.dtype, image.shape)
    assert np.array_equal(result[~mask], image[~mask])
    assert mask.sum() < 20 or (result[mask] != image[mask]).mean() > 0.5


def test_what_is_in_the_hole_does_not_matter(inpainter):
    image, mask = pixels(1, 24, 20, 3), MASKS[:1]
    other = np.where(mask[..., None], 255 - image, image)
    one, two = (ldm_backend.inpaint(inpainter, pictures, mask, [1], steps=2) for pictures in (image, other))
    assert np.array_equal(one, two)


def test_a_picture_without_a_mask_is_not_sampled(inpainter, monkeypatch):
    images, masks = pixels(3, 24, 20, 3), MASKS.copy()
    masks[1] = False
    result = ldm_backend.inpaint(inpainter, images, masks, [1, 2, 3], steps=2)
    assert np.array_equal(result[1], images[1])
    without = ldm_backend.inpaint(inpainter, images[::2], masks[::2], [1, 3], steps=2)
    assert np.array_equal(result[::2], without)
    monkeypatch.setattr(type(inpainter.unet), "forward", lambda *_: pytest.fail("it was sampled"))
    assert np.array_equal(ldm_backend.inpaint(inpainter, images, np.zeros((24, 20), bool), [1, 2, 3]), images)


def test_one_mask_serves_for_all(inpainter):
    images = pixels(2, 24, 20, 3)
    shared, each = (
        ldm_backend.inpaint(inpainter, images, masks, [1, 2], steps=2) for masks in (MASKS[0], MASKS[[0, 0]])
    )
    assert np.array_equal(shared, each)


def test_a_grey_picture_stays_grey(inpainter):
    grey = pixels(1, 24, 20, 1)
    result = ldm_backend.inpaint(inpainter, grey, MASKS[:1], [1], steps=2)
    assert result.shape == grey.shape
    assert np.array_equal(result[~MASKS[:1]], grey[~MASKS[:1]])


def test_one_map_of_labels_serves_for_all_seeds(synthesiser):
    one = ldm_backend.synthesise(synthesiser, LABELS[0], [1, 2], steps=2)
    each = ldm_backend.synthesise(synthesiser, LABELS[[0, 0]], [1, 2], steps=2)
    assert one.shape == (2, 16, 24, 3)
    assert np.array_equal(one, each)
    assert (one[0] != one[1]).any()


@pytest.mark.parametrize("sides", [(16, 24), (8, 200), (64, 64)])
def test_maps_of_any_size_that_can_be_halved(synthesiser, sides):
    labels = RNG.integers(0, 5, (1, *sides), np.uint8)
    assert ldm_backend.synthesise(synthesiser, labels, [1], steps=1).shape == (1, *sides, 3)


def test_the_conditioning_counts(task):
    """Other inputs, other pictures: it has not been lost on the way."""
    name, model = task
    one = {"SMALL": SMALL[:1], "LARGE": LARGE[:1], "MASKS": MASKS[:1], "LABELS": LABELS[:1]}
    other = {"SMALL": 255 - SMALL[:1], "LARGE": 255 - LARGE[:1], "MASKS": MASKS[:1], "LABELS": 4 - LABELS[:1]}
    first, second = (_alone(name, model, inputs, 1, {}) for inputs in (one, other))
    changed = MASKS[0] if name == "inpaint" else slice(None)
    assert np.abs(first[0] - second[0])[changed].mean() > 0.2


# Tiles.


@pytest.mark.parametrize("length", range(8, 200, 8))
@pytest.mark.parametrize(("tile", "overlap"), [(32, 16), (64, 16), (96, 24), (40, 16)])
def test_tiles_cover_everything_and_overlap(length, tile, overlap):
    tile = min(tile, length)
    places = starts(length, tile, overlap, 8)
    assert (places[0], places[-1] + tile) == (0, length)
    assert all(place % 8 == 0 for place in places)
    assert all(0 < right - left <= tile - overlap + 8 for left, right in zip(places, places[1:], strict=False))


@pytest.mark.parametrize("tile", [0, -8, 30, 31, 24, 12.0, True, "64"])
def test_a_tile_that_cannot_be_one_is_refused(tile):
    with pytest.raises(InputError, match="expected a multiple of 8 latent cells, at least 32"):
        check_tile(tile, 8)


def test_the_average_of_what_agrees_is_what_it_was():
    """Of a network that looks at each cell alone the tiles say the same as the whole."""
    x, c = draw_noise([1, 2], (3, 40, 56)), draw_noise([3, 4], (2, 40, 56))
    whole = x * c[:, :1] + c[:, 1:]
    tiled = averaged_over_tiles(lambda x, c: x * c[:, :1] + c[:, 1:], x, c, 16, 4)
    torch.testing.assert_close(tiled, whole, rtol=0, atol=1e-6)


def test_no_seam_where_tiles_disagree():
    """Tiles that each add a number of their own leave no step: from one cell to the next an eighth of all at most."""
    numbers = iter(torch.linspace(-1.0, 1.0, 1000).tolist()[::200] * 20)
    x = torch.zeros(1, 1, 40, 200)
    tiled = averaged_over_tiles(lambda x, _: x + next(numbers), x, x, 64, 4)
    spread = tiled.amax() - tiled.amin()
    for dim in (2, 3):
        assert tiled.diff(dim=dim).abs().max() < spread / 8


def test_a_tile_as_large_as_the_picture_is_the_whole(upscaler):
    small = pixels(2, 12, 16, 3)
    whole = ldm_backend.upscale(upscaler, small, [1, 2], steps=2)
    assert np.array_equal(ldm_backend.upscale(upscaler, small, [1, 2], steps=2, tile=16), whole)


def seams(tiled: np.ndarray, whole: np.ndarray, places: list[int]) -> tuple[float, float]:
    """How much more the two differ from one column to the next at these columns, and anywhere else."""
    steps = np.abs(np.diff(tiled.astype(float) - whole.astype(float), axis=2)).mean(axis=(0, 1, 3))
    at = np.zeros(len(steps), bool)
    at[[place - 1 for place in places]] = True
    return steps[at].mean(), steps[~at].mean()


def test_tiles_leave_no_seam_in_the_picture(upscaler):
    """Against the whole: where tiles begin and end the difference jumps no more than elsewhere, within a quarter."""
    small = np.kron(pixels(1, 6, 24, 3), np.ones((1, 4, 4, 1), np.uint8))
    whole = ldm_backend.upscale(upscaler, small, [1], steps=4)
    tiled = ldm_backend.upscale(upscaler, small, [1], steps=4, tile=24)
    assert whole.shape == tiled.shape == (1, 96, 384, 3)
    edges = sorted({4 * edge for start in starts(96, 24, 6, 2) for edge in (start, start + 24)} - {0, 384})
    at, elsewhere = seams(tiled, whole, edges)
    assert at < 1.25 * elsewhere + 0.05
    apart = np.concatenate(
        [ldm_backend.upscale(upscaler, small[:, :, at : at + 24], [1], steps=4) for at in range(0, 96, 24)], axis=2
    )
    assert np.abs(tiled.astype(int) - whole).mean() < np.abs(apart.astype(int) - whole).mean()


def test_where_memory_runs_out_tiles_take_over(upscaler, monkeypatch, caplog):
    """The picture is that of the tiles that are named in the log."""
    monkeypatch.setattr(conditioned, "_TILES", (32, 16))
    monkeypatch.setattr(conditioned, "check_fits", lambda *_: None)
    small, forward = pixels(2, 24, 40, 3), type(upscaler.unet).forward
    asked = ldm_backend.upscale(upscaler, small, [1, 2], steps=2, tile=16)

    def short(unet: Any, x: Tensor, t: float) -> Tensor:
        if x.shape[2] * x.shape[3] > 16 * 16:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(unet, x, t)

    monkeypatch.setattr(type(upscaler.unet), "forward", short)
    with caplog.at_level("WARNING"):
        found = ldm_backend.upscale(upscaler, small, [1, 2], steps=2)
    assert np.abs(found.astype(int) - asked).max() <= 1
    log = [record.message for record in caplog.records if "averaged at each step" in record.message]
    assert len(log) == 2
    assert "Going on with tiles of 32 cells" in log[0]
    assert "Going on with tiles of 16 cells" in log[1]


@pytest.fixture(scope="module")
def holed() -> tuple[np.ndarray, np.ndarray]:
    """A picture of soft noise, and a mask with a block that spans tiles and strokes everywhere."""
    coarse = np.random.default_rng(2).integers(0, 256, (1, 12, 48, 3), np.uint8)
    image = coarse.repeat(8, 1).repeat(8, 2)
    mask = np.zeros((1, 96, 384), bool)
    mask[:, 20:80, 60:330] = mask[:, 40] = mask[:, :, 350:352] = True
    return image, mask


def test_tiles_leave_no_seam_in_a_hole(inpainter, holed):
    """As for super-resolution, inside of the hole; near to the whole picture, and every other pixel as it was."""
    image, mask = holed
    whole, tiled, other = (
        ldm_backend.inpaint(inpainter, image, mask, [seed], steps=4, tile=tile)
        for seed, tile in ((1, None), (1, 24), (2, None))
    )
    assert (tiled != whole).any()
    assert np.array_equal(tiled[~mask], image[~mask])
    inside = (slice(None), slice(20, 80), slice(60, 330))
    edges = sorted({4 * edge for start in starts(96, 24, 6, 2) for edge in (start, start + 24)} - {0, 384})
    at, elsewhere = seams(tiled[inside], whole[inside], [edge - 60 for edge in edges if 60 < edge < 330])
    assert at < 1.25 * elsewhere + 0.05
    near, far = (np.abs(one[mask].astype(int) - whole[mask]).mean() for one in (tiled, other))
    assert near < far / 2


def test_a_tile_as_large_as_the_holed_picture_is_the_whole(inpainter, holed):
    image, mask = (one[:, :, :64] for one in holed)
    whole = ldm_backend.inpaint(inpainter, image, mask, [1], steps=2)
    assert np.array_equal(ldm_backend.inpaint(inpainter, image, mask, [1], steps=2, tile=24), whole)


def test_where_memory_runs_out_tiles_take_over_for_a_hole(inpainter, holed, monkeypatch, caplog):
    monkeypatch.setattr(conditioned, "_TILES", (32, 16))
    monkeypatch.setattr(conditioned, "check_fits", lambda *_: None)
    image, mask = holed
    forward = type(inpainter.unet).forward
    asked = ldm_backend.inpaint(inpainter, image, mask, [1], steps=2, tile=16)

    def short(unet: Any, x: Tensor, t: float) -> Tensor:
        if x.shape[2] * x.shape[3] > 16 * 16:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(unet, x, t)

    monkeypatch.setattr(type(inpainter.unet), "forward", short)
    with caplog.at_level("WARNING"):
        found = ldm_backend.inpaint(inpainter, image, mask, [1], steps=2)
    assert np.abs(found.astype(int) - asked).max() <= 1
    assert np.array_equal(found[~mask], image[~mask])
    assert "Going on with tiles of 16 cells, averaged at each step" in caplog.text
    monkeypatch.setattr(type(inpainter.unet), "forward", lambda *_: short(None, torch.empty(1, 1, 99, 99), 0.0))
    with pytest.raises(TooLargeError, match="UNet"):
        ldm_backend.inpaint(inpainter, pixels(1, 600, 600, 3), np.ones((600, 600), bool), [1], steps=2)


# Refusals.


def test_upscale_adds_noise_in_each_step_unless_the_sampler_has_no_eta(upscaler):
    def made(**settings: Any) -> np.ndarray:
        return ldm_backend.upscale(upscaler, SMALL[:1], [1], **settings)

    steps: list[Any] = []
    assert np.array_equal(made(callback=steps.append), made(steps=15, eta=1.0, sampler="ddim"))
    assert len(steps) == 15
    assert (made(eta=0.0) != made()).any()
    assert (made(eta=0.5) != made()).any()
    for sampler in ("plms", "dpmpp_2m", "dpmpp_2m_sde", "unipc"):
        assert np.array_equal(made(sampler=sampler, steps=3), made(sampler=sampler, steps=3, eta=0.0))


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("other", [*CONFIGS, "unconditional"])
def test_a_model_of_another_task_is_refused(name, other, tiny, upscaler, inpainter, synthesiser):
    models = {one.task: one for one in (tiny, upscaler, inpainter, synthesiser)}
    wanted = {"upscale": "super-resolution", "inpaint": "inpainting", "synthesise": "semantic-synthesis"}[name]
    if other != wanted:
        with pytest.raises(InputError, match=rf"{name} takes an? {wanted} model, and this one is an? {other} model"):
            TASKS[name](models[other], 1, [1])


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"steps": 0}, ScheduleError, "steps is 0"),
        ({"sampler": "heun"}, ScheduleError, "sampler is 'heun'"),
        ({"grid": "karras"}, ScheduleError, "grid is 'karras'"),
        ({"sampler": "dpmpp_2m", "eta": 0.5}, ScheduleError, "dpmpp_2m has no eta"),
        ({"sampler": "ddim", "eta": 2.0}, ScheduleError, "eta is 2.0"),
        ({"seeds": [1, 2]}, InputError, "2 seeds for 1 images"),
        ({"seeds": []}, InputError, "seeds"),
        ({"seeds": [-1]}, InputError, "seed is -1"),
        ({"seeds": [1.5]}, InputError, "seed is 1.5"),
    ],
)
def test_settings_out_of_range(task, settings, error, message):
    name, model = task
    if name == "synthesise" and len(settings.get("seeds", [1])) > 1:
        return  # one map for all seeds
    with pytest.raises(error, match=message):
        TASKS[name](model, 1, settings.get("seeds", [1]), **{k: v for k, v in settings.items() if k != "seeds"})


def test_inputs_that_are_none(upscaler, inpainter, synthesiser):
    with pytest.raises(InputError, match="transparency"):
        ldm_backend.upscale(upscaler, pixels(1, 8, 8, 4), [1])
    with pytest.raises(InputError, match="tile is 3"):
        ldm_backend.upscale(upscaler, pixels(1, 8, 8, 3), [1], tile=3)
    with pytest.raises(InputError, match="tile is 6; expected a multiple of 2 latent cells, at least 8"):
        ldm_backend.inpaint(inpainter, LARGE[:1], MASKS[:1], [1], tile=6)
    with pytest.raises(InputError, match="masks have shape"):
        ldm_backend.inpaint(inpainter, pixels(1, 8, 8, 3), np.zeros((8, 9), bool), [1])
    with pytest.raises(InputError, match="float64; expected uint8"):
        ldm_backend.inpaint(inpainter, RNG.random((1, 8, 8, 3)), np.zeros((8, 8), bool), [1])
    with pytest.raises(InputError, match="mask_reduction is 'mean'"):
        ldm_backend.inpaint(inpainter, pixels(1, 8, 8, 3), np.ones((8, 8), bool), [1], mask_reduction="mean")
    with pytest.raises(InputError, match="multiple of 8 pixels: take 16 or 24"):
        ldm_backend.synthesise(synthesiser, np.zeros((16, 20), np.uint8), [1])
    with pytest.raises(InputError, match="hold 5; this model knows 0 to 4"):
        ldm_backend.synthesise(synthesiser, np.full((16, 16), 5), [1])


def test_what_cannot_fit_is_refused_before_anything_runs(upscaler, inpainter, monkeypatch):
    monkeypatch.setattr(pipeline, "free_bytes", lambda _: 200 * 2**20)
    monkeypatch.setattr(type(upscaler.unet), "forward", lambda *_: pytest.fail("it was sampled"))
    c = torch.zeros(1, 3, 1, 1).expand(1, 3, 4096, 4096)
    with pytest.raises(TooLargeError, match=r"Sampling: 1 image of 16384x16384 pixels .* What fits: 1 image of"):
        pipeline.sample_latents(upscaler, [1], 2, conditioning=c)
    c = torch.zeros(1, 4, 1, 1).expand(1, 4, 4096, 4096)
    with pytest.raises(TooLargeError, match="Sampling: 1 image of 16384x16384"):
        pipeline.sample_latents(inpainter, [1], 2, conditioning=c, tile=64)


def test_a_changed_file_is_noticed(folders, upscaler):
    model = load_conditional(folders / "changed", SEMANTIC)
    assert {mark.path.parent.name for mark in model.files} == {"unet", "vqvae", "conditioner"}
    (folders / "changed" / "conditioner" / "diffusion_pytorch_model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="conditioner"):
        ldm_backend.synthesise(model, LABELS[0], [1], steps=1)


def test_numbers_that_are_none_end_the_run(task, monkeypatch):
    name, model = task
    monkeypatch.setattr(type(model.unet), "forward", lambda _, x, t: x[:, :3] * float("nan"))
    with pytest.raises(SamplingError, match="NaN or infinity in step 1 of 2"):
        TASKS[name](model, 1, [1], steps=2)


def test_grey_models_take_colours_and_give_grey(folders):
    stage = replace(SUPER_RESOLUTION.first_stage, in_channels=1, out_channels=1)
    unet = replace(SUPER_RESOLUTION.unet, in_channels=4)
    model = load_conditional(folders / "grey", replace(SUPER_RESOLUTION, first_stage=stage, unet=unet))
    assert ldm_backend.upscale(model, pixels(1, 8, 8, 3), [1], steps=1).shape == (1, 32, 32, 1)
    assert low_resolution(pixels(1, 8, 8, 3), model.config).shape == (1, 1, 8, 8)


@pytest.mark.parametrize("precision", ["bf16", "tf32"])
def test_a_shorter_format_draws_nearly_the_same(folders, upscaler, precision):
    """Latents and conditioning stay float32; what bfloat16 changes is in docs/precision.md."""
    short = ldm_backend.load(folders / "sr", "cpu", precision=precision, first_stage_precision="bf16")
    small = pixels(1, 8, 8, 3)
    found, expected = (ldm_backend.upscale(model, small, [1], steps=3).astype(int) for model in (short, upscaler))
    assert np.abs(found - expected).mean() < 3


def test_the_first_stage_of_such_a_checkpoint_is_one_too(folders, inpainter):
    stage = ldm_backend.load_first_stage(folders / "inpainting")
    assert stage.config == inpainter.config.first_stage
    z = draw_noise([1], (3, 4, 4))
    assert torch.equal(stage.decode(z), inpainter.first_stage.decode(z))


def test_parts_of_a_batch_are_the_batch(upscaler, monkeypatch):
    """A part of the images takes its part of the conditioning."""
    c = low_resolution(SMALL, SUPER_RESOLUTION)
    x = draw_noise([1, 2, 3], (3, 8, 12))
    whole = Conditioned(pipeline.evaluation(upscaler), upscaler.config, c)(x, 500.0)
    monkeypatch.setattr(chunks, "_SMALL", 0)
    parts = chunks.Chunks("UNet", lambda _: evaluation_bytes(SUPER_RESOLUTION.unet, 1, 8, 12, 4) + 1)
    monkeypatch.setattr(pipeline, "Chunks", lambda _: parts)
    denoiser = Conditioned(pipeline.evaluation(upscaler), upscaler.config, c)
    torch.testing.assert_close(denoiser(x, 500.0), whole, rtol=0, atol=1e-5)
