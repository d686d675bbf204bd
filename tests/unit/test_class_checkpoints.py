"""Checkpoints of models that draw pictures of classes: configurations, every layout, and none taken for another."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_parts import assert_every_tensor_has_a_place, assert_holds, assert_taken_only_where_it_fits, meta_file
from class_models import GUIDED, RELEASES, UNGUIDED, compvis_tensors, random_weights, write_ckpt
from conditional_models import CONFIGS as OTHERS
from conditional_models import compvis_tensors as other_tensors
from conditional_models import released_yaml
from safetensors.torch import load_file, save_file

import ldm_backend
from ldm_backend.checkpoints.checkpoint import read_checkpoint
from ldm_backend.checkpoints.compvis import from_compvis
from ldm_backend.checkpoints.conditioner import conditioner_from_compvis
from ldm_backend.checkpoints.configuration import fitting_presets
from ldm_backend.checkpoints.conversion import convert_to_folder, convert_to_single_file
from ldm_backend.checkpoints.inspection import inspect_checkpoint
from ldm_backend.checkpoints.single_file import config_from_metadata, config_to_json
from ldm_backend.checkpoints.tensor_files import TensorFile
from ldm_backend.config.compvis_yaml import compvis_model_from_yaml
from ldm_backend.config.conditioning import ClassConfig
from ldm_backend.config.model import LDMConfig
from ldm_backend.config.presets import PRESETS
from ldm_backend.errors import CheckpointError, ConfigError, LDMError
from ldm_backend.verification import verify_checkpoint

CONFIGS = {"guided": GUIDED, "unguided": UNGUIDED}
TABLE = "cond_stage_model.embedding.weight"


def yaml_of(release: str = "cin256-v2") -> tuple[dict[str, Any], dict[str, Any]]:
    data = released_yaml(release)
    return data, data["model"]["params"]


@pytest.mark.parametrize("release", RELEASES)
def test_released_yaml_is_the_preset(release):
    found = compvis_model_from_yaml(yaml_of(release)[0], "a.yaml")
    assert found.config == PRESETS[RELEASES[release]]
    assert found.config.task == "class-conditional"
    assert found.use_ema is (None if release == "cin256" else False)


@pytest.mark.parametrize("release", RELEASES)
def test_every_published_tensor_finds_its_place(release):
    file, config = meta_file(release), PRESETS[RELEASES[release]]
    assert_every_tensor_has_a_place(file, config)
    assert fitting_presets(file.tensors) == [RELEASES[release]]


@pytest.mark.parametrize("release", [*RELEASES, "bsr_sr", "celeba256", "text2img-large"])
@pytest.mark.parametrize("preset", [*RELEASES.values(), "celebahq-256"])
def test_a_published_file_is_taken_for_no_other_model(release, preset):
    assert_taken_only_where_it_fits(release, preset)


def test_a_file_of_stable_diffusion_is_no_model_of_classes():
    """Its UNet has other layers; given the layers of ours, it has a text encoder and no table."""
    config = PRESETS["imagenet-256"]
    ours = meta_file("cin256-v2").tensors
    text = {"cond_stage_model.transformer.text_model.embeddings.token_embedding.weight": torch.empty(1, device="meta")}
    with pytest.raises(CheckpointError, match="unexpected keys"):
        from_compvis(TensorFile(Path("sd.ckpt"), meta_file("text2img-large").tensors | text), config, "raw")
    for table in ({TABLE: ours[TABLE]}, {}):
        rest = {key: tensor for key, tensor in ours.items() if key != TABLE}
        with pytest.raises(CheckpointError, match=r"unexpected keys: cond_stage_model\.transformer"):
            conditioner_from_compvis(TensorFile(Path("sd.ckpt"), rest | table | text), config)


@pytest.mark.parametrize("name", CONFIGS)
@pytest.mark.parametrize(("weights", "factor"), [("auto", 2), ("raw", 1)])
def test_original_checkpoints(tmp_path, name, weights, factor):
    """With averaged weights, and as cin256-v2 without; the optimiser's state is passed over."""
    config = CONFIGS[name]
    assert_holds(
        read_checkpoint(write_ckpt(tmp_path, config, ema=True), weights, config), config, random_weights(config), factor
    )
    single = read_checkpoint(write_ckpt(tmp_path, config), weights, config)
    assert_holds(single, config, random_weights(config))
    assert single.weights == "raw"
    with pytest.raises(CheckpointError, match="no EMA weights"):
        read_checkpoint(write_ckpt(tmp_path, config), "ema", config)


@pytest.mark.parametrize("name", CONFIGS)
def test_conversion_there_and_back(tmp_path, name):
    config = CONFIGS[name]
    source = read_checkpoint(write_ckpt(tmp_path, config), config=config)
    convert_to_single_file(source, tmp_path / "single.safetensors")
    single = read_checkpoint(tmp_path / "single.safetensors")
    assert_holds(single, config, random_weights(config))
    limits = convert_to_folder(single, tmp_path / "folder")
    assert limits == (
        "diffusers has no pipeline for this kind of model (class-conditional); it can load the parts one by one.",
    )
    assert not (tmp_path / "folder" / "model_index.json").exists()
    settings = json.loads((tmp_path / "folder" / "unet" / "config.json").read_text())
    assert settings["_class_name"] == "UNet2DConditionModel"
    assert_holds(read_checkpoint(tmp_path / "folder"), config, random_weights(config))


@pytest.mark.parametrize("name", CONFIGS)
def test_inspection_and_loading_say_the_task(tmp_path, name):
    config = CONFIGS[name]
    ckpt = write_ckpt(tmp_path, config)
    info = inspect_checkpoint(ckpt, config)
    assert (info.task, info.problem, info.conditioner_parameters) == (
        "class-conditional",
        None,
        72 - 12 * (name == "unguided"),
    )
    model = ldm_backend.load(ckpt, "cpu", config=config)
    assert model.task == "class-conditional"
    assert inspect_checkpoint(ckpt).task is None


def test_what_draws_from_noise_alone_refuses_them(tmp_path):
    ckpt = write_ckpt(tmp_path, GUIDED)
    words = (
        "verify takes an unconditional model, and this one is a class-conditional model: it draws pictures of classes"
    )
    with pytest.raises(LDMError, match=words):
        verify_checkpoint(ckpt, "cpu", config=GUIDED)


@pytest.mark.parametrize("other", OTHERS)
def test_no_model_loads_as_another_task(tmp_path, other):
    with pytest.raises(LDMError, match=r"model\.ckpt"):
        ldm_backend.load(write_ckpt(tmp_path, GUIDED), "cpu", config=OTHERS[other])
    torch.save(other_tensors(OTHERS[other]), tmp_path / "other.ckpt")
    with pytest.raises(LDMError, match=r"other\.ckpt"):
        ldm_backend.load(tmp_path / "other.ckpt", "cpu", config=GUIDED)


def test_models_with_and_without_none_are_not_mixed_up(tmp_path):
    """Their tables have other numbers of rows."""
    with pytest.raises(CheckpointError, match=r"embedding\.weight is \(5, 12\), expected \(6, 12\)"):
        read_checkpoint(write_ckpt(tmp_path, UNGUIDED), config=GUIDED)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({TABLE: torch.zeros(6, 13)}, r"embedding\.weight is \(6, 13\), expected \(6, 12\)"),
        ({"cond_stage_model.embedding.bias": torch.zeros(6)}, r"unexpected keys: cond_stage_model\.embedding\.bias"),
        ({"cond_stage_model.x": torch.zeros(6)}, r"unexpected keys: cond_stage_model\.x"),
    ],
)
def test_the_table_of_classes_is_taken_whole(tmp_path, changes, message):
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(write_ckpt(tmp_path, GUIDED, changes=changes), config=GUIDED)


def test_the_table_of_classes_must_be_there_and_finite(tmp_path):
    state = compvis_tensors(GUIDED)
    with pytest.raises(CheckpointError, match=r"embedding\.weight holds NaN"):
        ldm_backend.load(write_ckpt(tmp_path, GUIDED, changes={TABLE: state[TABLE] * torch.nan}), "cpu", config=GUIDED)
    del state[TABLE]
    torch.save(state, tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError, match=r"embedding\.weight is missing"):
        read_checkpoint(tmp_path / "a.ckpt", config=GUIDED)
    convert_to_folder(read_checkpoint(write_ckpt(tmp_path, GUIDED), config=GUIDED), tmp_path / "folder")
    file = tmp_path / "folder" / "conditioner" / "diffusion_pytorch_model.safetensors"
    save_file(load_file(file) | {"x": torch.zeros(1)}, file)
    with pytest.raises(CheckpointError, match="conditioning does not fit"):
        read_checkpoint(tmp_path / "folder")


def test_a_folder_that_does_not_say_what_makes_the_context_is_refused(tmp_path):
    convert_to_folder(read_checkpoint(write_ckpt(tmp_path, GUIDED), config=GUIDED), tmp_path / "folder")
    (tmp_path / "folder" / "conditioner" / "config.json").unlink()
    with pytest.raises(ConfigError, match="folder: unet attends to a context 12 wide, and nothing says what makes it"):
        read_checkpoint(tmp_path / "folder")


@pytest.mark.parametrize("name", CONFIGS)
def test_our_json_gives_the_configuration_back(name):
    texts = {"format": "comfyui-ldm.1", "ldm_config": json.dumps(config_to_json(CONFIGS[name]))}
    assert config_from_metadata(texts, "a.safetensors") == CONFIGS[name]
    assert "cross_attention_dim" not in config_to_json(LDMConfig())["unet"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"conditioning": ClassConfig(n_classes=6, embed_dim=13)},
            "12 wide, and the classes conditioning makes one 13",
        ),
        ({"conditioning": None}, "12 wide, and nothing says what makes it"),
        ({"unet": replace(GUIDED.unet, in_channels=6)}, "expected 3"),
        ({"unet": OTHERS["super-resolution"].unet}, "None wide, and the classes conditioning makes one 12"),
        ({"conditioning": OTHERS["super-resolution"].conditioning}, "12 wide, and nothing says"),
    ],
)
def test_parts_must_agree(change, message):
    with pytest.raises(ConfigError, match=message):
        replace(GUIDED, **change)


@pytest.mark.parametrize("fields", [{"n_classes": 1}, {"n_classes": 10**9}, {"embed_dim": 0}])
def test_numbers_of_classes_are_checked(fields):
    with pytest.raises(ConfigError, match=f"conditioning: {next(iter(fields))} is"):
        ClassConfig(**fields)
    assert ClassConfig(n_classes=1, last_is_none=False).pictured == 1


@pytest.mark.parametrize(
    ("place", "name", "value", "message"),
    [
        ("params", "conditioning_key", "concat", "conditioning_key is 'concat'.*supported is 'crossattn'"),
        ("params", "conditioning_key", None, "conditioning_key is 'concat'.*supported is 'crossattn'"),
        (
            "params",
            "cond_stage_key",
            "class",
            "cond_stage_key 'class'; supported are .*ClassEmbedder with cond_stage_key",
        ),
        ("params", "cond_stage_key", "LR_image", "ClassEmbedder.*cond_stage_key 'LR_image'"),
        ("cond_stage_config", "n_classes", 0, "n_classes is 0"),
        ("cond_stage_config", "n_classes", "many", "n_classes is 'many'"),
        ("cond_stage_config", "embed_dim", None, "embed_dim is None"),
        ("cond_stage_config", "embed_dim", 640, "512 wide, and the classes conditioning makes one 640"),
        ("cond_stage_config", "dropout", 0.1, "unknown settings dropout"),
        ("unet_config", "use_spatial_transformer", False, "use_spatial_transformer is False and context_dim 512"),
        ("unet_config", "use_spatial_transformer", "yes", "use_spatial_transformer is 'yes'"),
        ("unet_config", "context_dim", None, "use_spatial_transformer is True and context_dim None"),
        ("unet_config", "context_dim", [512], r"context_dim is \[512\]; expected int"),
        ("unet_config", "transformer_depth", 0, "transformer_depth is 0"),
        ("unet_config", "transformer_depth", [1, 1], "transformer_depth is"),
        ("unet_config", "resblock_updown", True, "downsample_type is 'resnet'"),
        ("unet_config", "num_classes", 1000, "num_classes is 1000; supported is None"),
        ("unet_config", "num_heads", 7, "cannot be split"),
    ],
)
def test_each_setting_of_yaml_counts(place, name, value, message):
    data, params = yaml_of()
    section = params if place == "params" else params[place]["params"]
    section[name] = value
    with pytest.raises(ConfigError, match=rf"a\.yaml.*{message}"):
        compvis_model_from_yaml(data, "a.yaml")


def test_what_is_said_anyway_changes_nothing():
    data, params = yaml_of()
    plain = compvis_model_from_yaml(data, "a.yaml").config
    del params["conditioning_key"]
    params["concat_mode"] = False
    params["unet_config"]["params"] |= {"legacy": False, "use_checkpoint": True}
    params["cond_stage_config"]["params"]["key"] = "class"
    assert compvis_model_from_yaml(data, "a.yaml").config == plain


def test_the_last_of_another_number_of_classes_is_a_class():
    """Only of the released number it is known that the last is none."""
    data, params = yaml_of()
    params["cond_stage_config"]["params"]["n_classes"] = 101
    one = compvis_model_from_yaml(data, "a.yaml").config.conditioning
    assert isinstance(one, ClassConfig)
    assert (one.pictured, one.last_is_none) == (101, False)
