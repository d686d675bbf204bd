"""Ranges that the configurations of all networks share. Imports only errors."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from ..errors import ConfigError, short_repr

# Upper limits: several times the largest published model, and low enough that a damaged or hostile file is refused here
# and not after minutes of building layers.
_MAX_LEVELS = 10  # each halves the side
_MAX_LAYERS = 16  # of a level
_MAX_CODES = 2**20  # 64 times the largest published codebook
MAX_WIDTH = 8192  # channels, heads, groups, and the side of images and latents
NOT_IMPLEMENTED = "Another is not implemented here: run the model with the program that trained it."
AS_TRAINED = "Write down what the model was trained with."
CHECKED = {"checked": True}  # in the metadata of fields that have checks of their own
_LIMITS = {
    "layers_per_block": _MAX_LAYERS,
    "transformer_layers_per_block": _MAX_LAYERS,
    "num_vq_embeddings": _MAX_CODES,
}  # by field; others have MAX_WIDTH


def check_choice(where: str, value: Any, allowed: tuple[Any, ...]) -> None:
    """Raise ConfigError unless the value is one of these; another would make another network."""
    if value not in allowed:
        raise ConfigError(
            f"{where} holds {short_repr(value)}; supported are {', '.join(map(str, allowed))}. {NOT_IMPLEMENTED}"
        )


def check_common(part: str, config: Any) -> None:
    """Ranges that the networks share, so that a bad file fails here and not inside a layer."""
    if not 1 <= (levels := len(config.block_out_channels)) <= _MAX_LEVELS:
        what = f"has {levels} entries" if levels else "is empty"
        raise ConfigError(
            f"{part}: block_out_channels {what}; expected one a level, at most {_MAX_LEVELS}. {AS_TRAINED}"
        )
    for item in fields(config):
        value = getattr(config, item.name)
        numbers = value if isinstance(value, tuple) else (value,)
        limit = _LIMITS.get(item.name, MAX_WIDTH)
        if not item.metadata.get("checked") and any(type(n) in (int, float) and not 0 < n <= limit for n in numbers):
            raise ConfigError(
                f"{part}: {item.name} is {short_repr(value)}; expected positive numbers, at most {limit}. {AS_TRAINED}"
            )
    for channels in config.block_out_channels:
        if channels % config.norm_num_groups:
            raise ConfigError(
                f"{part}: {channels} channels cannot be normalised in norm_num_groups {config.norm_num_groups} groups; "
                "use a divisor."
            )
