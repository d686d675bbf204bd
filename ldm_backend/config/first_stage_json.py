"""Where a first stage has attention: levels here, block types in diffusers' JSON. Imports only checks and errors."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..errors import ConfigError, short_repr
from .checks import AS_TRAINED, NOT_IMPLEMENTED

# Key of the JSON -> our field, and the two block types: without and with attention after each resnet.
_TYPES = {
    "down_block_types": ("encoder_attention", "DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
    "up_block_types": ("decoder_attention", "UpDecoderBlock2D", "AttnUpDecoderBlock2D"),
}


def with_attention_levels(data: Mapping[str, Any], source: str) -> dict[str, Any]:
    """JSON of diffusers with our fields in the place of its block types; absent types are those without attention.

    Raises:
        ConfigError: Another block type, or not one for each level.
    """
    found = dict(data)
    for key, (field, plain, attended) in _TYPES.items():
        if field in found:
            raise ConfigError(f"{source}: unknown keys {field}. Write the attention as {attended} in {key}.")
        types = found.pop(key, None)
        if types is None:
            continue
        if not isinstance(types, list | tuple):
            raise ConfigError(
                f"{source}: {key} is {short_repr(types)}; expected a list with a block type for each level. "
                f"{AS_TRAINED}"
            )
        for kind in types:
            if kind not in (plain, attended):
                raise ConfigError(
                    f"{source}: {key} is {short_repr(kind)}; supported is {plain!r} or {attended!r}. {NOT_IMPLEMENTED}"
                )
        widths = found.get("block_out_channels")
        if isinstance(widths, list | tuple) and len(widths) != len(types):
            raise ConfigError(
                f"{source}: {key} has {len(types)} entries and block_out_channels {len(widths)}; expected one of each "
                f"for a level. {AS_TRAINED}"
            )
        # Levels are counted from the finest; the decoder's types begin with the coarsest.
        order = types if key == "down_block_types" else types[::-1]
        found[field] = [level for level, kind in enumerate(order) if kind == attended]
    return found


def with_block_types(data: Mapping[str, Any], levels: int) -> dict[str, Any]:
    """The inverse of `with_attention_levels`."""
    written = dict(data)
    for key, (field, plain, attended) in _TYPES.items():
        where = written.pop(field)
        types = [attended if level in where else plain for level in range(levels)]
        written[key] = types if key == "down_block_types" else types[::-1]
    return written


def check_levels(part: str, field: str, where: Sequence[int], levels: int) -> None:
    """Raise ConfigError unless these are levels of a network, each once and in order."""
    if list(where) != sorted({level for level in where if 0 <= level < levels}):
        raise ConfigError(
            f"{part}: {field} is {short_repr(where)}; expected levels from 0 to {levels - 1}, in order. {AS_TRAINED}"
        )
