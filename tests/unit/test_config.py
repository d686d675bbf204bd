"""Configuration files: the real ones, what diffusers writes today, and everything that must be refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ldm_backend.config.model import LDMConfig, ScheduleConfig, UNetConfig, VQConfig
from ldm_backend.config.presets import CELEBAHQ_256
from ldm_backend.errors import ConfigError

REAL = Path(__file__).parents[1] / "data" / "ldm-celebahq-256"
READERS = {
    "unet/config.json": UNetConfig,
    "vqvae/config.json": VQConfig,
    "scheduler/scheduler_config.json": ScheduleConfig,
}


def real(name: str) -> dict:
    return json.loads((REAL / name).read_text())


def test_the_real_files_are_the_defaults():
    """The published configuration files of CompVis/ldm-celebahq-256 give the default configuration."""
    parts = [reader.from_dict(real(name)) for name, reader in READERS.items()]
    assert LDMConfig(*parts) == CELEBAHQ_256


@pytest.mark.parametrize("reader", READERS.values())
def test_written_configuration_reads_back(reader):
    assert reader.from_dict(reader().to_dict()) == reader()


def test_class_default_scaling_factor_is_not_applied():
    """diffusers writes 0.18215 into every VQModel it saves; this family has no factor."""
    assert VQConfig.from_dict(real("vqvae/config.json") | {"scaling_factor": 0.18215}) == VQConfig()


BAD = [
    ("unet/config.json", {"attention_head_dim": None}, "attention_head_dim is None"),
    ("unet/config.json", {"attention_head_dim": 33}, "heads of attention_head_dim 33"),
    ("unet/config.json", {"act_fn": "gelu"}, "act_fn is 'gelu'; supported is 'silu'"),
    ("unet/config.json", {"resnet_time_scale_shift": "spatial"}, "resnet_time_scale_shift"),
    ("unet/config.json", {"cross_attention_dim": 768}, "unknown keys cross_attention_dim"),
    ("unet/config.json", {"_class_name": "UNet2DConditionModel"}, "expected UNet2DModel"),
    ("unet/config.json", {"down_block_types": ["DownBlock2D"] * 3}, "3 entries"),
    ("unet/config.json", {"up_block_types": ["UpBlock2D"] * 3 + ["SkipUpBlock2D"]}, "SkipUpBlock2D"),
    ("unet/config.json", {"block_out_channels": [224, 448, 672, 890]}, "norm_num_groups 32"),
    ("unet/config.json", {"block_out_channels": "224"}, "block_out_channels is '224'"),
    ("unet/config.json", {"block_out_channels": []}, "empty"),
    ("unet/config.json", {"layers_per_block": 0}, "positive"),
    ("unet/config.json", {"layers_per_block": True}, "expected int"),
    ("unet/config.json", {"norm_eps": "1e-5"}, "expected float"),
    ("vqvae/config.json", {"norm_type": "spatial"}, "norm_type"),
    ("vqvae/config.json", {"down_block_types": ["DownEncoderBlock2D", "AttnDownEncoderBlock2D"]}, "AttnDown"),
    ("scheduler/scheduler_config.json", {"beta_schedule": "linear"}, "beta_schedule is 'linear'"),
    ("scheduler/scheduler_config.json", {"prediction_type": "v_prediction"}, "v_prediction"),
    ("scheduler/scheduler_config.json", {"clip_sample": True}, "clip_sample"),
    ("scheduler/scheduler_config.json", {"beta_end": 1.5}, "beta_end 1.5"),
    ("scheduler/scheduler_config.json", {"_class_name": "PNDMScheduler"}, "PNDMScheduler"),
]


@pytest.mark.parametrize(("name", "change", "message"), BAD)
def test_refused(name, change, message):
    """What would be another model, or no model, is named together with what is supported."""
    with pytest.raises(ConfigError, match=message) as error:
        READERS[name].from_dict(real(name) | change, source=name)
    assert len(str(error.value)) < 400


MISSING = [
    ("unet/config.json", "attention_head_dim", "32"),
    ("vqvae/config.json", "num_vq_embeddings", "8192"),
    ("scheduler/scheduler_config.json", "beta_schedule", "scaled_linear"),
]


@pytest.mark.parametrize(("name", "key", "known"), MISSING)
def test_missing_key_is_asked_for_with_the_known_answer(name, key, known):
    data = real(name)
    del data[key]
    with pytest.raises(ConfigError, match=f"{name}: {key} missing.*{known}"):
        READERS[name].from_dict(data, source=name)


def test_parts_of_different_models():
    with pytest.raises(ConfigError, match="4 latent channels"):
        LDMConfig(first_stage=VQConfig(latent_channels=4, vq_embed_dim=4))
