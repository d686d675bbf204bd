"""How diffusers' UNets are told what our networks have beyond CelebA-HQ. Imports only checks and errors.

UNet2DModel:
- Resnets between levels: its plain blocks have them under another name, `Resnet...Block2D`. `downsample_type` and
  `upsample_type` are of its blocks with attention alone.
- Scale-shift: then the attention in the middle has a norm only if its groups are written down.
- A fixed number of heads: it knows only channels of a head, one number for all levels, or null for one head. Where no
  number serves all, a list is written, one entry a level: UNet2DModel stops at it, where it would build another network
  from a number.

UNet2DConditionModel, which has a context: `attention_head_dim` is the number of heads, whatever its name says. One for
each level is written where the channels of a head are fixed, and one for all where the heads are. Of a level without
attention it has no meaning.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import ConfigError, first_names, short_repr
from .checks import AS_TRAINED, NOT_IMPLEMENTED, check_choice

_WAYS = ("conv", "resnet")
# Key of the block types -> key of the way in which blocks with attention end, and the types without attention.
_BLOCKS = {
    "down_block_types": ("downsample_type", "DownBlock2D", "ResnetDownsampleBlock2D"),
    "up_block_types": ("upsample_type", "UpBlock2D", "ResnetUpsampleBlock2D"),
}
# Keys that only one of the two classes has.
_OF_A_CONTEXT = ("cross_attention_dim", "transformer_layers_per_block")
_WITHOUT_CONTEXT = ("add_attention", "attn_norm_num_groups", "downsample_type", "upsample_type")
_OLD_PREFIX = "UNetRes"  # of the block types in 2022; diffusers drops it


def each_way(ways: str | tuple[str, ...], blocks: int) -> tuple[str | None, ...]:
    """How each block ends, from one way for all or one for each but the last, which changes no size."""
    return (*((ways,) * (blocks - 1) if isinstance(ways, str) else ways), None)


def check_ways(where: str, ways: str | tuple[str, ...], types: tuple[str, ...]) -> None:
    """Raise ConfigError unless these are ways in which blocks of such types can end."""
    for way in (ways,) if isinstance(ways, str) else ways:
        check_choice(where, way, _WAYS)
    each = each_way(ways, len(types))
    if len(each) != len(types):
        raise ConfigError(
            f"{where} has {len(each) - 1} entries for {len(types)} blocks; expected one for each but the last. Write "
            "one for all, or one for each."
        )
    if len({way for way, kind in zip(each, types, strict=True) if way and "Attn" in kind}) > 1:
        raise ConfigError(
            f"{where} is {short_repr(ways)}; expected the same for all blocks with attention. {NOT_IMPLEMENTED}"
        )


def to_diffusers(data: Mapping[str, Any]) -> dict[str, Any]:
    """Our settings under diffusers' names -> what UNet2DModel reads as this network."""
    written = dict(data)
    for key, (resample, plain, resnet) in _BLOCKS.items():
        types, ways = list(written[key]), written[resample]
        each = each_way(ways if isinstance(ways, str) else tuple(ways), len(types))
        attended = [way for way, kind in zip(each, types, strict=True) if way and kind != plain]
        written[resample] = ways if isinstance(ways, str) else (*attended, _WAYS[0])[0]
        written[key] = [
            resnet if way == "resnet" and kind == plain else kind for way, kind in zip(each, types, strict=True)
        ]
    groups = written["attn_norm_num_groups"]
    if groups is None and written["add_attention"] and written["resnet_time_scale_shift"] == "scale_shift":
        written["attn_norm_num_groups"] = written["norm_num_groups"]
    elif groups == 0:
        written["attn_norm_num_groups"] = None
    for key in _OF_A_CONTEXT:
        del written[key]
    heads = written.pop("num_attention_heads")
    if heads is not None and heads > 1:
        written |= {"num_attention_heads": heads, "attention_head_dim": _head_dims(written, heads)}
    return written


def from_diffusers(data: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The inverse of `to_diffusers`.

    Raises:
        ConfigError: Settings that only together make another network, or keys of another class.
    """
    if other := [key for key in _OF_A_CONTEXT if key in data]:
        raise ConfigError(
            f"{source}: unknown keys {first_names(other)}; networks that attend to a context are of the class "
            "UNet2DConditionModel. Say so with _class_name, or remove the keys."
        )
    found = dict(data)
    for key, (resample, plain, resnet) in _BLOCKS.items():
        found |= _block_types(found, key, resample, plain, resnet, source)
    _take_attention_norm(found, source)
    _take_time_embedding(found)
    _take_heads(found, source)
    return found


def condition_to_diffusers(data: Mapping[str, Any]) -> dict[str, Any]:
    """Our settings under diffusers' names -> what UNet2DConditionModel reads as this network."""
    written = {key: value for key, value in data.items() if key not in _WITHOUT_CONTEXT}
    heads = written.pop("num_attention_heads")
    if heads is None:
        heads = [max(1, width // data["attention_head_dim"]) for width in data["block_out_channels"]]
    return written | {"attention_head_dim": heads}


def condition_from_diffusers(data: Mapping[str, Any], source: str) -> dict[str, Any]:
    """The inverse of `condition_to_diffusers`.

    Raises:
        ConfigError: Keys of another class, or heads that are no heads of these levels.
    """
    if other := [key for key in (*_WITHOUT_CONTEXT, "num_attention_heads") if data.get(key) is not None]:
        raise ConfigError(
            f"{source}: {first_names(other)}; expected none in a UNet2DConditionModel. Remove keys that have no effect."
        )
    found = {key: value for key, value in data.items() if key not in _WITHOUT_CONTEXT}
    _take_time_embedding(found)
    heads = found.get("attention_head_dim")
    if not isinstance(heads, list | tuple):
        return found | {"attention_head_dim": None, "num_attention_heads": heads} if heads is not None else found
    numbers, widths = _attended(found, list(heads))
    dims = {width / number for width, number in zip(widths, numbers, strict=True)} if widths else set()
    if len(dims) == 1 and (dim := dims.pop()).is_integer():
        return found | {"attention_head_dim": int(dim), "num_attention_heads": None}
    if len({*map(repr, numbers)}) != 1:
        raise ConfigError(
            f"{source}: attention_head_dim is {short_repr(heads)}; expected a number of heads, or one for each level "
            f"with equally many channels in all that have attention. {NOT_IMPLEMENTED}"
        )
    return found | {"attention_head_dim": None, "num_attention_heads": numbers[0]}


def _attended(data: Mapping[str, Any], heads: list[Any]) -> tuple[list[Any], list[int]]:
    """Heads and channels of the levels with attention, the last of which has that of the middle.

    Of a network that is none, for the reader to refuse, all heads and no channels.
    """
    down, up, widths = (data.get(key) for key in ("down_block_types", "up_block_types", "block_out_channels"))
    parts = [part for part in (down, up, widths) if isinstance(part, list | tuple) and len(part) == len(heads)]
    if len(parts) < 3 or any(type(one) is not int or one < 1 for one in (*heads, *parts[2])):
        return heads, []
    pairs = list(zip(parts[0], parts[1][::-1], strict=True))
    levels = [at for at, types in enumerate(pairs) if at == len(heads) - 1 or any("Attn" in str(one) for one in types)]
    return [heads[at] for at in levels], [parts[2][at] for at in levels]


def _take_time_embedding(found: dict[str, Any]) -> None:
    """Leave away a width of the time embedding that is the usual one."""
    widths = found.get("block_out_channels")
    if isinstance(widths, list | tuple) and widths and found.get("time_embedding_dim") == 4 * widths[0]:
        del found["time_embedding_dim"]


def _block_types(
    data: Mapping[str, Any], key: str, resample: str, plain: str, resnet: str, source: str
) -> dict[str, Any]:
    """Our block types of one way through the network, and how its blocks end."""
    usual = data.get(resample, _WAYS[0])
    if usual not in _WAYS:
        raise ConfigError(
            f"{source}: {resample} is {short_repr(usual)}; supported are {', '.join(_WAYS)}. {NOT_IMPLEMENTED}"
        )
    types = data.get(key)
    if not isinstance(types, list | tuple):  # for the reader to refuse
        return {}
    known = {plain: "conv", resnet: "resnet", f"Attn{plain}": usual}
    old_names = {_OLD_PREFIX + kind: kind for kind in known}
    names = [old_names.get(str(kind), kind) for kind in types]
    ways = [known.get(str(kind), usual) for kind in names[:-1]]  # others are refused by their names
    return {
        key: [plain if kind == resnet else kind for kind in names],
        resample: tuple(ways) if len(set(ways)) > 1 else (*ways, usual)[0],
    }


def _take_attention_norm(found: dict[str, Any], source: str) -> None:
    """Turn diffusers' groups of the norm in the middle into ours: None as everywhere, 0 for no norm."""
    groups, usual = found.pop("attn_norm_num_groups", None), found.get("norm_num_groups", 32)
    if groups is not None and (type(groups) is not int or groups < 1):
        raise ConfigError(
            f"{source}: attn_norm_num_groups is {short_repr(groups)}; expected a positive number or null. {AS_TRAINED}"
        )
    if found.get("add_attention") is False or groups == usual:
        return
    if groups is None and found.get("resnet_time_scale_shift") == "scale_shift":
        groups = 0
    found["attn_norm_num_groups"] = groups


def _take_heads(found: dict[str, Any], source: str) -> None:
    """Turn diffusers' channels of a head into a number of heads where it is that."""
    heads, dims = found.get("num_attention_heads"), found.get("attention_head_dim")
    if isinstance(dims, list):
        if type(heads) is not int or heads < 1 or dims != _head_dims(found, heads):
            raise ConfigError(
                f"{source}: attention_head_dim is {short_repr(dims)} and num_attention_heads {short_repr(heads)}; "
                "expected a number, or the channels of each level divided by num_attention_heads. "
                f"{AS_TRAINED}"
            )
        found["attention_head_dim"] = None
    elif dims is None and heads is None and "attention_head_dim" in found:
        found["num_attention_heads"] = 1


def _head_dims(data: Mapping[str, Any], heads: int) -> list[int] | None:
    """Channels of a head at each level."""
    widths = data.get("block_out_channels")
    if not isinstance(widths, list | tuple) or not all(type(width) is int for width in widths):
        return None
    return [width // heads for width in widths]
