"""Names of the same tensors in different releases, derived from the configuration. Imports only config.

Our names are those of diffusers today. CompVis numbers its blocks in one row, keeps q, k and v of an attention in one
tensor, and writes the averaged weights with the dots of their names deleted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from ..config.model import FirstStageConfig, UNetConfig, VQConfig

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
# A transformer has one set of names; each of its blocks has these.
_TRANSFORMER = ("norm", "proj_in", "proj_out")
_TRANSFORMER_BLOCK = (
    *(f"{attention}.{layer}" for attention in ("attn1", "attn2") for layer in ("to_q", "to_k", "to_v", "to_out.0")),
    *("ff.net.0.proj", "ff.net.2", "norm1", "norm2", "norm3"),
)
_QKV_PART = {"to_q": 0, "to_k": 1, "to_v": 2}
# Inside a block of the first stage: ours -> CompVis.
_AE_RESNET = {name: name for name in ("norm1", "conv1", "norm2", "conv2")}
_AE_SHORTCUT = {"conv_shortcut": "nin_shortcut"}
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


def compvis_unet_sources(config: UNetConfig) -> dict[str, Source]:
    """All our UNet keys -> their place below `model.diffusion_model.`."""
    sources = {}
    for ours, theirs, channels in _unet_layers(config):
        name = ours.rpartition(".")[2]
        part = _QKV_PART[name] if theirs.endswith(".qkv") else None
        heads = channels // config.head_dim(channels) if part is not None else 1
        biased = part is not None or name not in _QKV_PART  # those of a transformer have none
        for leaf in ("weight", "bias") if biased else ("weight",):
            sources[f"{ours}.{leaf}"] = Source(f"{theirs}.{leaf}", part, heads)
    return sources


def compvis_first_stage_sources(config: FirstStageConfig) -> dict[str, Source]:
    """All our first-stage keys -> their place below `first_stage_model.`; convolutions there, linear layers here."""
    sources = {
        f"{ours}.{leaf}": Source(f"{theirs}.{leaf}")
        for ours, theirs in _first_stage_layers(config)
        for leaf in ("weight", "bias")
    }
    if isinstance(config, VQConfig):
        sources["quantize.embedding.weight"] = Source("quantize.embedding.weight")
    return sources


def compvis_text_sources(layers: int) -> dict[str, str]:
    """Our keys of a text encoder with so many layers -> their place below `cond_stage_model.`.

    Source: x_transformer.py, where attention and feed-forward take turns in one row, each with its norm before it.
    """
    sources = {
        "embed_tokens.weight": "transformer.token_emb.weight",
        "embed_positions.weight": "transformer.pos_emb.emb.weight",
    }
    rows = [("layer_norm", "transformer.norm", True)]
    for layer in range(layers):
        ours, theirs = f"layers.{layer}", "transformer.attn_layers.layers"
        attention, feed_forward = f"{theirs}.{2 * layer}", f"{theirs}.{2 * layer + 1}"
        rows += [
            (f"{ours}.self_attn_layer_norm", f"{attention}.0", True),
            *((f"{ours}.self_attn.{part}_proj", f"{attention}.1.to_{part}", False) for part in "qkv"),
            (f"{ours}.self_attn.out_proj", f"{attention}.1.to_out", True),
            (f"{ours}.final_layer_norm", f"{feed_forward}.0", True),
            (f"{ours}.fc1", f"{feed_forward}.1.net.0.0", True),
            (f"{ours}.fc2", f"{feed_forward}.1.net.2", True),
        ]
    for name, place, biased in rows:
        sources |= {f"{name}.{leaf}": f"{place}.{leaf}" for leaf in (("weight", "bias") if biased else ("weight",))}
    return sources


def ema_key(unet_key: str) -> str:
    """The averaged twin of a key below `model.diffusion_model.`; LitEma deletes all dots (ldm/modules/ema.py)."""
    return "model_ema." + f"diffusion_model.{unet_key}".replace(".", "")


def _unet_layers(config: UNetConfig) -> Iterator[tuple[str, str, int]]:
    """(our layer, CompVis layer, channels) of every layer with weights. Source: openaimodel.py UNetModel."""
    yield "conv_in", "input_blocks.0.0", 0
    yield "time_embedding.linear_1", "time_embed.0", 0
    yield "time_embedding.linear_2", "time_embed.2", 0
    yield "conv_norm_out", "out.0", 0
    yield "conv_out", "out.2", 0
    width = config.block_out_channels[-1]
    yield from _down_layers(config)
    yield from _resnet("mid_block.resnets.0", "middle_block.0", width, width)
    if config.add_attention:
        yield from _attention(config, "mid_block.attentions.0", "middle_block.1", width)
    yield from _resnet("mid_block.resnets.1", "middle_block.2", width, width)
    yield from _up_layers(config)


def _down_layers(config: UNetConfig) -> Iterator[tuple[str, str, int]]:
    widths, inputs, number = config.block_out_channels, config.block_out_channels[0], 1
    levels = zip(widths, config.down_block_types, config.shrinks, strict=True)
    for level, (width, kind, shrink) in enumerate(levels):
        block = f"down_blocks.{level}"
        for layer in range(config.layers_per_block):
            yield from _resnet(f"{block}.resnets.{layer}", f"input_blocks.{number}.0", inputs, width)
            if "Attn" in kind:
                yield from _attention(config, f"{block}.attentions.{layer}", f"input_blocks.{number}.1", width)
            inputs, number = width, number + 1
        if shrink:
            convolution = "op" if shrink == "conv" else None
            yield from _resample(f"{block}.downsamplers.0", f"input_blocks.{number}.0", convolution, width)
            number += 1


def _up_layers(config: UNetConfig) -> Iterator[tuple[str, str, int]]:
    widths, layers, number = config.block_out_channels, config.layers_per_block, 0
    # What the way down leaves for the way up: one width for each layer and each halving, after that of conv_in.
    skips = [widths[0]]
    for level, width in enumerate(widths):
        skips += [width] * (layers + (level < len(widths) - 1))
    inputs = widths[-1]
    for index, (kind, grow) in enumerate(zip(config.up_block_types, config.grows, strict=True)):
        level = len(widths) - 1 - index
        block, width, attention = f"up_blocks.{index}", widths[level], "Attn" in kind
        for layer in range(layers + 1):
            yield from _resnet(f"{block}.resnets.{layer}", f"output_blocks.{number}.0", inputs + skips.pop(), width)
            if attention:
                yield from _attention(config, f"{block}.attentions.{layer}", f"output_blocks.{number}.1", width)
            if grow and layer == layers:
                convolution = "conv" if grow == "conv" else None
                theirs = f"output_blocks.{number}.{1 + attention}"
                yield from _resample(f"{block}.upsamplers.0", theirs, convolution, width)
            inputs, number = width, number + 1


def _resnet(ours: str, theirs: str, inputs: int, channels: int) -> Iterator[tuple[str, str, int]]:
    for our_name, their_name in _RESNET.items():
        if our_name != "conv_shortcut" or inputs != channels:
            yield f"{ours}.{our_name}", f"{theirs}.{their_name}", channels


def _attention(config: UNetConfig, ours: str, theirs: str, channels: int) -> Iterator[tuple[str, str, int]]:
    if config.cross_attention_dim is not None:
        blocks = [
            f"transformer_blocks.{at}.{name}"
            for at in range(config.transformer_layers_per_block)
            for name in _TRANSFORMER_BLOCK
        ]
        yield from ((f"{ours}.{name}", f"{theirs}.{name}", channels) for name in (*_TRANSFORMER, *blocks))
        return
    for our_name, their_name in _ATTENTION.items():
        yield f"{ours}.{our_name}", f"{theirs}.{their_name}", channels


def _resample(ours: str, theirs: str, convolution: str | None, channels: int) -> Iterator[tuple[str, str, int]]:
    """A change of resolution: one convolution under that name, or a whole resnet."""
    if convolution:
        yield f"{ours}.conv", f"{theirs}.{convolution}", 0
    else:
        yield from _resnet(ours, theirs, channels, channels)


def _first_stage_layers(config: FirstStageConfig) -> Iterator[tuple[str, str]]:
    """(our layer, CompVis layer) of every layer with weight and bias.

    Source: ldm/modules/diffusionmodules/model.py Encoder and Decoder, which number their levels from fine to coarse.
    """
    yield "quant_conv", "quant_conv"
    yield "post_quant_conv", "post_quant_conv"
    fine_first = range(len(config.block_out_channels))
    yield from _ae_part(config, "encoder", fine_first, config.layers_per_block, config.encoder_attention)
    yield from _ae_part(config, "decoder", fine_first[::-1], config.layers_per_block + 1, config.decoder_attention)


def _ae_part(
    config: FirstStageConfig, part: str, levels: Sequence[int], layers: int, attended: Sequence[int]
) -> Iterator[tuple[str, str]]:
    """Encoder or decoder: its levels in the order of ours, with so many resnets each, and those with attention."""
    way = {"encoder": "down", "decoder": "up"}[part]
    yield f"{part}.conv_in", f"{part}.conv_in"
    yield f"{part}.conv_norm_out", f"{part}.norm_out"
    yield f"{part}.conv_out", f"{part}.conv_out"
    yield from _ae_block(f"{part}.mid_block.resnets.0", f"{part}.mid.block_1", _AE_RESNET)
    if config.mid_block_add_attention:
        yield from _ae_block(f"{part}.mid_block.attentions.0", f"{part}.mid.attn_1", _AE_ATTENTION)
    yield from _ae_block(f"{part}.mid_block.resnets.1", f"{part}.mid.block_2", _AE_RESNET)
    inputs = config.block_out_channels[levels[0]]
    for index, level in enumerate(levels):
        ours, theirs, width = f"{part}.{way}_blocks.{index}", f"{part}.{way}.{level}", config.block_out_channels[level]
        for layer in range(layers):
            table = _AE_RESNET if inputs == width else _AE_RESNET | _AE_SHORTCUT
            yield from _ae_block(f"{ours}.resnets.{layer}", f"{theirs}.block.{layer}", table)
            if level in attended:
                yield from _ae_block(f"{ours}.attentions.{layer}", f"{theirs}.attn.{layer}", _AE_ATTENTION)
            inputs = width
        if index < len(levels) - 1:
            yield f"{ours}.{way}samplers.0.conv", f"{theirs}.{way}sample.conv"


def _ae_block(ours: str, theirs: str, table: dict[str, str]) -> Iterator[tuple[str, str]]:
    for our_name, their_name in table.items():
        yield f"{ours}.{our_name}", f"{theirs}.{their_name}"
