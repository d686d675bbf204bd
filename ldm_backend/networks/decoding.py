"""Decoding of a batch within the memory that there is: in parts, and where a single image does not fit, in tiles."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import torch
from torch import Tensor

from ..errors import TooLargeError
from ..kernels.fp32 import in_fp32
from ..memory.chunks import Chunks, attempt
from ..memory.estimates import Size, check_fits, decoder_bytes, tiled_decode_bytes
from ..memory.free_memory import free_bytes
from .first_stage import FirstStage
from .tiled_decode import MIN_TILE, TileCallback, decode_tiled

logger = logging.getLogger("comfyui_ldm")

TILES = (64, 32, MIN_TILE)  # latent cells of a tile, in the order in which they are tried

# Images that a first stage takes at once on a card: enough that the work of one image is not waited for, few enough
# that a large batch leaves memory to others.
_ON_A_CARD = 8


def most_at_once(device: torch.device, elsewhere: int | None = None) -> int | None:
    """How many images a first stage may take at once, if memory allows; `elsewhere` than on a card."""
    return _ON_A_CARD if device.type == "cuda" else elsewhere


def check_decoding(first_stage: FirstStage, images: int, size: tuple[int, int], device: torch.device) -> None:
    """Refuse latents that could not be decoded one by one in the smallest tiles, before a sampler spends its time.

    Args:
        first_stage: On `device`.
        images: To decode.
        size: Of a latent, in cells, high and wide.
        device: Where to compute. On a card nothing is refused: what does not fit there says so itself.

    Raises:
        TooLargeError: With the nearest sizes that fit.
    """
    if device.type != "cpu":
        return
    config, itemsize = first_stage.config, first_stage.dtype.itemsize

    def cost(n: int, height: int, width: int) -> int:
        cells = (height // config.downscale, width // config.downscale)
        at_once = decoder_bytes(config, 1, *cells, itemsize)
        finished = n * height * width * config.out_channels
        return min(at_once, tiled_decode_bytes(config, *cells, MIN_TILE, itemsize)) + finished

    height, width = (side * config.downscale for side in size)
    check_fits("Decoding", Size(images, height, width), cost, free_bytes(device))


def decoded(
    first_stage: FirstStage, z: Tensor, device: torch.device, chunks: Chunks, at_most: int | None = None
) -> Iterator[tuple[slice, Tensor]]:
    """Decode latents, as many at once as fit.

    Args:
        first_stage: On `device`.
        z: (N, C, h, w) latents, anywhere.
        device: Where to compute.
        chunks: Decides how many at once.
        at_most: Images at once elsewhere than on a card.

    Yields:
        Which images, and these images (n, 3, H, W), about [-1, 1], not clamped.

    Raises:
        InputError: Another number of latent channels.
        TooLargeError: Not even tiles fit.
    """
    _, _, height, width = z.shape
    itemsize, done = first_stage.dtype.itemsize, 0

    @in_fp32  # here too, for a host that compiles the first stage compiles it without that
    def work(part: slice) -> Tensor:
        return first_stage.decode(z[part].to(device, torch.float32))

    try:
        for part, images in chunks.parts(
            work,
            z.shape,
            device,
            lambda n: decoder_bytes(first_stage.config, n, height, width, itemsize),
            most_at_once(device, at_most),
        ):
            yield part, images
            done = part.stop
        return
    except TooLargeError as error:
        if max(height, width) <= MIN_TILE:
            raise
        logger.warning("%s Trying tiles, which show the same picture.", error)
    tiles = [
        tile
        for tile in TILES
        if chunks.has_room(device, tiled_decode_bytes(first_stage.config, height, width, tile, itemsize))
    ]
    if not tiles:
        raise TooLargeError(_too_large(1, height, width, TILES[-1]))
    for index in range(done, len(z)):
        part = slice(index, index + 1)
        yield part, decoded_in_tiles(first_stage, z[part].to(device, torch.float32), tiles[0], chunks)


def decoded_in_tiles(
    first_stage: FirstStage, z: Tensor, tile: int, chunks: Chunks, callback: TileCallback | None = None
) -> Tensor:
    """`decode_tiled`, with smaller tiles where memory runs out; arguments, result and errors are its own.

    Raises:
        TooLargeError: The smallest tiles do not fit.
    """
    while True:
        images = attempt(lambda tile=tile: decode_tiled(first_stage, z, tile, callback))
        if images is not None:
            return images
        chunks.recover()
        if tile // 2 < MIN_TILE:
            raise TooLargeError(_too_large(len(z), z.shape[2], z.shape[3], tile))
        tile //= 2
        logger.warning("Decoder: out of memory; going on with tiles of %d cells", tile)


def _too_large(latents: int, height: int, width: int, tile: int) -> str:
    return (
        f"Decoder: {latents} latents of {width}x{height} do not fit into memory even in tiles of {tile} cells. Decode "
        "fewer or smaller ones, or close other programs."
    )
