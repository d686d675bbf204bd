"""The colours of a small picture for the large one that a model made of it: their low frequencies become the same.

The large picture is averaged over the blocks that the pixels of the small one stand for. What these lack is added,
drawn smoothly: linear between the middles of the blocks, so that no edge of a block can be seen, and such that its own
average over each block is what was lacking there. What is finer than a block stays as the model drew it.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, conv2d, interpolate, pad

from ..views.images import as_channels

# Averaged over its block, a picture that is linear between the middles of blocks is 3/4 of the middle and 1/8 of each
# neighbour, along each side, whatever even number of pixels a block has.
_AVERAGE = (1 / 8, 3 / 4, 1 / 8)
_PASSES, _STEP = 16, 4 / 3  # its eigenvalues are 1/2 to 1, so that each pass leaves a third of the error at most


@torch.no_grad()
def with_colours_of(small: Tensor, large: np.ndarray) -> np.ndarray:
    """Give a large picture the low frequencies of the small one.

    Where no value meets black or white, the average of the result over each block is the pixel of the small picture,
    within half a level, to which the result is rounded.

    Args:
        small: (N, C, h, w) in [-1, 1], from `as_pictures`.
        large: uint8 (N, H, W, C), each side the same even number of times as large, or the same.

    Returns:
        uint8 (N, H, W, C).
    """
    scale = large.shape[1] // small.shape[2]
    result = np.empty_like(large)
    for index, one in enumerate(large):  # alone, which bounds the memory
        levels = torch.from_numpy(one).movedim(-1, 0)[None].float()
        wanted = (as_channels(small[index : index + 1].cpu(), levels.shape[1]) + 1.0) * 127.5
        lacking = wanted - avg_pool2d(levels, scale)
        levels += interpolate(_sharpened(lacking), scale_factor=scale, mode="bilinear") if scale > 1 else lacking
        result[index] = levels.round_().clamp_(0.0, 255.0).to(torch.uint8)[0].movedim(0, -1).numpy()
    return result


def _sharpened(lacking: Tensor) -> Tensor:
    """The middles of blocks whose averages are (1, C, h, w), where what lies between them is linear."""
    kernel = torch.tensor(_AVERAGE)
    for shape, sides in (((1, 1, 3, 1), (0, 0, 1, 1)), ((1, 1, 1, 3), (1, 1, 0, 0))):
        middles = averages = lacking.movedim(1, 0)
        for _ in range(_PASSES):
            found = conv2d(pad(middles, sides, mode="replicate"), kernel.view(shape))
            middles = middles + _STEP * (averages - found)
        lacking = middles.movedim(0, 1)
    return lacking
