"""What `ldm convert --to folder` writes, loaded by diffusers: the same network, or an error of diffusers' own."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from diffusers.pipelines.deprecated.latent_diffusion_uncond.pipeline_latent_diffusion_uncond import LDMPipeline

import ldm_backend
from ldm_backend.checkpoints.checkpoint import Checkpoint, read_checkpoint
from ldm_backend.checkpoints.conversion import convert_to_folder, convert_to_single_file
from ldm_backend.config.model import FirstStageConfig, KLConfig, LDMConfig, UNetConfig, VQConfig
from ldm_backend.errors import CheckpointError, ConfigError
from ldm_backend.networks.first_stage import build_first_stage
from ldm_backend.networks.unet import UNet
from ldm_backend.sampling.noise import draw_noise

pytestmark = pytest.mark.parity

PLAIN = UNetConfig(
    sample_size=8,
    block_out_channels=(16, 32, 32),
    down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    layers_per_block=1,
    attention_head_dim=8,
    norm_num_groups=4,
)
CHURCHES = replace(PLAIN, resnet_time_scale_shift="scale_shift", downsample_type="resnet", upsample_type="resnet")
SMALL: dict[str, Any] = {"layers_per_block": 1, "norm_num_groups": 4, "block_out_channels": (8, 16)}
VQ = VQConfig(num_vq_embeddings=16, **SMALL)
KL = KLConfig(latent_channels=3, scale_factor=0.3, **SMALL)
HELD: dict[str, tuple[UNetConfig, FirstStageConfig]] = {
    "as CelebA-HQ": (PLAIN, VQ),
    "vq with a factor and attention": (PLAIN, replace(VQ, scale_factor=0.5, decoder_attention=(1,))),
    "kl": (PLAIN, KL),
    "kl without attention": (PLAIN, replace(KL, mid_block_add_attention=False)),
    "scale-shift and resnets": (CHURCHES, KL),
    "one head": (replace(PLAIN, attention_head_dim=None, num_attention_heads=1), VQ),
}


def checkpoint_of(unet: UNetConfig, stage: FirstStageConfig) -> Checkpoint:
    config = LDMConfig(unet=unet, first_stage=stage)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        tensors = UNet(unet).state_dict(), build_first_stage(stage).state_dict()
    return Checkpoint(Path("a.ckpt"), Path("a.ckpt"), Path("a.ckpt"), "compvis", "raw", config, *tensors)


@torch.no_grad()
@pytest.mark.parametrize("case", HELD)
def test_what_diffusers_can_hold_it_reads_as_the_same_model(tmp_path, case):
    source = checkpoint_of(*HELD[case])
    assert convert_to_folder(source, tmp_path / "folder") == ()
    assert "loads it whole" in (tmp_path / "folder" / "README.md").read_text()
    ours = ldm_backend.load(tmp_path / "folder", device="cpu")
    assert ours.config == source.config
    pipe: Any = LDMPipeline.from_pretrained(tmp_path / "folder")
    x = draw_noise([1], (3, 8, 8))
    eps, reference = ours.unet(x, 500), pipe.unet(x, 500).sample
    assert (eps - reference).abs().max() < 1e-4 * reference.std()
    z = draw_noise([2], (3, 8, 8))
    picture = pipe.vqvae.decode(z / pipe.vqvae.config.scaling_factor).sample
    assert (ours.first_stage.decode(z) - picture).abs().max() < 1e-4 * picture.std()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", ["heads", "embed_dim"])
def test_what_diffusers_cannot_hold_is_said_and_never_another_network(tmp_path, case):
    if case == "heads":
        source = checkpoint_of(replace(CHURCHES, attention_head_dim=None, num_attention_heads=4), KL)
    else:
        unet = replace(PLAIN, in_channels=5, out_channels=5)
        source = checkpoint_of(unet, replace(KL, embed_dim=5))
    (limit,) = convert_to_folder(source, tmp_path / "folder")
    assert "does not load this one" in limit
    assert limit in (tmp_path / "folder" / "README.md").read_text()
    with pytest.raises((TypeError, ValueError, RuntimeError)):
        LDMPipeline.from_pretrained(tmp_path / "folder", low_cpu_mem_usage=False)
    again = read_checkpoint(tmp_path / "folder")
    assert again.config == source.config
    assert all(torch.equal(again.unet[key], tensor) for key, tensor in source.unet.items())


def test_heads_that_only_look_like_a_list_of_levels(tmp_path):
    data = replace(CHURCHES, attention_head_dim=None, num_attention_heads=4).to_dict()
    assert data["attention_head_dim"] == [4, 8, 8]
    for change in ({"attention_head_dim": [4, 8, 4]}, {"num_attention_heads": 2}, {"num_attention_heads": None}):
        with pytest.raises(ConfigError, match=r"attention_head_dim is \[4, 8"):
            UNetConfig.from_dict(json.loads(json.dumps(data | change)))
    mixed = UNetConfig.from_dict(data | {"downsample_type": "conv"})
    assert mixed.downsample_type == ("resnet", "conv")
    assert UNetConfig.from_dict(mixed.to_dict()) == mixed
    for ways in (("resnet",), ("conv", "conv", "conv")):
        with pytest.raises(ConfigError, match=f"has {len(ways)} entries for 3 blocks"):
            replace(CHURCHES, downsample_type=ways)
    with pytest.raises(ConfigError, match="expected the same for all blocks with attention"):
        replace(CHURCHES, downsample_type=("resnet", "conv"), down_block_types=("AttnDownBlock2D",) * 3)
    with pytest.raises(TypeError):
        UNet2DModel.from_config(data)


@pytest.mark.parametrize("to", [convert_to_folder, convert_to_single_file])
def test_a_weight_beyond_fp16_is_refused(tmp_path, to):
    source = checkpoint_of(PLAIN, VQ)
    source.unet["conv_in.bias"][0] = 70000.0
    with pytest.raises(CheckpointError, match=r"unet.*conv_in.bias holds 7e\+04, and fp16 ends at .*Take bf16"):
        to(source, tmp_path / "out", "fp16")
    assert not list(tmp_path.iterdir())
    to(source, tmp_path / "out", "bf16")
