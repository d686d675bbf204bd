"""Many small images on one sheet, a caption under each. Layout and captions; the images themselves are not changed."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from ..errors import InputError

_PAPER = 248  # levels of 255: nearly white, so that white images still have an edge
_INK = 40
LINES = 2  # of a caption, at most
_SMALLEST, _LARGEST = 12, 40  # pixels of the font: below 12 the letters run together

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def contact_sheet(images: Tensor, captions: Sequence[str], columns: int = 0) -> Tensor:
    """Arrange images in rows, first to last, as text is read.

    Args:
        images: (N, H, W, 3) in 0..1; they appear on the sheet with the same numbers.
        captions: One for each image, wrapped to two lines and then shortened in the middle to the image's width.
        columns: Images in a row; 0 chooses: about square, rather wider than tall, without gaps where that is near.

    Returns:
        (1, H_sheet, W_sheet, 3) in 0..1 on the CPU.

    Raises:
        InputError: No images, not RGB, another number of captions, or columns below 0.
    """
    if images.ndim != 4 or images.shape[-1] != 3 or images.shape[0] == 0:
        raise InputError(f"The images have shape {tuple(images.shape)}; expected (N, H, W, 3) with at least one image.")
    if len(captions) != images.shape[0]:
        raise InputError(f"There are {images.shape[0]} images but {len(captions)} captions; give one for each.")
    number, height, width, _ = images.shape
    font = load_font(font_size(width))
    texts = [caption_lines(caption, width, font) for caption in captions]
    layout = plan(number, height, width, columns, max(map(len, texts)))
    sheet = torch.full((layout.sheet_height, layout.sheet_width, 3), _PAPER / 255)
    for index, (image, lines) in enumerate(zip(images.float().cpu(), texts, strict=True)):
        top, left = layout.corner(index)
        bottom, right = top + layout.height, left + layout.width
        sheet[top:bottom, left:right] = image
        sheet[bottom : bottom + layout.caption_height, left:right] = _draw_caption(lines, layout, font)
    return sheet[None]


@dataclass(frozen=True)
class Layout:
    """Where everything goes, in pixels."""

    rows: int
    columns: int
    height: int  # of an image
    width: int
    gap: int  # between images, and round the sheet
    line_height: int  # of a caption
    caption_height: int

    @property
    def sheet_width(self) -> int:
        """Of the whole sheet."""
        return self.gap + self.columns * (self.width + self.gap)

    @property
    def sheet_height(self) -> int:
        """Of the whole sheet."""
        return self.gap + self.rows * (self.height + self.caption_height + self.gap)

    def corner(self, index: int) -> tuple[int, int]:
        """Top and left of image `index`."""
        row, column = divmod(index, self.columns)
        return (
            self.gap + row * (self.height + self.caption_height + self.gap),
            self.gap + column * (self.width + self.gap),
        )


def plan(images: int, height: int, width: int, columns: int = 0, lines: int = 1) -> Layout:
    """Lay out `images` images of height x width pixels, with captions of `lines` lines; `columns`: `contact_sheet`.

    Raises:
        InputError: Columns below 0.
    """
    if columns < 0:
        raise InputError(f"columns is {columns}; expected 1 or more, or 0 to choose.")
    columns = min(columns or _automatic_columns(images, height / width), images)
    line_height = round(1.25 * font_size(width))
    return Layout(
        rows=math.ceil(images / columns),
        columns=columns,
        height=height,
        width=width,
        gap=max(6, round(width / 20)),
        line_height=line_height,
        caption_height=line_height // 2 + lines * line_height,
    )


def font_size(width: int) -> int:
    """Of the captions of images of this width: about 25 letters in a line, legible on a sheet at half its size."""
    return min(max(round(width / 14), _SMALLEST), _LARGEST)


def load_font(size: int) -> Font:
    """Pillow's own font; a fixed one of 11 pixels from a Pillow before 10.1 or without FreeType."""
    try:
        return ImageFont.load_default(size=size)
    except (TypeError, ImportError):  # no such argument; no FreeType
        return ImageFont.load_default()


def caption_lines(text: str, width: int, font: Font) -> list[str]:
    """`text` in at most two lines that fit `width` pixels.

    A line breaks at a space; what is still too long loses its middle ("seed 18446..615"), since names of runs differ at
    their ends.
    """
    words = text.split()
    lines = [""]
    for word in words:
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width or not lines[-1] or len(lines) == LINES:
            lines[-1] = longer
        else:
            lines.append(word)
    return [_shortened(line, width, font) for line in lines]


def _shortened(text: str, width: int, font: Font) -> str:
    if font.getlength(text) <= width:
        return text
    for kept in range(len(text) - 1, 0, -1):
        tail = kept // 2
        short = f"{text[: kept - tail]}..{text[len(text) - tail :]}"
        if font.getlength(short) <= width:
            return short
    return ""


def _automatic_columns(images: int, aspect: float) -> int:
    """The fewest columns that make the pictures together at least as wide as tall; up to half more to fill all rows."""
    fewest = next(c for c in range(1, images + 1) if c >= math.ceil(images / c) * aspect or c == images)
    return next((c for c in range(fewest, fewest * 3 // 2 + 1) if images % c == 0), fewest)


def _draw_caption(lines: list[str], layout: Layout, font: Font) -> Tensor:
    """(caption_height, width, 3) in 0..1, centred. A strip of its own, so that nothing can reach a neighbour."""
    strip = Image.new("L", (layout.width, layout.caption_height), _PAPER)
    draw = ImageDraw.Draw(strip)
    for number, line in enumerate(lines):
        left = (layout.width - font.getlength(line)) / 2
        draw.text((left, layout.line_height * (0.25 + number)), line, fill=_INK, font=font)
    grey = torch.from_numpy(np.asarray(strip, dtype=np.float32) / 255)
    return grey[..., None].expand(-1, -1, 3)
