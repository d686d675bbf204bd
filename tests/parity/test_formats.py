"""Every layout at the real model's size, random weights: what we load computes what diffusers computes with the same.

The tolerances are those of test_full_size.py, relative to the standard deviation of the reference.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from compvis_writer import DATA, compvis_state_dict
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d import UNet2DModel
from safetensors.torch import save_file
from torch import Tensor

import ldm_backend
from ldm_backend.checkpoints.checkpoint import read_checkpoint
from ldm_backend.checkpoints.conversion import convert_to_folder, convert_to_single_file
from ldm_backend.config.presets import CELEBAHQ_256, LSUN_CHURCHES_256
from ldm_backend.sampling.noise import draw_noise

pytestmark = pytest.mark.parity

EMA_FACTOR = 1.0625  # exact in binary, so that averaged weights are the raw ones times this to the last bit


def relative_error(ours: Tensor, reference: Tensor) -> float:
    return float((ours - reference).abs().max() / reference.std())


@torch.no_grad()
def assert_same_model(model: ldm_backend.LatentDiffusion, unet: Any, decode: Callable[[Tensor], Tensor]) -> None:
    size = model.config.unet.sample_size
    x = draw_noise([3], (model.config.unet.in_channels, size, size))
    assert relative_error(model.unet(x, 500), unet(x, 500)["sample"]) < 1e-4
    assert relative_error(model.first_stage.decode(x), decode(x)) < 1e-3


def assert_same_tensors(loaded: torch.nn.Module, expected: torch.nn.Module) -> None:
    ours, theirs = loaded.state_dict(), expected.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


@pytest.fixture(scope="module")
def weights(full_size_folder: Path) -> ldm_backend.LatentDiffusion:
    """What every other layout must give."""
    return ldm_backend.load(full_size_folder, device="cpu")


def test_single_files_and_back_to_the_folder(weights, full_size_folder, tmp_path):
    """Folder -> single file -> folder is bit-identical; fp16 stays within its rounding."""
    source = read_checkpoint(full_size_folder)
    convert_to_single_file(source, tmp_path / "model.safetensors")
    single = read_checkpoint(tmp_path / "model.safetensors")
    assert single.config == CELEBAHQ_256
    convert_to_folder(single, tmp_path / "folder")
    back = ldm_backend.load(tmp_path / "folder", device="cpu")
    assert_same_tensors(back.unet, weights.unet)
    assert_same_tensors(back.first_stage, weights.first_stage)
    convert_to_single_file(source, tmp_path / "half.safetensors", "fp16")
    half = ldm_backend.load(tmp_path / "half.safetensors", device="cpu")
    for key, tensor in half.unet.state_dict().items():
        # Half precision keeps 11 bits: a relative error of 2**-11, and 2**-25 where numbers are subnormal.
        torch.testing.assert_close(tensor, weights.unet.state_dict()[key], rtol=2**-11, atol=2**-25)


def test_compvis_keys_in_safetensors(weights, tmp_path):
    state = compvis_state_dict(CELEBAHQ_256, weights.unet.state_dict(), weights.first_stage.state_dict(), None)
    save_file({key: tensor.clone().contiguous() for key, tensor in state.items()}, tmp_path / "model.safetensors")
    loaded = ldm_backend.load(tmp_path / "model.safetensors", device="cpu", config="celebahq-256")
    assert_same_tensors(loaded.unet, weights.unet)
    assert_same_tensors(loaded.first_stage, weights.first_stage)


@pytest.mark.parametrize("layout", ["compvis", "diffusers"])
def test_first_stage_alone(weights, tmp_path, layout):
    """vq-f4 as released, with the loss networks of its training, and as a diffusers VQModel; no configuration."""
    tensors = dict(weights.first_stage.state_dict())
    if layout == "compvis":
        whole = compvis_state_dict(CELEBAHQ_256, weights.unet.state_dict(), tensors, None)
        prefix = "first_stage_model."
        tensors = {key.removeprefix(prefix): value for key, value in whole.items() if key.startswith(prefix)}
        tensors |= {"loss.discriminator.main.0.weight": torch.zeros(64, 3, 4, 4)}
    torch.save({"state_dict": tensors}, tmp_path / "vq-f4.ckpt")
    loaded = ldm_backend.load_first_stage(tmp_path / "vq-f4.ckpt")
    assert loaded.config == CELEBAHQ_256.first_stage
    assert_same_tensors(loaded, weights.first_stage)


@pytest.mark.full_size
@torch.no_grad()
def test_churches(tmp_path):
    """KL-f8, scale factor from the checkpoint, scale-shift norm, resampling resnets, eight heads at every level."""
    data: dict[str, Any] = LSUN_CHURCHES_256.unet.to_dict() | {"attention_head_dim": 24}
    del data["num_attention_heads"], data["_class_name"]
    data["attn_norm_num_groups"] = 32  # otherwise the middle attention has no norm in diffusers
    data["up_block_types"][0] = "ResnetUpsampleBlock2D"  # UpBlock2D has no resampling resnet in diffusers
    with torch.random.fork_rng():
        torch.manual_seed(1)
        unet: Any = UNet2DModel(**data)
        kl: Any = AutoencoderKL.from_config(
            json.loads(json.dumps(LSUN_CHURCHES_256.first_stage.to_dict() | {"scaling_factor": 0.25}))
        )
    for module in unet.modules():
        if hasattr(module, "heads"):
            module.heads = 8  # UNet2DModel can only say channels a head, which differ from level to level here
    state = compvis_state_dict(LSUN_CHURCHES_256, unet.state_dict(), kl.state_dict(), None)
    torch.save({"state_dict": state | {"scale_factor": torch.tensor(0.25)}}, tmp_path / "model.ckpt")
    loaded = ldm_backend.load(tmp_path / "model.ckpt", device="cpu", config=DATA / "lsun_churches256.yaml")
    assert loaded.config.first_stage.scale_factor == 0.25
    assert_same_model(loaded, unet.eval(), lambda z: kl.eval().decode(z / 0.25)["sample"])
    x = draw_noise([4], (3, 256, 256)).clamp(-1, 1)
    reference = kl.encode(x)["latent_dist"].mean * 0.25
    assert relative_error(loaded.first_stage.encode(x), reference) < 1e-3


# Last in this file: until the end of it the disk holds this, too.
@pytest.fixture(scope="module")
def compvis_file(weights, tmp_path_factory) -> Iterator[Path]:
    """The released layout, 2.4 GB: Lightning extras, raw and averaged UNet, first stage; its YAML beside it."""
    unet = weights.unet.state_dict()
    ema = {key: tensor * EMA_FACTOR for key, tensor in unet.items()}
    folder = tmp_path_factory.mktemp("compvis")
    state = compvis_state_dict(CELEBAHQ_256, unet, weights.first_stage.state_dict(), ema)
    torch.save(
        {"state_dict": state, "global_step": 410_000, "optimizer_states": [{"lr": 9.6e-5}]}, folder / "model.ckpt"
    )
    (folder / "config.yaml").write_text((DATA / "celeba256.yaml").read_text())
    yield folder / "model.ckpt"
    shutil.rmtree(folder)


def test_compvis_raw_weights(weights, full_size_reference, compvis_file):
    """Every tensor arrives to the last bit, the parts of qkv included; so test_full_size.py holds for it."""
    loaded = ldm_backend.load(compvis_file, device="cpu", weights="raw")
    assert_same_tensors(loaded.unet, weights.unet)
    assert_same_tensors(loaded.first_stage, weights.first_stage)
    assert_same_model(loaded, full_size_reference.unet, lambda z: full_size_reference.vq.decode(z)["sample"])


@torch.no_grad()
def test_compvis_averaged_weights(full_size_reference, compvis_file):
    """`auto` takes the EMA; diffusers computes the same eps with the same weights, and another with the raw ones."""
    reference = full_size_reference
    loaded = ldm_backend.load(compvis_file, device="cpu")
    averaged: Any = UNet2DModel.from_config(reference.unet.config)
    averaged.load_state_dict({key: tensor * EMA_FACTOR for key, tensor in reference.unet.state_dict().items()})
    assert_same_model(loaded, averaged.eval(), lambda z: reference.vq.decode(z)["sample"])
    x = draw_noise([3], (3, 64, 64))
    assert relative_error(loaded.unet(x, 500), reference.unet(x, 500)["sample"]) > 1e-2
