"""A picture for Load Image, as users have them."""

import io

import numpy as np
from PIL import Image

EXAMPLE = "example.png"  # which the templates load; hosts that the tests start have no such file


def sample_picture(width: int = 40, height: int = 24) -> bytes:
    """A PNG with ramps of colour, at most 60 x 60 pixels."""
    rows, columns = np.mgrid[0:height, 0:width].astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(np.stack([rows * 4, columns * 4, 255 - rows * 4], axis=2)).save(buffer, "PNG")
    return buffer.getvalue()
