"""UNets that attend to a context: those of diffusers' UNet2DConditionModel, and the original's formulas.

Tolerance: 1e-12 of the standard deviation of what the reference predicts, in float64, where nothing is left but the
order of sums; measured is 1e-14. In float32, where that is 5e8 times as much, 2e-5; measured is 7e-6.
"""

from __future__ import annotations

import inspect
import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor
from torch.nn.functional import conv2d, gelu, group_norm, layer_norm, linear

from ldm_backend.checkpoints.checkpoint import load_into
from ldm_backend.checkpoints.key_maps import compvis_unet_sources
from ldm_backend.config.model import UNetConfig
from ldm_backend.errors import ConfigError
from ldm_backend.networks.unet import UNet
from ldm_backend.sampling.noise import draw_noise

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]

EXACT, TOLERANCE = 1e-12, 2e-5
SMALL: dict[str, Any] = {
    "sample_size": 8,
    "in_channels": 3,
    "out_channels": 3,
    "block_out_channels": [16, 32, 32],
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
    "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
    "layers_per_block": 1,
    "attention_head_dim": [2, 4, 4],
    "cross_attention_dim": 24,
    "norm_num_groups": 4,
}
# What runs: each value of a setting. Heads as in cin256-v2 (one), text2img-large (eight), and with channels fixed.
RUNS: list[dict[str, Any]] = [
    {},
    {"attention_head_dim": 1},
    {"attention_head_dim": 8},
    {"attention_head_dim": [4, 4, 4]},
    {"cross_attention_dim": 5},
    {"transformer_layers_per_block": 3},
    {"sample_size": 16},
    {"in_channels": 5, "out_channels": 4},
    {"center_input_sample": True},
    {"flip_sin_to_cos": False},
    {"freq_shift": 1},
    {"layers_per_block": 2},
    {"downsample_padding": 0},
    {"norm_num_groups": 8},
    {"norm_eps": 1e-6},
    {"resnet_time_scale_shift": "scale_shift"},
    {"time_embedding_dim": 64},
    {"act_fn": "swish"},
    {"dropout": 0.3},
    {"addition_embed_type_num_heads": 8},
    {"block_out_channels": [32, 16, 8], "attention_head_dim": [4, 2, 1]},
    # What a level without attention has makes no difference.
    {"block_out_channels": [8, 32, 32], "attention_head_dim": [1, 2, 2]},
    {"block_out_channels": [16, 32, 24], "attention_head_dim": [3, 4, 3]},
    {"block_out_channels": [4, 32, 32], "attention_head_dim": [1, 4, 4]},
    {"attention_head_dim": [5, 4, 4]},
    {"down_block_types": ["CrossAttnDownBlock2D"] * 3, "up_block_types": ["CrossAttnUpBlock2D"] * 3},
    {"down_block_types": ["DownBlock2D"] * 3, "up_block_types": ["UpBlock2D"] * 3},
]
# What is refused, with what the message must hold beside the key.
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"mid_block_type": "UNetMidBlock2D"}, "'UNetMidBlock2D'; supported is 'UNetMidBlock2DCrossAttn'"),
    ({"only_cross_attention": True}, "True; supported is False"),
    ({"mid_block_scale_factor": 2}, "2; supported is 1"),
    ({"act_fn": "gelu"}, "'gelu'; supported is 'silu'"),
    ({"cross_attention_dim": [24, 24, 24]}, "expected int or null"),
    ({"transformer_layers_per_block": [1, 1, 1]}, "expected int"),
    ({"transformer_layers_per_block": 17}, "at most 16"),
    ({"reverse_transformer_layers_per_block": [[1], [1], [1]]}, "supported is None"),
    ({"encoder_hid_dim": 3}, "3; supported is None"),
    ({"encoder_hid_dim_type": "text_proj"}, "supported is None"),
    ({"attention_head_dim": [2, 4, 5]}, "expected a number of heads, or one for each level"),
    ({"attention_head_dim": [4, 2, 4], "block_out_channels": [32, 20, 32]}, "expected a number of heads"),
    ({"attention_head_dim": 7}, "cannot be split"),
    ({"attention_head_dim": None}, "exactly one of them must be a number"),
    ({"num_attention_heads": 2}, "expected none in a UNet2DConditionModel"),
    ({"dual_cross_attention": True}, "supported is False"),
    ({"use_linear_projection": True}, "supported is False"),
    ({"class_embed_type": "timestep"}, "supported is None"),
    ({"addition_embed_type": "text"}, "supported is None"),
    ({"addition_time_embed_dim": 4}, "supported is None"),
    ({"num_class_embeds": 10}, "supported is None"),
    ({"upcast_attention": True}, "supported is False"),
    ({"resnet_skip_time_act": True}, "supported is False"),
    ({"resnet_out_scale_factor": 2.0}, "supported is 1.0"),
    ({"time_embedding_type": "fourier"}, "supported is 'positional'"),
    ({"time_embedding_act_fn": "silu"}, "supported is None"),
    ({"timestep_post_act": "silu"}, "supported is None"),
    ({"time_cond_proj_dim": 4}, "supported is None"),
    ({"conv_in_kernel": 1}, "supported is 3"),
    ({"conv_out_kernel": 1}, "supported is 3"),
    ({"projection_class_embeddings_input_dim": 4}, "supported is None"),
    ({"attention_type": "gated"}, "supported is 'default'"),
    ({"class_embeddings_concat": True}, "supported is False"),
    ({"mid_block_only_cross_attention": True}, "supported is None"),
    ({"cross_attention_norm": "layer_norm"}, "supported is None"),
    ({"down_block_types": ["DownBlock2D", "AttnDownBlock2D", "CrossAttnDownBlock2D"]}, "AttnDownBlock2D"),
    ({"up_block_types": ["SimpleCrossAttnUpBlock2D", "UpBlock2D", "UpBlock2D"]}, "SimpleCrossAttnUpBlock2D"),
    ({"downsample_type": "resnet"}, "expected none in a UNet2DConditionModel"),
    ({"hypernetwork": 1}, "unknown keys hypernetwork"),
]


def name_of(change: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in change.items())[:60] or "none"


def settings_of() -> set[str]:
    return set(inspect.signature(UNet2DConditionModel.__init__).parameters) - {"self"}


@torch.no_grad()
def random_network(data: dict[str, Any]) -> Any:
    """diffusers' network, every weight random."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network: Any = UNet2DConditionModel(**data).eval()
        for parameter in network.parameters():  # norms begin as the identity
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network


def context_of(tokens: int, width: int) -> Tensor:
    """For two images."""
    return draw_noise([3, 4], (1, tokens, width))[:, 0]


def off(found: Tensor, reference: Tensor) -> float:
    return float((found - reference).abs().max() / reference.std())


@torch.no_grad()
@pytest.mark.parametrize("change", RUNS, ids=name_of)
def test_what_runs_is_diffusers_network(tmp_path: Path, change):
    """From the same file, with the same weights under the same names; with one token and with several."""
    theirs = random_network(SMALL | change).double()
    theirs.save_config(tmp_path)
    config = UNetConfig.from_dict(json.loads((tmp_path / "config.json").read_text()))
    assert UNetConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    again: Any = UNet2DConditionModel.from_config(config.to_dict())
    again.eval().double()
    again.load_state_dict(theirs.state_dict())
    ours = UNet(config, dtype=torch.float64)
    ours.load_state_dict(theirs.state_dict())
    x, timesteps = draw_noise([1, 2], (config.in_channels, 8, 8)).double(), torch.tensor([3, 987])
    one, several = (context_of(tokens, config.cross_attention_dim or 0).double() for tokens in (1, 7))
    reference = theirs(x, timesteps, several).sample
    assert torch.equal(reference, again(x, timesteps, several).sample)
    tolerance = 2e-5 if "freq_shift" in change else EXACT  # its frequencies are float32 in another order
    assert off(ours(x, timesteps, several), reference) < tolerance
    assert off(ours(x, timesteps, one), theirs(x, timesteps, one).sample) < tolerance


@torch.no_grad()
@pytest.mark.parametrize("heads", [1, 8, [2, 4, 4]])
def test_float32_is_as_near(heads):
    """As files are read; latents of several sizes, for the ways that convolutions take."""
    theirs = random_network(SMALL | {"attention_head_dim": heads})
    ours = UNet(UNetConfig.from_dict({"_class_name": "UNet2DConditionModel", **theirs.config}))
    load_into(ours, theirs.state_dict(), "unet")
    context = context_of(7, 24)
    for height, width in ((8, 8), (4, 20), (36, 32)):
        x = draw_noise([1, 2], (3, height, width))
        assert off(ours(x, 500, context), theirs(x, 500, context).sample) < TOLERANCE


@pytest.mark.parametrize(("change", "message"), REFUSED, ids=[name_of(change) for change, _ in REFUSED])
def test_what_does_not_run_is_refused_by_name(change, message):
    key = next(iter(change))
    data = {"_class_name": "UNet2DConditionModel", **SMALL}
    UNetConfig.from_dict(data)
    with pytest.raises(ConfigError, match=f"unet/config.json: .*{message}") as caught:
        UNetConfig.from_dict(data | change)
    assert key in str(caught.value)


def test_every_setting_of_the_installed_diffusers_is_walked():
    walked = {key for change in [*RUNS, *(change for change, _ in REFUSED)] for key in change} | SMALL.keys()
    assert settings_of() - walked == set()


def attention(state: dict[str, Tensor], name: str, x: Tensor, context: Tensor, heads: int) -> Tensor:
    """CompVis' CrossAttention, written out: scores of all pairs, softmax, sum."""
    q, k, v = (
        linear(tokens, state[f"{name}.{part}.weight"]).unflatten(-1, (heads, -1))
        for part, tokens in (("to_q", x), ("to_k", context), ("to_v", context))
    )
    scores = torch.einsum("nihd,njhd->nhij", q, k) / math.sqrt(q.shape[-1])
    h = torch.einsum("nhij,njhd->nihd", scores.softmax(-1), v).flatten(2)
    return linear(h, state[f"{name}.to_out.0.weight"], state[f"{name}.to_out.0.bias"])


def transformer(state: dict[str, Tensor], x: Tensor, context: Tensor, heads: int, groups: int, depth: int) -> Tensor:
    """CompVis' SpatialTransformer, under its names."""

    def weights(name: str) -> tuple[Tensor, Tensor]:
        return state[f"{name}.weight"], state[f"{name}.bias"]

    h = conv2d(group_norm(x, groups, *weights("norm"), eps=1e-6), *weights("proj_in")).flatten(2).mT
    for block in (f"transformer_blocks.{at}" for at in range(depth)):
        normed = layer_norm(h, h.shape[-1:], *weights(f"{block}.norm1"))
        h = h + attention(state, f"{block}.attn1", normed, normed, heads)
        normed = layer_norm(h, h.shape[-1:], *weights(f"{block}.norm2"))
        h = h + attention(state, f"{block}.attn2", normed, context, heads)
        normed = layer_norm(h, h.shape[-1:], *weights(f"{block}.norm3"))
        values, gates = linear(normed, *weights(f"{block}.ff.net.0.proj")).chunk(2, dim=-1)
        h = h + linear(values * gelu(gates), *weights(f"{block}.ff.net.2"))
    return x + conv2d(h.mT.unflatten(2, x.shape[2:]), *weights("proj_out"))


@torch.no_grad()
@pytest.mark.parametrize(("kind", "tolerance"), [(torch.float64, EXACT), (torch.float32, TOLERANCE)])
@pytest.mark.parametrize("heads", [1, 8, [2, 4, 4]])
def test_a_transformer_is_the_originals_formula(heads, kind, tolerance):
    """Each of a UNet, its weights under the names of a CompVis checkpoint."""
    data = SMALL | {"attention_head_dim": heads, "transformer_layers_per_block": 2}
    config = UNetConfig.from_dict({"_class_name": "UNet2DConditionModel"} | data)
    unet = UNet(config)
    load_into(unet, random_network(data).state_dict(), "unet")
    unet.to(kind)
    sources = compvis_unet_sources(config)
    state = {sources[ours].key: tensor for ours, tensor in unet.state_dict().items()}
    places = {
        "input_blocks.3.1": unet.down_blocks[1].attentions[0],
        "middle_block.1": unet.mid_block.attentions[0],
        "output_blocks.1.1": unet.up_blocks[0].attentions[1],
    }
    for place, module in places.items():
        own = {key.removeprefix(f"{place}."): tensor for key, tensor in state.items() if key.startswith(f"{place}.")}
        x = draw_noise([1, 2], (32, 8, 16)).to(kind)
        for tokens in (1, 7):
            context = context_of(tokens, 24).to(kind)
            expected = transformer(own, x, context, heads if isinstance(heads, int) else 4, 4, depth=2)
            assert off(module(x, context), expected) < tolerance
