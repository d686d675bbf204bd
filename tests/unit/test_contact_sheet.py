"""Layout, captions that fit, and images that are not changed."""

from __future__ import annotations

import pytest
import torch
from PIL import ImageFont

from ldm_backend.errors import InputError
from ldm_backend.views.contact_sheet import caption_lines, contact_sheet, font_size, load_font, plan


@pytest.mark.parametrize(
    ("images", "columns"),
    [(1, 1), (2, 2), (3, 3), (4, 2), (5, 3), (6, 3), (7, 3), (8, 4), (9, 3), (10, 5), (12, 4), (16, 4), (50, 10)],
)
def test_automatic_columns_of_squares(images, columns):
    """Never taller than wide, and full rows where that costs at most half more columns."""
    assert plan(images, 64, 64).columns == columns


def test_automatic_columns_follow_the_shape():
    """Eight banners go below each other, eight towers side by side."""
    assert plan(8, 32, 128).columns == 2
    assert plan(8, 128, 32).columns == 8


def test_more_columns_than_images():
    layout = plan(2, 64, 64, columns=9)
    assert (layout.rows, layout.columns) == (1, 2)


@pytest.mark.parametrize(("number", "columns"), [(5, 2), (6, 3), (1, 0)])
def test_images_are_not_changed_and_do_not_touch(number, columns):
    images = torch.rand((number, 40, 64, 3), generator=torch.Generator().manual_seed(0))
    layout = plan(number, 40, 64, columns)
    sheet = contact_sheet(images, [str(index) for index in range(number)], columns)
    assert sheet.shape == (1, layout.sheet_height, layout.sheet_width, 3)
    rest = sheet[0].clone()
    for index, image in enumerate(images):
        top, left = layout.corner(index)
        assert torch.equal(sheet[0, top : top + 40, left : left + 64], image)
        rest[top : top + 40, left : left + 64] = rest[0, 0]
    assert (rest.std(dim=2) < 1e-6).all()  # what is left is grey: paper and ink
    edges = torch.cat([rest[: layout.gap].flatten(), rest[:, : layout.gap].flatten(), rest[:, -layout.gap :].flatten()])
    assert (edges == rest[0, 0, 0]).all()
    assert rest.min() < 0.5  # captions


def test_captions_are_below_their_images():
    """The same sheet with and without texts differs only in the strips of those images that have one."""
    images = torch.zeros(4, 64, 64, 3)
    changed = (contact_sheet(images, ["", "seed 7", "", ""], 2) != contact_sheet(images, [""] * 4, 2))[0].any(dim=2)
    layout = plan(4, 64, 64, 2)
    top, left = layout.corner(1)
    rows, columns = changed.nonzero().unbind(1)
    assert top + 64 <= rows.min() <= rows.max() < top + 64 + layout.caption_height
    assert left <= columns.min() <= columns.max() < left + 64


@pytest.mark.parametrize("width", [32, 64, 128, 256])
@pytest.mark.parametrize(
    "text", ["7", "seed 18446744073709551615", "seed 3 + 18446744073709551615 x 0.25", "x" * 300, "a b " * 40, ""]
)
def test_captions_fit(width, text):
    font = load_font(font_size(width))
    lines = caption_lines(text, width, font)
    assert 1 <= len(lines) <= 2
    assert all(font.getlength(line) <= width for line in lines)
    assert bool("".join(lines)) == bool(text)


def test_shortening_keeps_both_ends():
    """Neighbouring seeds differ at their ends, so the middle goes."""
    font = load_font(font_size(64))
    lines = [caption_lines(f"seed 184467440737095516{end}", 64, font) for end in (14, 15)]
    assert lines[0][0] == "seed"
    assert lines[0][1].startswith("18")
    assert lines[0][1].endswith("14")
    assert ".." in lines[0][1]
    assert lines[0] != lines[1]


def test_usual_captions_are_whole_at_64_pixels():
    font = load_font(font_size(64))
    for text in ("seed 12345", "3 > 4: 0.25", "seed 3 + 1005 x 0.2"):
        assert " ".join(caption_lines(text, 64, font)) == text


def test_letters_grow_with_the_image():
    assert font_size(64) == 12
    assert font_size(256) == 18


@pytest.mark.parametrize("error", [TypeError("unexpected keyword argument 'size'"), ImportError("_imagingft")])
def test_a_pillow_without_scalable_fonts(monkeypatch, error):
    """Before 10.1, or built without FreeType: the fixed font still gives captions that fit."""
    fixed = ImageFont.load_default_imagefont()

    def load_default(**size: float) -> ImageFont.ImageFont:
        if size:
            raise error
        return fixed

    monkeypatch.setattr(ImageFont, "load_default", load_default)
    captioned = contact_sheet(torch.ones(1, 64, 64, 3), ["seed 18446744073709551615"])
    assert captioned.min() < 0.5


def test_what_is_no_sheet():
    images = torch.zeros(2, 8, 8, 3)
    with pytest.raises(InputError, match="2 images but 1 captions"):
        contact_sheet(images, ["a"])
    with pytest.raises(InputError, match=r"\(2, 8, 8, 4\)"):
        contact_sheet(torch.zeros(2, 8, 8, 4), ["a", "b"])
    with pytest.raises(InputError, match="at least one"):
        contact_sheet(images[:0], [])
    with pytest.raises(InputError, match="columns is -1"):
        contact_sheet(images, ["a", "b"], -1)
