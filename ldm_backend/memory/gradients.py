"""How much memory gradients through the networks take: everything that a layer reads is kept until the way back.

Counted as in `estimates`, what comes on top of the loaded weights; `tests/unit/test_guidance_memory.py` holds it
against the measured peak.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..config.model import FirstStageConfig, UNetConfig
from .estimates import FIXED, FLOAT, SLACK

# Pieces of a square matrix of tokens that are kept where an attention does not work in blocks: scores, their softmax,
# and one on the way back.
_SQUARES = 3


def decoder_gradient_bytes(config: FirstStageConfig, images: int, height: int, width: int, blocks: bool = True) -> int:
    """A gradient through the decoder.

    Args:
        config: Of the first stage.
        images: At once.
        height: Of the latent, in cells.
        width: likewise.
        blocks: Its attention keeps no square of the tokens, as on the CPU.
    """
    widths, scale = config.block_out_channels, config.downscale**2
    last = len(widths) - 1
    floats = 3.0 * widths[0] + 4.0 * config.out_channels  # for each pixel: the last norm, and the loss
    for level, channels in enumerate(widths):
        coarser = widths[min(level + 1, last)]
        resnets = [coarser, *[channels] * config.layers_per_block]
        share = 4.0**-level
        floats += share * (sum(_resnet(c, channels) for c in resnets) + (coarser if level < last else 0))
        floats += share * _attention(channels) * len(resnets) * (level in config.decoder_attention)
    floats += 4.0**-last * (2 * _resnet(widths[last], widths[last]) + _attention(widths[last]))
    numbers = floats + _passing(widths)
    squares = 0 if blocks else _SQUARES * (height * width) ** 2
    return FIXED + round(SLACK * FLOAT * images * (height * width * scale * numbers + squares))


def encoder_gradient_bytes(config: FirstStageConfig, images: int, height: int, width: int) -> int:
    """A gradient through the levels of the encoder, of pictures of this size in pixels."""
    widths = config.block_out_channels
    floats = 0.0
    for level, channels in enumerate(widths):
        resnets = [widths[max(level - 1, 0)], *[channels] * (config.layers_per_block - 1)]
        share = 4.0**-level
        floats += share * (sum(_resnet(c, channels) for c in resnets) + 2 * channels)
        floats += share * _attention(channels) * len(resnets) * (level in config.encoder_attention)
    return FIXED + round(SLACK * FLOAT * images * height * width * (floats + _passing(widths)))


def unet_gradient_bytes(config: UNetConfig, images: int, height: int, width: int) -> int:
    """A gradient through the UNet, of latents of this size in cells."""
    widths, layers = config.block_out_channels, config.layers_per_block
    last = len(widths) - 1
    floats = 4.0 * widths[0]
    for level, channels in enumerate(widths):
        share = 4.0**-level
        down = [widths[max(level - 1, 0)], *[channels] * (layers - 1)]
        up = [widths[min(level + 1, last)] + channels, *[2 * channels] * layers]
        # Joined with their skips, which are kept too.
        kinds = (config.down_block_types[level], config.up_block_types[last - level])
        floats += share * (sum(_resnet(c, channels) for c in (*down, *up)) + sum(up) + 3 * channels)
        attended = layers * ("Attn" in kinds[0]) + (layers + 1) * ("Attn" in kinds[1])
        floats += share * _attention(channels) * attended
    floats += 4.0**-last * (2 * _resnet(widths[last], widths[last]) + _attention(widths[last]))
    return FIXED + round(SLACK * FLOAT * images * height * width * (floats + _passing(widths)))


def _resnet(inputs: int, outputs: int) -> int:
    """Numbers for each place that a resnet keeps: what its norms, activations and convolutions read."""
    return 3 * (inputs + outputs)


def _attention(channels: int) -> int:
    """Likewise an attention: what its norm and its products read, queries, keys, values, and what they became."""
    return 8 * channels


def _passing(widths: Sequence[int]) -> int:
    """Numbers for each place of the finest level on the way back: the gradients on both sides of a convolution."""
    return 3 * max(widths[:2])
