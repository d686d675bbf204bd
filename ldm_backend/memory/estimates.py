"""How much memory a request needs at its peak, told before anything is allocated; a request that cannot fit is refused.

The figures are counted from the configuration: the tensors that live at the same time at the largest layer, and what
torch adds to them (SLACK, measured). `tests/unit/test_memory.py` holds them against the measured peak. Nothing grows
with the square of the size: attention works in blocks (see `layers`), so that only its time does. Those that are
made outside of torch's kernels are smaller than what the largest layer takes where they have their full size.

What is counted is what comes on top of the loaded weights.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from ..config.model import FirstStageConfig, LDMConfig, UNetConfig
from ..errors import TooLargeError

FLOAT = 4  # bytes

# What the allocator keeps in reserve and layers copy in passing, as a factor, and what any use of a network takes: the
# C library has blocks of up to 32 MiB on its heap, where gaps of that size stay resident. The same decode of one latent
# of 128x128 cells took 146 to 242 MiB in 16 processes, of which 99 are tensors.
SLACK = 1.4
FIXED = 112 * 2**20

# Latents of one batch that a sampler takes at once: x_t, eps, pred_x0, step noise and what they are computed from, the
# history of the multistep solvers, and what the allocator keeps of those that are gone. Measured: 11 (ddim) to 25
# (plms). Noise is drawn image by image and then joined, which takes it twice.
_LATENTS_OF_A_RUN = 27
_LATENTS_OF_NOISE = 2
# Of each image: what it attends to, encoded and joined, with guidance twice.
_CONTEXTS = 4
# Numbers of 8 bytes for each of a latent while the angle of two latents is measured, see `interpolation.slerp`.
_DOUBLES_OF_A_PATH = 7

# Of a transformer, for each channel at its place: what its caller keeps, its input, its tokens, those normed, in the
# feed-forward values and gates of four times the width, the gates' function, and one in passing.
_FLOATS_OF_A_TRANSFORMER = 4 + 8 + 4 + 1
_CROSS = "CrossAttn"

# Bytes of a request: (images, height, width), sides in the measure of its Size.
Cost = Callable[[int, int, int], int]


@dataclass(frozen=True)
class Size:
    """What is asked for.

    Attributes:
        images: In the batch.
        height: Of one.
        width: Of one.
        unit: What those of the batch are called, a plural with -s.
        measure: Of the sides.
    """

    images: int
    height: int
    width: int
    unit: str = "images"
    measure: str = "pixels"

    def of(self, number: int) -> str:
        """A number of those, in words."""
        return f"{number} {self.unit if number != 1 else self.unit.removesuffix('s')}"


def unet_bytes(config: UNetConfig, images: int, height: int, width: int, itemsize: int = FLOAT) -> int:
    """One evaluation.

    Args:
        config: Of the network.
        images: Evaluated together.
        height: Of the latent, in cells.
        width: likewise.
        itemsize: Bytes of a number of the network's format.
    """
    widths = config.block_out_channels
    floats, skips = 0.0, float(widths[0])  # for each cell; the first skip is the output of conv_in
    for level, channels in enumerate(widths):
        deeper = widths[min(level + 1, len(widths) - 1)]
        share = 4.0**-level
        skips += config.layers_per_block * channels * share
        # On the way up a resnet reads what came from below (kept by its caller), joined with a skip.
        floats = max(floats, skips + share * (deeper + _resnet_floats(deeper + channels, channels)))
        if _CROSS in config.down_block_types[level]:
            floats = max(floats, skips + share * _FLOATS_OF_A_TRANSFORMER * channels)
        skips += channels * share / 4
    return FIXED + round(SLACK * itemsize * images * height * width * floats)


def evaluation_bytes(config: UNetConfig, images: int, height: int, width: int, itemsize: int = FLOAT) -> int:
    """One evaluation, with what joins a conditioning to the latents where there is one; arguments as above."""
    joined = 0 if config.in_channels == config.out_channels else config.in_channels + config.out_channels
    return unet_bytes(config, images, height, width, itemsize) + FLOAT * images * height * width * joined


def decoder_bytes(config: FirstStageConfig, images: int, height: int, width: int, itemsize: int = FLOAT) -> int:
    """Decoding at once, the pictures included; `height` and `width` of the latent, in cells; `itemsize` as above."""
    floats = itemsize * _first_stage_floats(config) + FLOAT * config.out_channels
    return FIXED + round(SLACK * images * height * width * config.downscale**2 * floats)


def encoder_bytes(config: FirstStageConfig, images: int, height: int, width: int, itemsize: int = FLOAT) -> int:
    """Encoding at once; `height` and `width` of the image, in pixels; `itemsize` as above."""
    widths = config.block_out_channels
    floats = max(_resnet_floats(channels, channels) * 4.0**-level for level, channels in enumerate(widths))
    floats = max([floats, *(_attention_floats(config, level) for level in config.encoder_attention)])
    return FIXED + round(SLACK * images * height * width * (itemsize * floats + FLOAT * config.in_channels))


def tiled_decode_bytes(config: FirstStageConfig, height: int, width: int, tile: int, itemsize: int = FLOAT) -> int:
    """Decoding one latent of this size, in cells, with `tiled_decode`; the picture included; `itemsize` as above."""
    widths = config.block_out_channels
    pixels = height * width * config.downscale**2
    # Whole are the input and the output of a stage, of the finest level only with attention there; and of an attention
    # what comes in and goes out in the same place, keys, and values twice while their groups are joined.
    kept = range(0 if 0 in config.decoder_attention else 1, len(widths))
    stages = max((2 * widths[level] * 4.0**-level for level in kept), default=0.0)
    tokens = max(4 * widths[level] * 4.0**-level for level in (len(widths) - 1, *config.decoder_attention))
    side = tile + 8  # with the margins
    one_tile = decoder_bytes(config, 1, min(height, side), min(width, side), itemsize)
    return one_tile + round(SLACK * pixels * (itemsize * max(stages, tokens) + FLOAT * config.out_channels))


def noise_bytes(numbers: int) -> int:
    """Drawing latents of that many numbers, all together."""
    return _LATENTS_OF_NOISE * FLOAT * numbers


def path_bytes(numbers: int, together: int) -> int:
    """A path of latents of that many numbers in all, of which `together` are computed at once."""
    return 2 * FLOAT * (noise_bytes(numbers) // FLOAT + _DOUBLES_OF_A_PATH * together)


def latents_bytes(config: LDMConfig, images: int, height: int, width: int) -> int:
    """The latents of a run of any sampler; `height` and `width` of one, in cells."""
    return _LATENTS_OF_A_RUN * FLOAT * images * config.first_stage.z_channels * height * width


def context_bytes(config: LDMConfig, images: int) -> int:
    """What the images of a run attend to: without and with what is wanted, and a part of that on its way."""
    tokens = 0 if config.conditioning is None else config.conditioning.tokens
    return _CONTEXTS * FLOAT * images * tokens * (config.unet.cross_attention_dim or 0)


def sampling_bytes(config: LDMConfig, size: tuple[int, int, int], at_once: int = 1, itemsize: int = FLOAT) -> int:
    """A run of any sampler over a batch of `size`, in pixels, with `at_once` images in one evaluation."""
    images, height, width = size
    cells = (height // config.first_stage.downscale, width // config.first_stage.downscale)
    evaluated = unet_bytes(config.unet, min(images, at_once), *cells, itemsize)
    return latents_bytes(config, images, *cells) + context_bytes(config, images) + evaluated


def image_bytes(images: int, height: int, width: int, channels: int = 3) -> int:
    """Pictures as float32."""
    return FLOAT * images * height * width * channels


def check_fits(task: str, size: Size, cost: Cost, free: int, step: int = 32) -> None:
    """Refuse what cannot fit.

    Args:
        task: What is to be done, at the beginning of the message.
        size: What is asked for.
        cost: Bytes of any size; grows with each of the three.
        free: Bytes that there are.
        step: Sides that are proposed instead are multiples of this.

    Raises:
        TooLargeError: The figure needed, the figure there, and the nearest sizes that fit.
    """
    needed = cost(size.images, size.height, size.width)
    if needed <= free:
        return
    raise TooLargeError(
        f"{task}: {size.of(size.images)} of {size.width}x{size.height} {size.measure} would take "
        f"{in_words(needed)} of memory, and {in_words(max(0, free))} are free. {_way_out(size, cost, free, step)}"
    )


def _way_out(size: Size, cost: Cost, free: int, step: int) -> str:
    images = largest(size.images, lambda n: cost(n, size.height, size.width) <= free)
    steps = max(size.height, size.width) // step

    def sides(k: int) -> tuple[int, int]:
        return max(step, k * size.height // steps // step * step), max(step, k * size.width // steps // step * step)

    ways = [f"{size.of(images)} of this size"] if images else []
    if scale := largest(steps, lambda k: cost(size.images, *sides(k)) <= free):
        height, width = sides(scale)
        ways.append(f"{size.of(size.images)} of {width}x{height} {size.measure}")
    return f"What fits: {', or '.join(ways)}." if ways else "Ask for fewer and smaller ones, or close other programs."


def largest(limit: int, fits: Callable[[int], bool]) -> int:
    """The largest number of 1..limit that fits, 0 if none does; what is below a number that fits, fits too."""
    low, high = 0, max(0, limit)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if fits(middle) else (low, middle - 1)
    return low


def in_words(number: int) -> str:
    """Bytes for a message, as "823 MB" or "21.4 GB"."""
    return f"{number / 1e6:.0f} MB" if number < 1e9 else f"{number / 1e9:.1f} GB"


def _first_stage_floats(config: FirstStageConfig) -> float:
    """Numbers for each pixel at the largest layer of a decoder."""
    widths = config.block_out_channels
    resnets = (
        _resnet_floats(widths[min(level + 1, len(widths) - 1)], channels) * 4.0**-level
        for level, channels in enumerate(widths)
    )
    return max([*resnets, *(_attention_floats(config, level) for level in config.decoder_attention)])


def _attention_floats(config: FirstStageConfig, level: int) -> float:
    """Numbers for each pixel while an attention runs: its input, tokens, q, k, v and what they become."""
    return 6 * config.block_out_channels[level] * 4.0**-level


def _resnet_floats(inputs: int, outputs: int) -> int:
    """Numbers for each cell while a resnet runs: its input, the norm's result, a convolution's, and one in passing."""
    return 2 * inputs + 2 * outputs
