"""Every setting and every block type of diffusers' UNet2DModel: the same network here, or refused by its name.

Tolerance: 1e-4 of the standard deviation of what diffusers predicts, in float32; the order of the sums is another.
"""

from __future__ import annotations

import inspect
import itertools
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.unets import unet_2d_blocks
from diffusers.models.unets.unet_2d import UNet2DModel

from ldm_backend.checkpoints.checkpoint import load_into
from ldm_backend.config.model import UNetConfig
from ldm_backend.errors import ConfigError
from ldm_backend.networks.unet import UNet
from ldm_backend.sampling.noise import draw_noise

pytestmark = [pytest.mark.parity, pytest.mark.filterwarnings("ignore")]

SMALL: dict[str, Any] = {
    "sample_size": 8,
    "block_out_channels": [16, 32, 32],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"],
    "up_block_types": ["AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    "layers_per_block": 1,
    "attention_head_dim": 8,
    "norm_num_groups": 4,
}
MIXED_DOWN = ["ResnetDownsampleBlock2D", "AttnDownBlock2D", "DownBlock2D"]
MIXED_UP = ["UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"]
SCALE_SHIFT = {"resnet_time_scale_shift": "scale_shift"}
# What google/ddpm-* are, after which many configurations were written.
DDPM = {
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "attention_head_dim": None,
    "norm_eps": 1e-6,
}

# What runs: each value of a setting, and settings that only together are another network.
RUNS: list[dict[str, Any]] = [
    {},
    {"sample_size": 16},
    {"in_channels": 5},
    {"out_channels": 5},
    {"center_input_sample": True},
    {"time_embedding_type": "positional"},
    {"time_embedding_dim": 64},
    {"freq_shift": 1},
    {"flip_sin_to_cos": False},
    {"flip_sin_to_cos": False, "freq_shift": 1},
    {"mid_block_type": "UNetMidBlock2D"},
    {"block_out_channels": [15, 30, 15], "norm_num_groups": 5, "attention_head_dim": None},
    {"layers_per_block": 2},
    {"mid_block_scale_factor": 1.0},
    {"downsample_padding": 0},
    {"downsample_type": "resnet"},
    {"upsample_type": "resnet"},
    {"downsample_type": "resnet", "upsample_type": "resnet", **SCALE_SHIFT},
    {"dropout": 0.3},
    {"act_fn": "swish"},
    {"attention_head_dim": None},
    {"attention_head_dim": 16},
    {"norm_num_groups": 8},
    {"attn_norm_num_groups": 8},
    {"attn_norm_num_groups": 4},
    {"norm_eps": 1e-6},
    SCALE_SHIFT,
    {**SCALE_SHIFT, "attn_norm_num_groups": 4},
    {**SCALE_SHIFT, "attn_norm_num_groups": 8},
    {"add_attention": False},
    {"add_attention": False, **SCALE_SHIFT},
    {"class_embed_type": None},
    {"num_class_embeds": None},
    {"num_train_timesteps": 500},
    DDPM,
    {"down_block_types": MIXED_DOWN},
    {"up_block_types": MIXED_UP},
    {"down_block_types": MIXED_DOWN, "up_block_types": MIXED_UP, **SCALE_SHIFT},
    {"down_block_types": MIXED_DOWN, "downsample_type": "resnet"},
    {"up_block_types": MIXED_UP, "upsample_type": "resnet"},
    {"down_block_types": ["UNetResDownBlock2D", "UNetResAttnDownBlock2D", "AttnDownBlock2D"]},
]
# What is refused, with what the message must hold beside the key: the value, and what is supported.
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"sample_size": None}, "None; expected int"),
    ({"sample_size": [8, 16]}, r"\[8, 16\]; expected int"),
    ({"center_input_sample": "yes"}, "'yes'; expected bool"),
    ({"time_embedding_type": "fourier"}, "'fourier'; supported is 'positional'"),
    ({"time_embedding_type": "learned", "num_train_timesteps": 1000}, "'learned'; supported is 'positional'"),
    ({"time_embedding_dim": 128}, "128; supported is None"),
    ({"freq_shift": 2}, "2; supported are 0, 1"),
    ({"flip_sin_to_cos": None}, "None; expected bool"),
    ({"mid_block_type": None}, "None; supported is 'UNetMidBlock2D'"),
    ({"mid_block_scale_factor": 1.4142}, "1.4142; supported is 1"),
    ({"downsample_padding": 2}, "2; supported are 0, 1"),
    ({"downsample_type": "pool"}, "'pool'; supported are conv, resnet"),
    ({"upsample_type": None}, "None; supported are conv, resnet"),
    ({"downsample_type": ["conv", "resnet"]}, r"\['conv', 'resnet'\]; supported are conv, resnet"),
    ({"act_fn": "gelu"}, "'gelu'; supported is 'silu'"),
    ({"act_fn": "mish"}, "'mish'; supported is 'silu'"),
    ({"act_fn": "relu"}, "'relu'; supported is 'silu'"),
    ({"attention_head_dim": 7}, "7 .* use a divisor"),
    ({"norm_num_groups": None}, "None; expected int"),
    ({"norm_num_groups": 7}, "7 groups"),
    ({"attn_norm_num_groups": 7}, "7; expected a divisor of 32"),
    ({"attn_norm_num_groups": 0}, "0; expected a positive number or null"),
    ({"resnet_time_scale_shift": "spatial"}, "'spatial'; supported are default, scale_shift"),
    ({"class_embed_type": "timestep"}, "'timestep'; supported is None.*class"),
    ({"class_embed_type": "identity"}, "'identity'; supported is None.*class"),
    ({"num_class_embeds": 10}, "10; supported is None.*class"),
    ({"norm_eps": None}, "None; expected float"),
    ({"add_attention": None}, "None; expected bool"),
]


def built(data: dict[str, Any]) -> Any:
    """diffusers' network of a configuration."""
    return UNet2DModel.from_config(data)


def name_of(change: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in change.items())[:60] or "none"


@torch.no_grad()
def difference(data: dict[str, Any], saved: Path) -> float:
    """Between what we predict and what diffusers does from the same file and weights, in its standard deviations."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs: Any = UNet2DModel(**data).eval()
        for name, parameter in theirs.named_parameters():  # GroupNorm begins as the identity
            parameter.add_(0.1 * torch.randn_like(parameter) if name.endswith(("weight", "bias")) else 0)
    theirs.save_config(saved)
    config = UNetConfig.from_dict(json.loads((saved / "config.json").read_text()))
    assert UNetConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    again = built(config.to_dict()).eval()
    again.load_state_dict(theirs.state_dict())
    ours = UNet(config)
    load_into(ours, theirs.state_dict(), "unet")
    x = draw_noise([1, 2], (config.in_channels, 8, 16))
    timesteps = torch.tensor([3, 987])
    reference = theirs(x, timesteps).sample
    assert torch.equal(reference, again(x, timesteps).sample)
    return float((ours(x, timesteps) - reference).abs().max() / reference.std())


@pytest.mark.parametrize("change", RUNS, ids=name_of)
def test_what_runs_is_diffusers_network(tmp_path, change):
    assert difference(SMALL | change, tmp_path) < 1e-4


@pytest.mark.parametrize(("change", "message"), REFUSED, ids=[name_of(change) for change, _ in REFUSED])
def test_what_does_not_run_is_refused_by_name(change, message):
    key = next(iter(change))
    with pytest.raises(ConfigError, match=f"unet/config.json: (unet: )?.*{key}.*{message}"):
        UNetConfig.from_dict(built(SMALL).config | change)


def test_every_setting_of_the_installed_diffusers_is_walked():
    """A setting that a later diffusers adds is refused as unknown until it stands in one of the lists."""
    walked = {key for change in [*RUNS, *(change for change, _ in REFUSED)] for key in change} | SMALL.keys()
    settings = set(inspect.signature(UNet2DModel.__init__).parameters) - {"self"}
    assert settings == walked & settings
    assert walked == settings


@pytest.mark.parametrize("key", sorted(set(inspect.signature(UNet2DModel.__init__).parameters) - {"self"}))
def test_an_absent_setting_is_the_default_of_diffusers_or_asked_for(tmp_path, key):
    """Except for sample_size, the side that is drawn unless another is asked for, which changes no network."""
    data = dict(built(SMALL).config)
    del data[key]
    if key in ("attention_head_dim", "block_out_channels", "down_block_types", "up_block_types", "norm_num_groups"):
        with pytest.raises(ConfigError, match=key):  # in no tensor's shape, or the default does not fit the others
            UNetConfig.from_dict(data)
        return
    config = UNetConfig.from_dict(data)
    default = inspect.signature(UNet2DModel.__init__).parameters[key].default
    if key == "sample_size":
        assert (config.sample_size, default) == (64, None)
    else:
        assert config == UNetConfig.from_dict(data | {key: default})


def known_types(function: Any) -> list[str]:
    """The block types that a function of diffusers compares with, read off its source."""
    names = re.findall(r'block_type == "(\w+)"', inspect.getsource(function))
    assert len(names) > 10
    return names


FACTORIES = {"down_block_types": unet_2d_blocks.get_down_block, "up_block_types": unet_2d_blocks.get_up_block}
TYPES = [(key, kind) for key, factory in FACTORIES.items() for kind in known_types(factory)]
RUNNING = {
    *("DownBlock2D", "AttnDownBlock2D", "ResnetDownsampleBlock2D"),
    *("UpBlock2D", "AttnUpBlock2D", "ResnetUpsampleBlock2D"),
}


@pytest.mark.parametrize(("key", "kind"), TYPES)
def test_every_block_type(tmp_path, key, kind):
    """At each level, in both ways of ending; with the prefix of 2022 too."""
    for place, (prefix, way) in itertools.product(range(3), (("", "conv"), ("UNetRes", "resnet"))):
        types = list(SMALL[key])
        types[place] = prefix + kind
        change = {key: types, "downsample_type": way, "upsample_type": way}
        if kind in RUNNING:
            assert difference(SMALL | change, tmp_path) < 1e-4
        else:
            with pytest.raises(
                ConfigError, match=f"unet/config.json: unet: {key} holds '{prefix}{kind}'; supported.*run"
            ):
                UNetConfig.from_dict(SMALL | change)
