"""Configuration files: the real ones, what diffusers writes today, and everything that must be refused."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from ldm_backend.checkpoints.single_file import FORMAT, config_from_metadata, config_to_json
from ldm_backend.config.diffusers_json import SCHEDULE_RULES
from ldm_backend.config.model import LDMConfig, ScheduleConfig, UNetConfig, VQConfig
from ldm_backend.config.presets import CELEBAHQ_256
from ldm_backend.errors import CheckpointError, ConfigError

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
    (
        "unet/config.json",
        {"attention_head_dim": None, "num_attention_heads": 10},
        "attention_head_dim None or into num_attention_heads 10; use a divisor",
    ),
    ("unet/config.json", {"attention_head_dim": 33}, "heads of attention_head_dim 33"),
    ("unet/config.json", {"act_fn": "gelu"}, "act_fn is 'gelu'; supported is 'silu'"),
    ("unet/config.json", {"resnet_time_scale_shift": "spatial"}, "resnet_time_scale_shift"),
    ("unet/config.json", {"cross_attention_dim": 768}, "unknown keys cross_attention_dim"),
    ("unet/config.json", {"_class_name": "UNet1DModel"}, "expected UNet2DModel"),
    ("unet/config.json", {"_class_name": "UNet2DConditionModel"}, "cross_attention_dim missing"),
    ("unet/config.json", {"down_block_types": ["DownBlock2D"] * 3}, "3 entries"),
    ("unet/config.json", {"up_block_types": ["UpBlock2D"] * 3 + ["SkipUpBlock2D"]}, "SkipUpBlock2D"),
    ("unet/config.json", {"block_out_channels": [224, 448, 672, 890]}, "norm_num_groups 32"),
    ("unet/config.json", {"block_out_channels": "224"}, "block_out_channels is '224'"),
    ("unet/config.json", {"block_out_channels": []}, "empty"),
    ("unet/config.json", {"layers_per_block": 0}, "positive"),
    ("unet/config.json", {"layers_per_block": True}, "expected int"),
    ("unet/config.json", {"norm_eps": "1e-5"}, "expected float"),
    ("vqvae/config.json", {"norm_type": "spatial"}, "norm_type"),
    ("vqvae/config.json", {"down_block_types": ["DownEncoderBlock2D", "AttnDownBlock2D"]}, "AttnDown"),
    ("scheduler/scheduler_config.json", {"beta_schedule": "sigmoid"}, "beta_schedule is 'sigmoid'.*squaredcos"),
    ("scheduler/scheduler_config.json", {"prediction_type": "flow_prediction"}, "flow_prediction.*v_prediction"),
    ("scheduler/scheduler_config.json", {"clip_sample": "yes"}, "clip_sample is 'yes'"),
    ("scheduler/scheduler_config.json", {"clip_sample": True, "clip_sample_range": 0}, "clip_sample_range is 0"),
    ("scheduler/scheduler_config.json", {"clip_sample_range": math.inf}, "clip_sample_range"),
    ("scheduler/scheduler_config.json", {"sample_max_value": -1.0}, "sample_max_value is -1"),
    ("scheduler/scheduler_config.json", {"dynamic_thresholding_ratio": 1.5}, "dynamic_thresholding_ratio is 1.5"),
    ("scheduler/scheduler_config.json", {"dynamic_thresholding_ratio": math.nan}, "dynamic_thresholding_ratio is nan"),
    ("scheduler/scheduler_config.json", {"timestep_spacing": "karras"}, "timestep_spacing is 'karras'"),
    ("scheduler/scheduler_config.json", {"variance_type": "learned_range"}, "variance_type is 'learned_range'"),
    ("scheduler/scheduler_config.json", {"variance_type": "fixed_large_log"}, "fixed_large_log"),  # NaN in diffusers
    ("scheduler/scheduler_config.json", {"variance_type": ["fixed_small"]}, "variance_type"),
    ("scheduler/scheduler_config.json", {"trained_betas": [0.1, 0.2]}, "trained_betas holds 2 numbers"),
    ("scheduler/scheduler_config.json", {"trained_betas": [0.1] * 999 + [1.5]}, r"trained_betas\[999\] is 1.5"),
    ("scheduler/scheduler_config.json", {"trained_betas": [0.0] + [0.1] * 999}, r"trained_betas\[0\] is 0.0"),
    ("scheduler/scheduler_config.json", {"trained_betas": [0.1] * 999 + ["1"]}, r"trained_betas\[999\] is '1'"),
    ("scheduler/scheduler_config.json", {"trained_betas": 0.1}, "trained_betas is 0.1"),
    (
        "scheduler/scheduler_config.json",
        {"trained_betas": [0.1] * 999 + [1.0], "rescale_betas_zero_snr": True},
        "zero terminal SNR already",
    ),
    ("scheduler/scheduler_config.json", {"timesteps": 1, "rescale_betas_zero_snr": True}, "of 2 or more"),
    ("scheduler/scheduler_config.json", {"timestep_values": [1, 2]}, "timestep_values"),
    ("scheduler/scheduler_config.json", {"use_flow_sigmas": True}, "use_flow_sigmas is True"),
    ("scheduler/scheduler_config.json", {"timestep_type": "continuous"}, "timestep_type"),
    ("scheduler/scheduler_config.json", {"sigma_max": 80.0}, "sigma_max"),
    ("scheduler/scheduler_config.json", {"snr_shift_scale": 3.0}, "unknown keys snr_shift_scale"),
    ("scheduler/scheduler_config.json", {"beta_end": 1.5}, "beta_end 1.5"),
    ("scheduler/scheduler_config.json", {"_class_name": "EDMEulerScheduler"}, "EDMEulerScheduler"),
    ("scheduler/scheduler_config.json", {"_class_name": ["DDIMScheduler"]}, "DDIMScheduler"),
]


@pytest.mark.parametrize(("name", "change", "message"), BAD)
def test_refused(name, change, message):
    """What would be another model, or no model, is named together with what is supported."""
    with pytest.raises(ConfigError, match=message) as error:
        READERS[name].from_dict(real(name) | change, source=name)
    assert len(str(error.value)) < 400


SCHEDULES = [
    ScheduleConfig(beta_schedule="linear", beta_start=1e-4, beta_end=0.02, prediction_type="v_prediction"),
    ScheduleConfig(beta_schedule="squaredcos_cap_v2", prediction_type="sample", variance_type="fixed_large"),
    ScheduleConfig(rescale_betas_zero_snr=True, timestep_spacing="trailing", clip_sample=True, clip_sample_range=2.5),
    ScheduleConfig(thresholding=True, dynamic_thresholding_ratio=0.9, sample_max_value=3.0),
    ScheduleConfig(num_train_timesteps=3, trained_betas=(0.1, 0.25, 1.0)),
]


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_schedule_reads_back_from_json_and_metadata(schedule):
    assert ScheduleConfig.from_dict(json.loads(json.dumps(schedule.to_dict()))) == schedule
    config = LDMConfig(schedule=schedule)
    texts = {"format": FORMAT, "ldm_config": json.dumps(config_to_json(config))}
    assert config_from_metadata(texts, "file") == config


def test_metadata_of_the_first_release():
    """It names five settings of the schedule; a configuration that needs no more is still written so."""
    names = ["num_train_timesteps", "beta_start", "beta_end", "set_alpha_to_one", "steps_offset"]
    written = config_to_json(CELEBAHQ_256)
    assert list(written["schedule"]) == names
    texts = {"format": FORMAT, "ldm_config": json.dumps(written)}
    assert config_from_metadata(texts, "file") == CELEBAHQ_256
    del written["schedule"]["beta_end"]
    with pytest.raises(CheckpointError, match="beta_end"):
        config_from_metadata({"format": FORMAT, "ldm_config": json.dumps(written)}, "file")


def test_trained_betas_replace_the_named_ones():
    data = {"_class_name": "DDPMScheduler", "clip_sample": False, "num_train_timesteps": 2, "trained_betas": [0.5, 1]}
    assert ScheduleConfig.from_dict(data).trained_betas == (0.5, 1.0)
    with_others = data | {"beta_schedule": "anything", "beta_start": 7, "beta_end": None}
    assert ScheduleConfig.from_dict(with_others) == ScheduleConfig.from_dict(data)


CLASSES = [name for name in SCHEDULE_RULES.class_names if name not in ("DDIMScheduler", "DDPMScheduler")]


@pytest.mark.parametrize("name", CLASSES)
def test_a_class_without_clipping_needs_no_word_on_it(name):
    """What absent keys mean is what they mean in that class."""
    betas = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
    schedule = ScheduleConfig.from_dict({"_class_name": name, **betas})
    assert not schedule.clip_sample
    assert schedule.timestep_spacing == ("leading" if name == "PNDMScheduler" else "linspace")
    assert schedule.set_alpha_to_one == (name != "PNDMScheduler")


MISSING = [
    ("scheduler/scheduler_config.json", "clip_sample", "False"),
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
