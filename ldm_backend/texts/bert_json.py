"""The settings of a text encoder as diffusers writes them, those of its LDMBertModel. Imports config and errors.

LDMBertModel is one of diffusers in a file of transformers: it has no `_class_name`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..config.conditioning import TextConfig
from ..config.strict_json import JsonRules, in_their_names, read_json_object, write_fields
from ..errors import ConfigError, short_repr

_NAMES = {
    "vocab_size": "vocab_size",
    "max_tokens": "max_position_embeddings",
    "embed_dim": "d_model",
    "layers": "encoder_layers",
    "heads": "encoder_attention_heads",
    "head_dim": "head_dim",
}
_WIDE, _LAYERS_AGAIN = "encoder_ffn_dim", "num_hidden_layers"
_AS_WRITTEN = {"activation_function": "gelu", "model_type": "ldmbert", "architectures": ["LDMBertModel"]}
_RULES = JsonRules(
    class_names=("LDMBertModel",),
    fixed={
        "activation_function": ("gelu",),
        "architectures": ("LDMBertModel", None),
        "model_type": ("ldmbert",),
        "scale_embedding": (False,),
        "is_decoder": (False,),
    },
    ignored=(
        *("dropout", "attention_dropout", "activation_dropout", "classifier_dropout", "encoder_layerdrop"),  # training
        *("init_std", "initializer_range"),  # of weights before the training
        *("dtype", "torch_dtype"),  # of the weights, which say it themselves
        *("use_cache", "output_attentions", "output_hidden_states", "return_dict"),  # what a call keeps and returns
        "pad_token_id",  # nothing in the network reads it; the tokeniser goes by the name of the token
        "transformers_version",
    ),
    required=("vocab_size", "max_tokens", "embed_dim", "layers", "heads", "head_dim"),
)


def text_config_from_json(data: Mapping[str, Any], source: str) -> TextConfig:
    """Read a configuration of `LDMBertModel`.

    Raises:
        ConfigError: A key that is unknown, missing or has an unsupported value.
    """
    theirs = {their: our for our, their in _NAMES.items()}
    if taken := [key for key in data if key in _NAMES and key not in theirs]:
        raise ConfigError(f"{source}: unknown keys {', '.join(taken)}. Remove keys that have no effect.")
    found = {theirs.get(key, key): value for key, value in data.items()}
    wide, again = found.pop(_WIDE, None), found.pop(_LAYERS_AGAIN, None)
    config = in_their_names(_NAMES, source, lambda: read_json_object(TextConfig, found, source, _RULES))
    for key, value, expected in (
        (_WIDE, wide, 4 * config.embed_dim),
        (_LAYERS_AGAIN, config.layers if again is None else again, config.layers),
    ):
        if type(value) is not int or value != expected:
            raise ConfigError(
                f"{source}: {key} is {short_repr(value)}; supported is {expected}, as the other settings have it. "
                "Write down what the model was trained with."
            )
    return config


def text_config_to_json(config: TextConfig) -> dict[str, Any]:
    """The inverse of `text_config_from_json`."""
    settings = {_NAMES[key]: value for key, value in write_fields(config).items()}
    return {**_AS_WRITTEN, **settings, _WIDE: 4 * config.embed_dim}
