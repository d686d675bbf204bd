"""Checkpoints of models of CLIP's vectors: configurations, every layout, and none taken for another."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_parts import assert_every_tensor_has_a_place, assert_holds, assert_taken_only_where_it_fits, meta_file
from class_models import GUIDED
from class_models import write_ckpt as write_class_ckpt
from conditional_models import CONFIGS as OTHERS
from conditional_models import released_yaml
from vector_models import RELEASES, VECTORS, random_weights, write_ckpt

import ldm_backend
from ldm_backend.checkpoints.checkpoint import read_checkpoint
from ldm_backend.checkpoints.conditioner import conditioner_from_compvis
from ldm_backend.checkpoints.configuration import fitting_presets
from ldm_backend.checkpoints.conversion import convert_to_folder, convert_to_single_file
from ldm_backend.checkpoints.inspection import inspect_checkpoint
from ldm_backend.checkpoints.single_file import config_from_metadata, config_to_json
from ldm_backend.checkpoints.tensor_files import TensorFile
from ldm_backend.config.compvis_yaml import compvis_model_from_yaml
from ldm_backend.config.conditioning import VectorsConfig
from ldm_backend.config.presets import PRESETS
from ldm_backend.errors import CheckpointError, ConfigError, LDMError
from ldm_backend.networks.unet import UNet
from ldm_backend.verification import verify_checkpoint

RELEASE, PRESET = "rdm768x768", "retrieval-768"


def yaml_of() -> tuple[dict[str, Any], dict[str, Any]]:
    data = released_yaml(RELEASE)
    return data, data["model"]["params"]


def test_released_yaml_is_the_preset():
    found = compvis_model_from_yaml(yaml_of()[0], "a.yaml")
    assert found.config == PRESETS[PRESET]
    assert found.config.task == "vector-conditional"
    assert (found.use_ema, found.scale_factor, found.scale_by_std) == (None, 0.22765929, False)
    assert found.config.first_stage.downscale * found.config.unet.sample_size == 768


def test_every_published_tensor_finds_its_place():
    file, config = meta_file(RELEASE), PRESETS[PRESET]
    assert_every_tensor_has_a_place(file, config)
    assert fitting_presets(file.tensors) == [PRESET]
    assert sum(tensor.numel() for tensor in UNet(config.unet, device="meta").state_dict().values()) == 1_335_480_400


@pytest.mark.parametrize("release", [RELEASE, "cin256-v2", "cin256", "text2img-large", "text2img256", "celeba256"])
@pytest.mark.parametrize("preset", [*RELEASES.values(), "imagenet-256-f8", "text-to-image-large-256"])
def test_a_published_file_is_taken_for_no_other_model(release, preset):
    assert_taken_only_where_it_fits(release, preset)


def test_what_encodes_texts_makes_it_another_model():
    """Stable Diffusion attends to a context as wide; it has an encoder, and these have nothing there."""
    text = {"cond_stage_model.transformer.text_model.embeddings.token_embedding.weight": torch.empty(1, device="meta")}
    with pytest.raises(CheckpointError, match=r"unexpected keys: cond_stage_model\.transformer"):
        conditioner_from_compvis(TensorFile(Path("sd.ckpt"), meta_file(RELEASE).tensors | text), PRESETS[PRESET])


@pytest.mark.parametrize(("weights", "factor"), [("auto", 2), ("raw", 1)])
def test_original_checkpoints(tmp_path, weights, factor):
    found = read_checkpoint(write_ckpt(tmp_path, ema=True), weights, VECTORS)
    assert_holds(found, VECTORS, random_weights(), factor)


def test_conversion_there_and_back(tmp_path):
    convert_to_single_file(read_checkpoint(write_ckpt(tmp_path), config=VECTORS), tmp_path / "single.safetensors")
    single = read_checkpoint(tmp_path / "single.safetensors")
    assert_holds(single, VECTORS, random_weights())
    limits = convert_to_folder(single, tmp_path / "folder")
    assert any("no pipeline for this kind of model (vector-conditional)" in limit for limit in limits)
    assert not (tmp_path / "folder" / "model_index.json").exists()
    assert json.loads((tmp_path / "folder" / "conditioner" / "config.json").read_text()) == {
        "kind": "vectors",
        "embed_dim": 12,
    }
    assert_holds(read_checkpoint(tmp_path / "folder"), VECTORS, random_weights())


def test_inspection_and_loading_say_the_task(tmp_path):
    ckpt = write_ckpt(tmp_path)
    info = inspect_checkpoint(ckpt, VECTORS)
    assert (info.task, info.problem, info.conditioner_parameters) == ("vector-conditional", None, 0)
    assert ldm_backend.load(ckpt, "cpu", config=VECTORS).task == "vector-conditional"
    assert inspect_checkpoint(ckpt).task is None
    with pytest.raises(LDMError, match="verify takes an unconditional model, and this one is a vector-conditional"):
        verify_checkpoint(ckpt, "cpu", config=VECTORS)


@pytest.mark.parametrize("other", [*OTHERS.values(), GUIDED], ids=lambda config: config.task)
def test_no_model_loads_as_another_task(tmp_path, other):
    with pytest.raises(LDMError, match=r"model\.ckpt"):
        ldm_backend.load(write_ckpt(tmp_path), "cpu", config=other)
    with pytest.raises(LDMError, match=r"model\.ckpt"):
        ldm_backend.load(write_class_ckpt(tmp_path, GUIDED), "cpu", config=VECTORS)


def test_our_json_gives_the_configuration_back():
    texts = {"format": "comfyui-ldm.1", "ldm_config": json.dumps(config_to_json(VECTORS))}
    assert config_from_metadata(texts, "a.safetensors") == VECTORS


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"conditioning": VectorsConfig(embed_dim=13)}, "12 wide, and the vectors conditioning makes one 13"),
        (
            {"conditioning": None},
            "12 wide, and nothing says what makes it; .* or vectors of CLIP",
        ),
        ({"unet": replace(VECTORS.unet, in_channels=6)}, "expected 4"),
    ],
)
def test_parts_must_agree(change, message):
    with pytest.raises(ConfigError, match=message):
        replace(VECTORS, **change)


@pytest.mark.parametrize("width", [0, -1, 10**9])
def test_the_width_is_checked(width):
    with pytest.raises(ConfigError, match="conditioning: embed_dim is"):
        VectorsConfig(width)


@pytest.mark.parametrize(
    ("place", "name", "value", "message"),
    [
        ("params", "conditioning_key", "concat", "conditioning_key is 'concat'.*supported is 'crossattn'"),
        ("params", "cond_stage_key", "caption", "torch.nn.Identity.*cond_stage_key 'caption'; supported are"),
        ("params", "cond_stage_key", "LR_image", "conditioning_key is 'crossattn'.*supported is 'concat'"),
        ("params", "cond_stage_config", "__is_first_stage__", "cond_stage_key 'nix'"),
        ("cond_stage_config", "params", {"x": 1}, "unknown settings x"),
        ("unet_config", "context_dim", None, "context_dim is None"),
        ("unet_config", "context_dim", "wide", "context_dim is 'wide'"),
    ],
)
def test_each_setting_of_yaml_counts(place, name, value, message):
    data, params = yaml_of()
    section = {"params": params, "cond_stage_config": params["cond_stage_config"]}.get(place)
    (params[place]["params"] if section is None else section)[name] = value
    with pytest.raises(ConfigError, match=rf"a\.yaml.*{message}"):
        compvis_model_from_yaml(data, "a.yaml")
