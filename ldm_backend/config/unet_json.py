"""How diffusers' UNet2DModel is told what CompVis' UNets have beyond CelebA-HQ. Imports only errors.

- Resnets between levels: its plain blocks have them under another name, `Resnet...Block2D`.
- Scale-shift: then the attention in the middle has a norm only if its groups are written down.
- A fixed number of heads: it knows only channels of a head, one number for all levels. Where no number serves all, a
  list is written, one entry a level: UNet2DModel stops at it, where it would build another network from a number.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import ConfigError, short_repr

_RESNET_BLOCKS = {
    "down_block_types": ("downsample_type", "DownBlock2D", "ResnetDownsampleBlock2D"),
    "up_block_types": ("upsample_type", "UpBlock2D", "ResnetUpsampleBlock2D"),
}


def to_diffusers(data: Mapping[str, Any]) -> dict[str, Any]:
    """Our settings under diffusers' names -> what UNet2DModel reads as this network."""
    written = dict(data)
    for key, (resample, plain, resnet) in _RESNET_BLOCKS.items():
        types = list(written[key])
        if written[resample] == "resnet":  # the last block of either way changes no size
            types[:-1] = [resnet if kind == plain else kind for kind in types[:-1]]
        written[key] = types
    scale_shift = written["resnet_time_scale_shift"] == "scale_shift"
    written["attn_norm_num_groups"] = written["norm_num_groups"] if scale_shift else None
    if (heads := written["num_attention_heads"]) is None:
        del written["num_attention_heads"]
    elif heads > 1:
        written["attention_head_dim"] = _head_dims(written, heads)
    return written


def from_diffusers(data: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The inverse of `to_diffusers`.

    Raises:
        ConfigError: Settings that only together make another network.
    """
    found = dict(data)
    for key, (resample, plain, resnet) in _RESNET_BLOCKS.items():
        types = found.get(key)
        if not isinstance(types, list | tuple) or resnet not in types:
            continue
        if found.get(resample) != "resnet":
            raise ConfigError(
                f"{source}: {key} holds {resnet} and {resample} is {short_repr(found.get(resample))}; supported is "
                "'resnet' with it. A network that mixes both is not implemented."
            )
        found[key] = [plain if kind == resnet else kind for kind in types]
    groups, usual = found.pop("attn_norm_num_groups", None), found.get("norm_num_groups", 32)
    if groups not in (None, usual):
        raise ConfigError(
            f"{source}: attn_norm_num_groups is {short_repr(groups)}; supported is {short_repr(usual)} or None."
        )
    heads, dims = found.get("num_attention_heads"), found.get("attention_head_dim")
    if isinstance(dims, list):
        if type(heads) is not int or heads < 1 or dims != _head_dims(found, heads):
            raise ConfigError(
                f"{source}: attention_head_dim is {short_repr(dims)} and num_attention_heads {short_repr(heads)}; "
                "expected a number, or the channels of each level divided by num_attention_heads."
            )
        found["attention_head_dim"] = None
    return found


def _head_dims(data: Mapping[str, Any], heads: int) -> list[int] | None:
    """Channels of a head at each level."""
    widths = data.get("block_out_channels")
    if not isinstance(widths, list | tuple) or not all(type(width) is int for width in widths):
        return None
    return [width // heads for width in widths]
