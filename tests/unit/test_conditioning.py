"""Pictures, masks and labels as the UNet sees them: ranges, padding, holes, colours; against the original steps."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from conditional_models import INPAINTING, SEMANTIC, SUPER_RESOLUTION
from torch import Tensor
from torch.nn.functional import conv2d, interpolate, one_hot

from ldm_backend.conditioning.coco_stuff import COCO_STUFF
from ldm_backend.conditioning.low_resolution import low_resolution
from ldm_backend.conditioning.masked_image import filled_pixels, masked_image, reduced
from ldm_backend.conditioning.pictures import as_pictures, reflected
from ldm_backend.conditioning.segmentation import (
    as_labels,
    colours_of_labels,
    default_palette,
    label_of,
    labels_from_colours,
)
from ldm_backend.config.conditioning import SegmentationConfig
from ldm_backend.errors import InputError
from ldm_backend.networks.conditioners.spatial_rescaler import SpatialRescaler
from ldm_backend.networks.first_stage import build_first_stage

RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (2, 13, 10, 3), np.uint8)


def test_bytes_and_unit_floats_are_the_same_pictures():
    from_bytes = as_pictures(PIXELS, 3)
    from_floats = as_pictures(torch.from_numpy(PIXELS).float() / 255.0, 3)
    assert (from_bytes.dtype, from_bytes.shape) == (torch.float32, (2, 3, 13, 10))
    assert from_bytes[1, 2, 5, 7].item() == np.float32(PIXELS[1, 5, 7, 2]) / np.float32(127.5) - np.float32(1)
    assert torch.equal(from_bytes, from_floats)
    levels = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1)
    assert torch.equal(as_pictures(levels, 1), as_pictures(torch.from_numpy(levels).float() / 255.0, 1))
    between = torch.rand(1, 16, 16, 1)  # numbers of no level, each as it is
    assert torch.equal(as_pictures(between, 1), between.movedim(-1, 1) * 2.0 - 1.0)
    assert as_pictures(np.array([[[[-3.0, 0.5, 7.0]]]]), 3).flatten().tolist() == [-1.0, 0.0, 1.0]


def test_grey_and_colours_become_what_the_model_takes():
    grey = PIXELS[..., :1]
    assert torch.equal(as_pictures(grey, 3), as_pictures(np.repeat(grey, 3, axis=3), 3))
    assert torch.equal(as_pictures(np.repeat(grey, 3, axis=3), 1), as_pictures(grey, 1))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (PIXELS[0], "shape"),
        (PIXELS[:0], "shape"),
        (PIXELS[:, :0], "shape"),
        (np.zeros((1, 4, 4, 4), np.uint8), "transparency"),
        (PIXELS.astype(np.int64), "int64; expected uint8"),
        (np.full((1, 4, 4, 3), np.nan), "NaN"),
        (np.full((1, 4, 4, 3), np.inf, np.float32), "infinity"),
        (torch.zeros(1, 4, 4, 3, dtype=torch.bool), "bool; expected uint8"),
    ],
)
def test_what_is_no_picture_is_refused(images, message):
    with pytest.raises(InputError, match=message):
        as_pictures(images, 3)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 3), (3, 40), (13, 10), (16, 8), (31, 33)])
@pytest.mark.parametrize("multiple", [1, 8, 32])
def test_reflection_is_that_of_numpy_and_cut_off_again(size, multiple):
    x = torch.from_numpy(RNG.standard_normal((2, 3, *size)))
    grown = reflected(x, multiple)
    ends = [-side % multiple for side in size]
    assert [side % multiple for side in grown.shape[2:]] == [0, 0]
    assert np.array_equal(grown.numpy(), np.pad(x.numpy(), [(0, 0), (0, 0), *((0, end) for end in ends)], "reflect"))
    assert torch.equal(grown[..., : size[0], : size[1]], x)


def test_a_small_picture_has_the_size_of_its_latent():
    c = low_resolution(PIXELS, SUPER_RESOLUTION)
    assert c.shape == (2, 3, 14, 10)
    assert torch.equal(c[..., :13, :], as_pictures(PIXELS, 3))


# The original's preparation, written out (CompVis scripts/inpaint.py:11-34 and 64-70).
def steps_of_the_original(stage, image: np.ndarray, mask: np.ndarray) -> Tensor:
    pixels = torch.from_numpy(image.astype(np.float32)[None].transpose(0, 3, 1, 2) / 255.0)
    holes = torch.from_numpy(mask.astype(np.float32)[None, None] / 255.0)
    holes[holes < 0.5] = 0
    holes[holes >= 0.5] = 1
    black = (1 - holes) * pixels
    black, holes = black * 2.0 - 1.0, holes * 2.0 - 1.0
    with torch.no_grad():
        latent = stage.quant_conv(stage.encoder(black))  # VQModelInterface.encode: not quantised
    return torch.cat([latent, interpolate(holes, size=latent.shape[-2:])], dim=1)


def random_stage():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build_first_stage(INPAINTING.first_stage).eval()


def test_masked_pictures_are_those_of_the_original():
    """1e-5 on latents of about 1: x / 127.5 - 1 and x / 255 * 2 - 1 differ in the last bit, and so what comes of it."""
    stage = random_stage()
    images = RNG.integers(0, 256, (3, 32, 64, 3), np.uint8)
    masks = RNG.integers(0, 256, (3, 32, 64), np.uint8)  # every level, 127 and 128 among them
    found = masked_image(stage, as_pictures(images, 3), filled_pixels(masks, (3, 32, 64)), "nearest")
    for row, image, mask in zip(found, images, masks, strict=True):
        torch.testing.assert_close(row[None], steps_of_the_original(stage, image, mask), rtol=0, atol=1e-5)
    assert set(found[:, -1].unique().tolist()) == {-1.0, 1.0}


def test_the_latent_of_the_conditioning_has_no_scale_factor():
    """As in the original, where only what is sampled is scaled."""
    stage, filled = random_stage(), RNG.random((1, 32, 32)) > 0.5
    scaled = build_first_stage(replace(INPAINTING.first_stage, scale_factor=0.25)).eval()
    scaled.load_state_dict(stage.state_dict())
    pictures = as_pictures(RNG.integers(0, 256, (1, 32, 32, 3), np.uint8), 3)
    one, other = (masked_image(which, pictures, torch.from_numpy(filled)) for which in (stage, scaled))
    assert torch.equal(one, other)  # a quarter is exact


def test_what_is_in_the_hole_is_not_seen():
    stage, filled = random_stage(), torch.zeros(1, 32, 32, dtype=torch.bool)
    filled[:, 8:20, 5:30] = True
    one, other = (RNG.integers(0, 256, (1, 32, 32, 3), np.uint8) for _ in range(2))
    other = np.where(filled.numpy()[..., None], other, one)
    first, second = (masked_image(stage, as_pictures(images, 3), filled) for images in (one, other))
    assert torch.equal(first, second)
    assert not torch.equal(first, masked_image(stage, as_pictures(one, 3), torch.zeros_like(filled)))


def test_thin_strokes_survive_the_reduction_by_any():
    filled = torch.zeros(1, 16, 16, dtype=torch.bool)
    filled[0, 5] = filled[0, :, 6] = True  # a cross that no first pixel of a cell is part of
    assert bool((reduced(filled, 4, "nearest") == -1).all())
    kept = reduced(filled, 4, "any")
    assert bool((kept[0, 0, 1] == 1).all()) and bool((kept[0, 0, :, 1] == 1).all())  # noqa: PT018
    assert int((kept == 1).sum()) == 7
    with pytest.raises(InputError, match="mask_reduction is 'mean'; choose one of any, nearest"):
        masked_image(random_stage(), torch.zeros(1, 3, 16, 16), filled, "mean")


@pytest.mark.parametrize(
    "masks",
    [
        np.array([[[0.5, 0.49], [1.0, 0.0]]]),
        np.array([[[128, 127], [255, 0]]], np.uint8),
        np.array([[True, False], [True, False]]),
        torch.tensor([[[0.5, 0.49], [1.0, 0.0]]], dtype=torch.float16),
    ],
)
def test_half_and_more_is_filled_whatever_the_type(masks):
    assert filled_pixels(masks, (3, 2, 2)).tolist() == 3 * [[[True, False], [True, False]]]


@pytest.mark.parametrize(
    "masks",
    [
        np.zeros((2, 2, 2), bool),
        np.zeros((3, 2, 3), bool),
        np.zeros((1, 3, 2, 2), bool),
        np.zeros((2, 2), np.int32),
        np.full((2, 2), np.nan),
    ],
)
def test_what_is_no_mask_is_refused(masks):
    with pytest.raises(InputError, match="masks"):
        filled_pixels(masks, (3, 2, 2))


# The original's rescaler, written out (CompVis ldm/modules/encoders/modules.py:106-135).
def rescaler_of_the_original(labels: Tensor, weight: Tensor, n_stages: int) -> Tensor:
    h = one_hot(labels, weight.shape[1]).movedim(-1, 1).float()
    for _ in range(n_stages):
        h = interpolate(h, scale_factor=0.5, mode="bilinear")
    return conv2d(h, weight)


@torch.no_grad()
@pytest.mark.parametrize(
    ("config", "sides"),
    [
        (SegmentationConfig(), (24, 40)),
        (SEMANTIC.conditioning, (4, 4)),
        (SegmentationConfig(n_labels=7, n_stages=3, out_channels=5), (16, 8)),
        (SegmentationConfig(n_labels=1, n_stages=0, out_channels=1), (3, 5)),
    ],
)
def test_labels_are_rescaled_as_in_the_original(config, sides):
    """2e-7: sums of float32 in another order."""
    torch.manual_seed(0)
    rescaler = SpatialRescaler(config)
    labels = torch.from_numpy(RNG.integers(0, config.n_labels, (2, *sides)))
    expected = rescaler_of_the_original(labels, rescaler.channel_mapper.weight, config.n_stages)
    torch.testing.assert_close(rescaler(labels), expected, rtol=0, atol=2e-7)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.zeros(1, 6, 8, dtype=torch.int64), "multiples of 4"),
        (torch.zeros(1, 8, 8), "float32"),
        (torch.zeros(8, 8, dtype=torch.int64), "shape"),
        (torch.full((1, 8, 8), 5), "from 5 to 5; this model knows the labels 0 to 4"),
        (torch.full((1, 8, 8), -1), "from -1 to -1"),
    ],
)
def test_the_rescaler_refuses_what_is_no_map(labels, message):
    with pytest.raises(InputError, match=message):
        SpatialRescaler(SegmentationConfig(n_labels=5))(labels)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.zeros((2, 2)), "float64"),
        (np.zeros((2, 2), bool), "bool"),
        (np.zeros((1, 2, 2, 3), np.uint8), "labels_from_colours"),
        (np.zeros((0, 2, 2), np.uint8), "shape"),
        (np.full((2, 2), 255, np.uint8), "hold 255; this model knows 0 to 181"),
        (np.full((2, 2), -1), "hold -1"),
    ],
)
def test_what_is_no_map_of_labels_is_refused(labels, message):
    with pytest.raises(InputError, match=message):
        as_labels(labels, 182)


def test_colours_and_labels_are_each_others_inverse():
    palette = default_palette()
    assert len(palette) == len(set(palette)) == len(COCO_STUFF) == len(set(COCO_STUFF)) == 182
    assert palette[:4] == ((128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128))  # VOC without its black
    labels = RNG.integers(0, 182, (2, 9, 7))
    painted = colours_of_labels(labels, palette)
    assert (painted.dtype, painted.shape) == (np.uint8, (2, 9, 7, 3))
    assert np.array_equal(labels_from_colours(painted, palette), labels)
    assert labels_from_colours(np.zeros((1, 1, 1, 3), np.uint8), [(0, 0, 0), (0, 0, 0)]).item() == 0


def test_a_colour_that_is_none_of_the_palette_is_named():
    painted = colours_of_labels(np.zeros((1, 4, 4), np.int64), [(9, 9, 9)])
    painted[0, 0] = (1, 2, 3)
    painted[0, 1, 0] = (4, 5, 6)
    with pytest.raises(InputError, match=r"5 pixels have 2 colours that are none of .* 1, most.*\(1, 2, 3\)"):
        labels_from_colours(painted, [(9, 9, 9)])
    with pytest.raises(InputError, match="expected uint8"):
        labels_from_colours(painted.astype(np.float32), [(9, 9, 9)])


def test_names_of_labels():
    assert (label_of("person"), label_of("wood"), label_of("sky-other")) == (0, 181, 156)
    with pytest.raises(InputError, match=r"no label 'sky'\. Near to it: sky-other, skyscraper"):
        label_of("sky")
    with pytest.raises(InputError, match="no label ''"):
        label_of("")
    with pytest.raises(InputError, match="A label is 3; expected one of the names"):
        label_of(3)  # pyright: ignore[reportArgumentType]
