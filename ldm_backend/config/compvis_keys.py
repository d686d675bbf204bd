"""Every setting that CompVis' classes take: what becomes of it here. Imports only the YAML reader's checks and errors.

Each setting is read, or has the only value that is implemented, or cannot change a picture; any other is an error.
Source: ldm/models/diffusion/ddpm.py, ldm/models/autoencoder.py, ldm/modules/diffusionmodules/{openaimodel,model}.py.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import ConfigError, first_names, short_repr
from .checks import AS_TRAINED, NOT_IMPLEMENTED
from .compvis_schedule import SCHEDULE_KEYS

CONDITIONAL = (
    "Of models that take something beside the noise only these run here: super-resolution, inpainting and semantic "
    "synthesis, whose UNet takes it as further channels, and classes, texts and vectors of CLIP that it attends to. "
    "Texts through CLIP token by token, other classes and layouts are not implemented: run such a model with the "
    "program that trained it."
)
NETWORK = f"A network of this kind is not implemented, and without it the picture would be wrong. {NOT_IMPLEMENTED}"


@dataclass(frozen=True)
class Keys:
    """The settings of one section.

    Attributes:
        read: The reader uses them.
        fixed: The values that are implemented, the first of which an absent one has, and why others are refused.
        unused: They cannot change a picture.
    """

    read: frozenset[str] = frozenset()
    fixed: Mapping[str, tuple[tuple[Any, ...], str]] = field(default_factory=dict)
    unused: frozenset[str] = frozenset()


# The training's data and its callbacks.
TOP = Keys(read=frozenset({"model"}), unused=frozenset({"data", "lightning"}))
MODEL = Keys(read=frozenset({"target", "params"}), unused=frozenset({"base_learning_rate"}))
PART = Keys(read=frozenset({"target", "params"}))

# Where training starts from, watches and logs; a checkpoint comes after it.
_TRAINING = frozenset({"ckpt_path", "ignore_keys", "monitor", "scheduler_config"})

LATENT_DIFFUSION = Keys(
    read=frozenset(
        {"first_stage_config", "unet_config", "scale_factor", "scale_by_std", "use_ema"}
        | {"cond_stage_config", "cond_stage_key", "concat_mode", "conditioning_key", "cond_stage_forward"}
        | set(SCHEDULE_KEYS)
    ),
    unused=_TRAINING
    | {"loss_type", "original_elbo_weight", "l_simple_weight", "learn_logvar", "logvar_init"}  # weights of the loss
    | {"load_only_unet", "log_every_t", "first_stage_key", "num_timesteps_cond"}  # training and its logs
    | {"image_size", "channels"}  # of latents that training logs; the networks say what they take
    | {"clip_denoised", "use_positional_encodings"}  # LatentDiffusion sets the one to False and nothing reads the other
    | {"cond_stage_trainable"},  # training; trained or not, the stage is the one of the checkpoint
)
UNET = Keys(
    read=frozenset(
        {"image_size", "in_channels", "out_channels", "model_channels", "channel_mult", "num_res_blocks"}
        | {"attention_resolutions", "num_heads", "num_head_channels", "num_heads_upsample"}
        | {"use_scale_shift_norm", "resblock_updown"}
        | {"use_spatial_transformer", "context_dim", "transformer_depth"}
    ),
    fixed={
        "conv_resample": ((True,), NETWORK),
        "dims": ((2,), NETWORK),
        "n_embed": ((None,), NETWORK),
        "use_new_attention_order": ((False,), NETWORK),
        "num_classes": ((None,), CONDITIONAL),
    },
    unused=frozenset(
        {"dropout"}  # of training
        | {"use_checkpoint", "use_fp16"}  # memory and number format, which are chosen for each run here
        | {"legacy"}  # of use_spatial_transformer: two ways to write the same heads
    ),
)
AUTOENCODER = Keys(
    read=frozenset({"ddconfig", "embed_dim", "n_embed"}),
    unused=_TRAINING
    | {"lossconfig", "lr_g_factor", "use_ema", "batch_resize_range"}  # training; samples take the raw weights
    | {"image_key", "colorize_nlabels"}  # its logs
    | {"remap", "sane_index_shape"},  # how codes are numbered, which changes no latent
)
DDCONFIG = Keys(
    read=frozenset(
        {"resolution", "in_channels", "out_ch", "z_channels", "ch", "ch_mult", "num_res_blocks", "double_z"}
        | {"attn_resolutions", "attn_type"}
    ),
    fixed={
        "attn_type": (("vanilla", "none"), NETWORK),
        "give_pre_end": ((False,), NETWORK),
        "resamp_with_conv": ((True,), NETWORK),
        "tanh_out": ((False,), NETWORK),
        "use_linear_attn": ((False,), NETWORK),
    },
    unused=frozenset({"dropout"}),  # of training
)

# Our fields -> the settings they come from, for messages.
UNET_NAMES = {
    "sample_size": "image_size",
    "block_out_channels": "model_channels times channel_mult",
    "layers_per_block": "num_res_blocks",
    "attention_head_dim": "num_head_channels",
    "num_attention_heads": "num_heads",
    "cross_attention_dim": "context_dim",
    "transformer_layers_per_block": "transformer_depth",
}
FIRST_STAGE_NAMES = {
    "sample_size": "resolution",
    "latent_channels": "z_channels",
    "block_out_channels": "ch times ch_mult",
    "layers_per_block": "num_res_blocks",
    "num_vq_embeddings": "n_embed",
    "vq_embed_dim": "embed_dim",
    "out_channels": "out_ch",
}
SCHEDULE_NAMES = {"num_train_timesteps": "timesteps", "beta_start": "linear_start", "beta_end": "linear_end"}


def check_keys(data: Mapping[str, Any], keys: Keys, source: str) -> None:
    """Refuse settings of a section that would have to change the picture and cannot.

    Raises:
        ConfigError: An unknown setting, a value that is not implemented, or a reference that was not replaced.
    """
    used = keys.read | keys.fixed.keys()
    if unknown := [str(key) for key in data if key not in used | keys.unused]:
        raise ConfigError(
            f"{source}: unknown settings {first_names(unknown)}; expected those of CompVis/latent-diffusion. Whether "
            "they change the picture is not known: remove them if they do not."
        )
    for key in sorted(used & data.keys()):
        _check_value(key, data[key], source)
    for key, (allowed, reason) in sorted(keys.fixed.items()):
        value = data.get(key, allowed[0])
        if value not in allowed:
            raise ConfigError(
                f"{source}: {key} is {short_repr(value)}; supported is {' or '.join(map(repr, allowed))}. {reason}"
            )


def _check_value(key: str, value: Any, source: str) -> None:
    items = value if isinstance(value, list) else [value]
    if any(isinstance(item, str) and "${" in item for item in items):
        raise ConfigError(
            f"{source}: {key} is {short_repr(value)}; of references only those to a value of the same file are "
            "followed, as ${model.params.channels}. Write the value itself."
        )
    if any(isinstance(item, float) and not math.isfinite(item) for item in items):
        raise ConfigError(f"{source}: {key} is {short_repr(value)}; expected a finite number. {AS_TRAINED}")
