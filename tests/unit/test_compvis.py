"""The layout of CompVis/latent-diffusion: names, order of heads, averaged weights, configuration."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from compvis_writer import DATA, compvis_state_dict, published_shapes, small_yaml
from safetensors.torch import save_file

from ldm_backend.checkpoints.checkpoint import read_checkpoint
from ldm_backend.checkpoints.compvis import from_compvis
from ldm_backend.checkpoints.key_maps import compvis_first_stage_sources, compvis_unet_sources
from ldm_backend.checkpoints.tensor_files import TensorFile
from ldm_backend.config.compvis_yaml import compvis_model_from_yaml, read_compvis_model
from ldm_backend.config.model import KLConfig, UNetConfig, VQConfig
from ldm_backend.config.presets import CELEBAHQ_256, LSUN_CHURCHES_256, PRESETS
from ldm_backend.errors import CheckpointError, ConfigError
from ldm_backend.networks.first_stage import build_first_stage
from ldm_backend.networks.unet import UNet
from ldm_backend.sampling.noise import draw_noise

RELEASES = {"celeba256": CELEBAHQ_256, "lsun_churches256": LSUN_CHURCHES_256}


@pytest.mark.parametrize("name", RELEASES)
def test_released_yaml_is_the_preset(name):
    assert read_compvis_model(DATA / f"{name}.yaml").config == RELEASES[name]


@pytest.mark.parametrize("name", RELEASES)
def test_every_published_tensor_finds_its_place(name):
    """The names and shapes that the original code builds are exactly those that we take, all of them."""
    config = RELEASES[name]
    tensors = {key: torch.empty(shape, device="meta") for key, shape in published_shapes(name).items()}
    unet, first_stage = from_compvis(TensorFile(Path("a.ckpt"), tensors), config, "raw")
    for found, module in (
        (unet, UNet(config.unet, device="meta")),
        (first_stage, build_first_stage(config.first_stage, device="meta")),
    ):
        expected = {key: tensor.shape for key, tensor in module.state_dict().items()}
        assert {key: tensor.shape for key, tensor in found.items()} == expected
    with_ema = compvis_state_dict(config, unet, first_stage, ema=unet)
    averaged = {key for key in with_ema if key.startswith("model_ema.diffusion")}
    assert averaged == {
        "model_ema." + key.removeprefix("model.").replace(".", "") for key in tensors if key.startswith("model.")
    }
    assert with_ema.keys() >= tensors.keys()


SMALL_UNET = UNetConfig(
    sample_size=8,
    attention_head_dim=8,
    norm_num_groups=4,
    block_out_channels=(8, 16),
    down_block_types=("DownBlock2D", "AttnDownBlock2D"),
    up_block_types=("AttnUpBlock2D", "UpBlock2D"),
)
SMALL_VQ = VQConfig(block_out_channels=(8, 16), norm_num_groups=4, num_vq_embeddings=8)
NETWORKS: dict[str, UNetConfig | VQConfig | KLConfig] = {
    **{f"{name} unet": config.unet for name, config in PRESETS.items()},
    **{f"{name} first stage": config.first_stage for name, config in PRESETS.items()},
    "one level": replace(
        SMALL_UNET, block_out_channels=(8,), down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",)
    ),
    "equal widths": replace(SMALL_UNET, block_out_channels=(16, 16)),
    "narrower below": replace(SMALL_UNET, block_out_channels=(16, 8)),
    "one resnet a level": replace(SMALL_UNET, layers_per_block=1),
    "resnets between levels": replace(SMALL_UNET, downsample_type="resnet", upsample_type="resnet"),
    "vq of one level": replace(SMALL_VQ, block_out_channels=(8,)),
    "vq of equal widths": replace(SMALL_VQ, block_out_channels=(8, 8, 16), layers_per_block=3),
    "kl narrower below": KLConfig(block_out_channels=(16, 8), layers_per_block=1, norm_num_groups=4),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_table_of_names_is_that_of_the_network(name):
    """Reading a file builds no network, so the table must know which layers there are."""
    config = NETWORKS[name]
    if isinstance(config, UNetConfig):
        table, network = compvis_unet_sources(config), UNet(config, device="meta")
    else:
        table, network = compvis_first_stage_sources(config), build_first_stage(config, device="meta")
    assert table.keys() == network.state_dict().keys()


def test_reading_builds_no_network(tiny, tmp_path, monkeypatch):
    state = compvis_state_dict(tiny.config, tiny.unet.state_dict(), tiny.first_stage.state_dict(), None)
    torch.save(state, tmp_path / "model.ckpt")
    monkeypatch.setattr(torch.nn.Module, "__init__", lambda *_: pytest.fail("a network was built"))
    read_checkpoint(tmp_path / "model.ckpt", config=tiny.config)


@torch.no_grad()
def test_heads_are_split_in_the_original_order(tiny):
    """Against the original's attention written out: heads first, then q, k and v of each (QKVAttentionLegacy)."""
    generator = torch.Generator().manual_seed(0)
    qkv_weight = torch.randn((48, 16, 1), generator=generator)
    state = compvis_state_dict(tiny.config, tiny.unet.state_dict(), tiny.first_stage.state_dict(), None)
    state["model.diffusion_model.middle_block.1.qkv.weight"] = qkv_weight
    weights, _ = from_compvis(TensorFile(Path("a.ckpt"), state), tiny.config, "raw")
    unet = UNet(tiny.config.unet)
    unet.load_state_dict(weights)
    attention: Any = unet.mid_block.attentions[0]
    x = torch.randn((2, 16, 4, 4), generator=generator)

    tokens = attention.group_norm(x).flatten(2)  # (N, C, T)
    qkv = torch.nn.functional.conv1d(tokens, qkv_weight, state["model.diffusion_model.middle_block.1.qkv.bias"])
    heads, width = 2, 8
    q, k, v = qkv.reshape(2 * heads, 3 * width, -1).split(width, dim=1)
    weight = torch.softmax(torch.einsum("bct,bcs->bts", q, k) / math.sqrt(width), dim=-1)
    h = torch.einsum("bts,bcs->bct", weight, v).reshape(2, 16, -1)
    expected = x + attention.to_out[0](h.transpose(1, 2)).transpose(1, 2).reshape(x.shape)
    torch.testing.assert_close(attention(x), expected, rtol=1e-5, atol=1e-5)


@pytest.fixture
def ckpt(tiny, tmp_path: Path) -> Path:
    """A pickled checkpoint whose averaged weights are twice the raw ones."""
    unet = tiny.unet.state_dict()
    state = compvis_state_dict(
        tiny.config, unet, tiny.first_stage.state_dict(), {key: 2 * tensor for key, tensor in unet.items()}
    )
    torch.save({"state_dict": state, "global_step": 1, "epoch": 2}, tmp_path / "model.ckpt")
    return tmp_path / "model.ckpt"


@pytest.mark.parametrize(("weights", "taken", "factor"), [("auto", "ema", 2), ("ema", "ema", 2), ("raw", "raw", 1)])
def test_the_weights_asked_for_are_taken(tiny, ckpt, weights, taken, factor):
    checkpoint = read_checkpoint(ckpt, weights, tiny.config)
    assert checkpoint.layout == "compvis"
    assert checkpoint.weights == taken
    for key, tensor in tiny.unet.state_dict().items():
        assert torch.equal(checkpoint.unet[key], factor * tensor), key
    for key, tensor in tiny.first_stage.state_dict().items():
        assert torch.equal(checkpoint.first_stage[key], tensor), key


def test_without_averaged_weights_auto_takes_the_raw_ones(tiny, tmp_path):
    state = compvis_state_dict(tiny.config, tiny.unet.state_dict(), tiny.first_stage.state_dict(), None)
    torch.save(state, tmp_path / "model.ckpt")
    assert read_checkpoint(tmp_path / "model.ckpt", "auto", tiny.config).weights == "raw"
    with pytest.raises(CheckpointError, match="holds no EMA weights, take 'raw'"):
        read_checkpoint(tmp_path / "model.ckpt", "ema", tiny.config)


def test_scale_factor_of_the_checkpoint_is_used(tiny, tmp_path):
    state = compvis_state_dict(tiny.config, tiny.unet.state_dict(), tiny.first_stage.state_dict(), None)
    torch.save(state | {"scale_factor": torch.tensor(0.5)}, tmp_path / "model.ckpt")
    assert read_checkpoint(tmp_path / "model.ckpt", config=tiny.config).config.first_stage.scale_factor == 0.5
    assert (
        read_checkpoint(tmp_path / "model.ckpt", config=tiny.config, scale_factor=2).config.first_stage.scale_factor
        == 2.0
    )


def test_diffusers_keys_in_one_file_without_configuration(tiny, tmp_path):
    """Prefixes `unet.` and `vqvae.`, attention names of 2022; the configuration is given."""
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    parts = {"unet": tiny.unet.state_dict(), "vqvae": tiny.first_stage.state_dict()}
    tensors = {}
    for part, state in parts.items():
        for key, tensor in state.items():
            for new, old in names.items():
                key = key.replace(f".{new}.", f".{old}.")
            tensors[f"{part}.{key}"] = tensor
    save_file(tensors, tmp_path / "model.safetensors")
    checkpoint = read_checkpoint(tmp_path / "model.safetensors", config=tiny.config)
    assert checkpoint.layout == "single-file"
    assert all(torch.equal(checkpoint.unet[key], tensor) for key, tensor in tiny.unet.state_dict().items())
    assert all(
        torch.equal(checkpoint.first_stage[key], tensor) for key, tensor in tiny.first_stage.state_dict().items()
    )


def test_a_configuration_is_asked_for_with_the_known_answers(ckpt):
    with pytest.raises(ConfigError, match=r"attention heads.*celebahq-256.*lsun-churches-256.*config\.yaml"):
        read_checkpoint(ckpt)
    with pytest.raises(ConfigError, match="neither a file nor one of celebahq-256"):
        read_checkpoint(ckpt, config="celeba")


def test_yaml_beside_the_file_is_used(tmp_path):
    """The released layout: a folder with model.ckpt and config.yaml, given as the folder or as the file."""
    data = small_yaml()
    config = compvis_model_from_yaml(data, "config.yaml").config
    unet, first_stage = UNet(config.unet), build_first_stage(config.first_stage)
    torch.save(compvis_state_dict(config, unet.state_dict(), first_stage.state_dict(), None), tmp_path / "model.ckpt")
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(data))
    for path in (tmp_path, tmp_path / "model.ckpt"):
        assert read_checkpoint(path).config == config
    assert config.unet.block_out_channels == (32, 64)


BAD_YAML = {
    "another network": ("ldm.models.autoencoder.VQModelInterface", "os.system", "target is .os.system."),
    "conditional": ("cond_stage_config: __is_unconditional__", "cond_stage_config: {a: 1}", "cond_stage_config"),
    "another attention in the first stage": ("attn_resolutions: []", "attn_type: linear", "attn_type is 'linear'"),
    "misspelt": ("model_channels: 224", "model_canals: 224", "unknown settings model_canals"),
    "a text for a number": ("n_embed: 8192", "n_embed: many", "n_embed is 'many'"),
    "infinite": ("linear_end: 0.0195", "linear_end: .inf", "linear_end is inf"),
}


@pytest.mark.parametrize("case", BAD_YAML)
def test_yaml_of_another_family(tmp_path, case):
    old, new, message = BAD_YAML[case]
    text = (DATA / "celeba256.yaml").read_text()
    assert old in text
    (tmp_path / "config.yaml").write_text(text.replace(old, new))
    with pytest.raises(ConfigError, match=message):
        read_compvis_model(tmp_path / "config.yaml")


@pytest.mark.parametrize("text", ["", "a: [", "- 1", "!!python/object/apply:os.system ['touch pwned']", "\x00"])
def test_yaml_that_is_none(tmp_path, monkeypatch, text):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"config\.yaml"):
        read_compvis_model(tmp_path / "config.yaml")
    assert not (tmp_path / "pwned").exists()


@torch.no_grad()
def test_kl_first_stage_scales_its_latents():
    config = replace(
        LSUN_CHURCHES_256.first_stage,
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        scale_factor=0.25,
    )
    stage = build_first_stage(config)
    plain = build_first_stage(replace(config, scale_factor=1.0))
    plain.load_state_dict(stage.state_dict())
    x, z = draw_noise([1], (3, 16, 16)), draw_noise([2], (4, 8, 8))
    torch.testing.assert_close(stage.encode(x), plain.encode(x) * 0.25)
    torch.testing.assert_close(stage.decode(z), plain.decode(z * 4))


def test_presets_are_complete_models():
    assert sum(p.numel() for p in UNet(LSUN_CHURCHES_256.unet, device="meta").parameters()) == 294_966_916
