"""All first stages of the CompVis zoo at tiny width, beside diffusers' classes with the same random weights.

Widths and pictures are small, structures are those of models/first_stage_models/*/config.yaml. Tolerance: rounding of
float32 in another order, relative to the standard deviation of the reference.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
import yaml
from compvis_writer import DATA
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.autoencoders.vq_model import VQModel
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import conv2d, group_norm

from ldm_backend.checkpoints.first_stage import load_first_stage
from ldm_backend.checkpoints.key_maps import compvis_first_stage_sources
from ldm_backend.config.compvis_yaml import compvis_model_from_yaml
from ldm_backend.config.model import KLConfig, LDMConfig, VQConfig
from ldm_backend.errors import CheckpointError
from ldm_backend.networks.autoencoder import Level
from ldm_backend.networks.first_stage import FirstStage, build_first_stage
from ldm_backend.networks.tiled_decode import decode_tiled
from ldm_backend.sampling.noise import draw_noise

pytestmark = pytest.mark.parity

# z, codes, ch_mult, attn_resolutions at 256 pixels; noattn has attn_type none.
ZOO: dict[str, tuple[int, int | None, list[int], list[int]]] = {
    "vq-f4": (3, 32, [1, 2, 4], []),
    "vq-f4-noattn": (3, 32, [1, 2, 4], []),
    "vq-f8": (4, 32, [1, 2, 2, 4], [32]),
    "vq-f8-n256": (4, 16, [1, 2, 2, 4], [32]),
    "vq-f16": (8, 32, [1, 1, 2, 2, 4], [16]),
    "kl-f4": (3, None, [1, 2, 4], []),
    "kl-f8": (4, None, [1, 2, 4, 4], []),
    "kl-f16": (16, None, [1, 1, 2, 2, 4], [16]),
    "kl-f32": (64, None, [1, 1, 2, 2, 4, 4], [16, 8]),
}


def zoo_yaml(name: str) -> dict[str, Any]:
    """A whole model around that first stage, 32 channels wide, with one resnet a level."""
    z, codes, mult, attention = ZOO[name]
    data = yaml.safe_load((DATA / "celeba256.yaml").read_text())
    params = data["model"]["params"]
    params["unet_config"]["params"] |= {"model_channels": 32, "channel_mult": [1], "attention_resolutions": []}
    params["unet_config"]["params"] |= {"in_channels": z, "out_channels": z, "num_res_blocks": 1}
    dd = {"double_z": codes is None, "z_channels": z, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 32}
    dd |= {"ch_mult": mult, "num_res_blocks": 1, "attn_resolutions": attention, "dropout": 0.0}
    if name.endswith("noattn"):
        dd["attn_type"] = "none"
    inner: dict[str, Any] = {"embed_dim": z, "ddconfig": dd, "lossconfig": {"target": "torch.nn.Identity"}}
    kind = "AutoencoderKL" if codes is None else "VQModelInterface"
    if codes is not None:
        inner["n_embed"] = codes
    params["first_stage_config"] = {"target": f"ldm.models.autoencoder.{kind}", "params": inner}
    return data


def config_of(name: str) -> LDMConfig:
    return compvis_model_from_yaml(zoo_yaml(name), f"{name}.yaml").config


def random_stage(config: VQConfig | KLConfig) -> FirstStage:
    """Random weights; norms that scale and shift, and attention that matters."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        stage = build_first_stage(config)
        for name, parameter in stage.named_parameters():
            if "norm" in name:
                torch.nn.init.uniform_(parameter, 0.5, 1.5)
            elif ".to_" in name and name.endswith("weight"):
                torch.nn.init.normal_(parameter, std=2 / parameter.shape[1] ** 0.5)
    return stage.requires_grad_(False)


def diffusers_stage(stage: FirstStage) -> Any:
    """diffusers' class as its own reader builds it from our JSON, with our weights."""
    data = {key: value for key, value in stage.config.to_dict().items() if not key.startswith("_")}
    data.pop("scale_factor", None)
    reference: Any = (VQModel if isinstance(stage.config, VQConfig) else AutoencoderKL).from_config(data)
    reference.load_state_dict(stage.state_dict())
    return reference.eval().requires_grad_(False)


def assert_near(ours: Tensor, reference: Tensor) -> None:
    assert (ours - reference).abs().max() < 1e-4 * reference.std()


@torch.no_grad()
@pytest.mark.parametrize("name", ZOO)
def test_each_of_the_zoo_is_diffusers_network(name, tmp_path):
    """The picture, the latent, and the tensors under the names of both, from a file without configuration."""
    config = config_of(name).first_stage
    stage = random_stage(config)
    reference = diffusers_stage(stage)
    side = 2 * config.downscale
    x, z = draw_noise([1], (3, side, side)), draw_noise([2], (config.z_channels, 2, 2))
    if isinstance(config, VQConfig):
        assert_near(stage.encode(x), reference.encode(x).latents)
        assert_near(stage.decode(z), reference.decode(z).sample)
    else:
        assert_near(stage.encode(x), reference.encode(x).latent_dist.mean)
        assert_near(stage.decode(z), reference.decode(z).sample)

    reference.save_pretrained(tmp_path / "theirs")
    save_file(stage.state_dict(), tmp_path / "ours.safetensors")
    state = _compvis(stage)
    torch.save({"state_dict": state | {"loss.logvar": torch.zeros(())}}, tmp_path / "compvis.ckpt")
    for file in ("theirs", "ours.safetensors", "compvis.ckpt"):
        loaded = load_first_stage(tmp_path / file)
        expected = stage.state_dict()
        assert loaded.state_dict().keys() == expected.keys(), file
        assert all(torch.equal(tensor, expected[key]) for key, tensor in loaded.state_dict().items()), file
        assert loaded.config.encoder_attention == config.encoder_attention
        assert loaded.config.decoder_attention == config.decoder_attention
    assert type(config).from_dict(config.to_dict()) == config


def _compvis(stage: FirstStage) -> dict[str, Tensor]:
    sources = compvis_first_stage_sources(stage.config)
    state = {sources[key].key: tensor for key, tensor in stage.state_dict().items()}
    return {key: t[..., None, None] if t.ndim == 2 and "attn" in key else t for key, t in state.items()}


@torch.no_grad()
@pytest.mark.parametrize("name", ["vq-f8", "kl-f16"])
def test_attention_inside_a_level_is_that_of_compvis(name):
    """AttnBlock written out, after each resnet of the level and before the change of size; both ways."""
    stage = random_stage(config_of(name).first_stage)
    for part, places in (("encoder", "down_blocks"), ("decoder", "up_blocks")):
        found = next(block for block in getattr(getattr(stage, part), places) if block.attentions)
        assert isinstance(found, Level)
        level: Any = found
        channels = level.resnets[0].conv1.weight.shape[1]
        h = x = draw_noise([3], (channels, 4, 4))
        for resnet, attention in zip(level.resnets, level.attentions, strict=True):
            h = _attn_block(resnet(h), attention)
        for change in (*level.downsamplers, *level.upsamplers):
            h = change(h)
        ours = x
        for layer in level.layers():
            ours = layer(ours)
        assert_near(ours, h)


def _attn_block(x: Tensor, layer: Any) -> Tensor:
    """CompVis model.py AttnBlock: 1x1 convolutions, one head, scaled by 1/sqrt(c)."""
    n, c, height, width = x.shape
    h = group_norm(x, 32, layer.group_norm.weight, layer.group_norm.bias, eps=1e-6)
    q, k, v = (conv2d(h, p.weight[..., None, None], p.bias).flatten(2) for p in (layer.to_q, layer.to_k, layer.to_v))
    weight = torch.softmax(torch.bmm(q.transpose(1, 2), k) * c**-0.5, dim=2)
    h = torch.bmm(v, weight.transpose(1, 2)).view(n, c, height, width)
    return x + conv2d(h, layer.to_out[0].weight[..., None, None], layer.to_out[0].bias)


@torch.no_grad()
@pytest.mark.parametrize("name", ["vq-f4-noattn", "vq-f8", "kl-f16", "finest"])
def test_tiles_show_the_picture_of_the_undivided_decoder(name):
    """Attention inside levels looks at the whole picture, tiles or not; also in the finest level."""
    if name == "finest":
        config: Any = VQConfig(
            block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, num_vq_embeddings=16,
            decoder_attention=(0, 1),
        )  # fmt: skip
    else:
        config = config_of(name).first_stage
    stage = random_stage(config).double()
    z = draw_noise([4], (config.z_channels, 17, 18)).double()
    ticks: list[tuple[int, int]] = []
    tiled, whole = decode_tiled(stage, z, 16, lambda done, total: ticks.append((done, total))), stage.decode(z)
    assert (tiled - whole).abs().max() < 1e-11 * whole.std()
    assert ticks[-1] == (len(ticks), len(ticks))


@torch.no_grad()
@pytest.mark.parametrize("kind", ["vq", "kl"])
def test_embed_dim_other_than_z_channels(kind, tmp_path):
    """CompVis: quant_conv z (2 z) -> embed_dim (2 embed_dim), post_quant_conv embed_dim -> z."""
    data = zoo_yaml("vq-f4" if kind == "vq" else "kl-f4")
    params = data["model"]["params"]
    params["first_stage_config"]["params"]["embed_dim"] = 5
    params["unet_config"]["params"] |= {"in_channels": 5, "out_channels": 5}
    config = compvis_model_from_yaml(data, "a.yaml").config.first_stage
    assert config.z_channels == 5
    assert config.latent_channels == 3
    stage = random_stage(config)
    x, z = draw_noise([1], (3, 8, 8)), draw_noise([2], (5, 2, 2))
    moments = conv2d(stage.encoder(x), stage.quant_conv.weight, stage.quant_conv.bias)
    assert_near(stage.encode(x), moments[:, :5])
    assert moments.shape[1] == (5 if kind == "vq" else 10)
    if kind == "kl":
        assert_near(stage.decode(z), stage.decoder(conv2d(z, stage.post_quant_conv.weight, stage.post_quant_conv.bias)))
    save_file(stage.state_dict(), tmp_path / "a.safetensors")
    assert load_first_stage(tmp_path / "a.safetensors").config.z_channels == 5
    assert type(config).from_dict(config.to_dict()) == config


@pytest.mark.parametrize("name", ["vq-f8", "kl-f16"])
def test_attention_that_the_file_has_in_part_is_an_error(name, tmp_path):
    """One layer of an attention is missing, or one is there where the other blocks of its level have none."""
    stage = random_stage(config_of(name).first_stage)
    state = _compvis(stage)
    norms = [key for key in state if ".attn." in key and key.endswith("norm.weight")]
    for lost in (norms[0], norms[-1].replace("norm.weight", "q.bias")):
        torch.save({key: tensor for key, tensor in state.items() if key != lost}, tmp_path / "a.ckpt")
        with pytest.raises(CheckpointError, match=r"missing keys|unexpected keys"):
            load_first_stage(tmp_path / "a.ckpt")
