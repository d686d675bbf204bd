"""Names of the same tensors in different releases, derived from the configuration. Imports only config.

Our names are those of diffusers today. CompVis numbers its blocks in one row, keeps q, k and v of an attention in one
tensor, and writes the averaged weights with the dots of their names deleted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from ..config.model import LDMConfig, UNetConfig

# diffusers renamed the attention projections after this model was published; its files hold the left names.
_ATTENTION_2022 = {
    "query": "to_q",
    "key": "to_k",
    "value": "to_v",
    "proj_attn": "to_out.0",
}
_ATTENTION_KEY = re.compile(rf"(.*\battentions\.\d+\.)({'|'.join(_ATTENTION_2022)})\.(weight|bias)")

# Inside a block of the UNet: ours -> CompVis.
_RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
_ATTENTION = {
    "group_norm": "norm",
    "to_q": "qkv",
    "to_k": "qkv",
    "to_v": "qkv",
    "to_out.0": "proj_out",
}
_QKV_PART = {"to_q": 0, "to_k": 1, "to_v": 2}
# Inside a block of the first stage: ours -> CompVis, where they differ.
_AE_ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}


@dataclass(frozen=True)
class Source:
    """Where one of our tensors is in a CompVis checkpoint.

    Attributes:
        key: Name there, without the prefix of its network.
        qkv: 0, 1 or 2 if ours is the query, key or value part of that tensor; None if it is the whole.
        heads: Of that attention, in whose order the parts are interleaved.
    """

    key: str
    qkv: int | None = None
    heads: int = 1


def current_name(key: str) -> str:
    """The key under which today's diffusers, and this project, hold the tensor; unknown keys pass unchanged."""
    match = _ATTENTION_KEY.fullmatch(key)
    return f"{match[1]}{_ATTENTION_2022[match[2]]}.{match[3]}" if match else key


def compvis_unet_sources(config: UNetConfig, keys: Iterable[str]) -> dict[str, Source]:
    """Our UNet keys -> their place below `model.diffusion_model.`.

    Args:
        config: Of the UNet.
        keys: Our keys, for example of the model's state_dict.
    """
    modules = {ours: (theirs, channels) for ours, theirs, channels in _unet_modules(config)}
    sources = {}
    for key in keys:
        module, _, leaf = key.rpartition(".")
        theirs, channels = modules[module]
        name = module.rpartition(".")[2]
        part = _QKV_PART.get(name)
        heads = channels // config.head_dim(channels) if part is not None else 1
        sources[key] = Source(f"{theirs}.{leaf}", part, heads)
    return sources


def compvis_first_stage_sources(config: LDMConfig, keys: Iterable[str]) -> dict[str, Source]:
    """Our first-stage keys -> their place below `first_stage_model.`; convolutions there, linear layers here."""
    levels = len(config.vq.block_out_channels)
    return {key: Source(_first_stage_name(key, levels)) for key in keys}


def ema_key(unet_key: str) -> str:
    """The averaged twin of a key below `model.diffusion_model.`; LitEma deletes all dots (ldm/modules/ema.py)."""
    return "model_ema." + f"diffusion_model.{unet_key}".replace(".", "")


def _unet_modules(config: UNetConfig) -> Iterator[tuple[str, str, int]]:
    """(our module, CompVis module, channels) of every layer with weights. Source: openaimodel.py UNetModel."""
    yield "conv_in", "input_blocks.0.0", 0
    yield "time_embedding.linear_1", "time_embed.0", 0
    yield "time_embedding.linear_2", "time_embed.2", 0
    yield "conv_norm_out", "out.0", 0
    yield "conv_out", "out.2", 0
    channels, layers = config.block_out_channels, config.layers_per_block
    number = 1
    for level, (width, kind) in enumerate(zip(channels, config.down_block_types, strict=True)):
        for layer in range(layers):
            yield from _pair(
                f"down_blocks.{level}",
                layer,
                f"input_blocks.{number}",
                "Attn" in kind,
                width,
            )
            number += 1
        if level < len(channels) - 1:
            ours, theirs = (
                f"down_blocks.{level}.downsamplers.0",
                f"input_blocks.{number}.0",
            )
            yield from _resample(ours, theirs, "op" if config.downsample_type == "conv" else None)
            number += 1
    for index, (ours, table) in enumerate(
        (("resnets.0", _RESNET), ("attentions.0", _ATTENTION), ("resnets.1", _RESNET))
    ):
        yield from _block(f"mid_block.{ours}", f"middle_block.{index}", table, channels[-1])
    number = 0
    for index, kind in enumerate(config.up_block_types):
        level = len(channels) - 1 - index
        attention = "Attn" in kind
        for layer in range(layers + 1):
            yield from _pair(
                f"up_blocks.{index}",
                layer,
                f"output_blocks.{number}",
                attention,
                channels[level],
            )
            if level and layer == layers:
                ours, theirs = (
                    f"up_blocks.{index}.upsamplers.0",
                    f"output_blocks.{number}.{1 + attention}",
                )
                yield from _resample(ours, theirs, "conv" if config.upsample_type == "conv" else None)
            number += 1


def _pair(ours: str, layer: int, theirs: str, attention: bool, channels: int) -> Iterator[tuple[str, str, int]]:
    yield from _block(f"{ours}.resnets.{layer}", f"{theirs}.0", _RESNET, channels)
    if attention:
        yield from _block(f"{ours}.attentions.{layer}", f"{theirs}.1", _ATTENTION, channels)


def _block(ours: str, theirs: str, table: dict[str, str], channels: int) -> Iterator[tuple[str, str, int]]:
    for our_name, their_name in table.items():
        yield f"{ours}.{our_name}", f"{theirs}.{their_name}", channels


def _resample(ours: str, theirs: str, convolution: str | None) -> Iterator[tuple[str, str, int]]:
    """A change of resolution: one convolution under that name, or a whole resnet."""
    if convolution:
        yield f"{ours}.conv", f"{theirs}.{convolution}", 0
    else:
        yield from _block(ours, theirs, _RESNET, 0)


def _first_stage_name(key: str, levels: int) -> str:
    """Source: CompVis ldm/modules/diffusionmodules/model.py Encoder and Decoder, which numbers its levels from fine."""
    key = re.sub(r"encoder\.down_blocks\.(\d+)\.resnets\.", r"encoder.down.\1.block.", key)
    key = re.sub(
        r"encoder\.down_blocks\.(\d+)\.downsamplers\.0\.",
        r"encoder.down.\1.downsample.",
        key,
    )
    key = re.sub(
        r"decoder\.up_blocks\.(\d+)\.",
        lambda m: f"decoder.up.{levels - 1 - int(m[1])}.",
        key,
    )
    key = re.sub(r"decoder\.up\.(\d+)\.resnets\.", r"decoder.up.\1.block.", key)
    key = re.sub(r"decoder\.up\.(\d+)\.upsamplers\.0\.", r"decoder.up.\1.upsample.", key)
    key = re.sub(r"mid_block\.resnets\.(\d)\.", lambda m: f"mid.block_{int(m[1]) + 1}.", key)
    for ours, theirs in _AE_ATTENTION.items():
        key = key.replace(f"mid_block.attentions.0.{ours}.", f"mid.attn_1.{theirs}.")
    return key.replace("conv_shortcut.", "nin_shortcut.").replace("conv_norm_out.", "norm_out.")
