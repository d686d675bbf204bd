"""Checkpoints of models that draw from texts: configurations, every layout, and none taken for another."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from checkpoint_parts import assert_every_tensor_has_a_place, assert_holds, assert_taken_only_where_it_fits, meta_file
from class_models import GUIDED as CLASSES
from class_models import write_ckpt as write_classes
from conditional_models import CONFIGS as OTHERS
from conditional_models import released_yaml
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from text_models import (
    BERT,
    OWN,
    RELEASES,
    VOCABULARY,
    checkpoint_of,
    compvis_tensors,
    random_weights,
    write_ckpt,
    write_text_folder,
)

import ldm_backend
from ldm_backend.checkpoints.checkpoint import read_checkpoint
from ldm_backend.checkpoints.configuration import fitting_presets
from ldm_backend.checkpoints.conversion import convert_to_folder, convert_to_single_file
from ldm_backend.checkpoints.inspection import inspect_checkpoint
from ldm_backend.checkpoints.single_file import config_from_metadata, config_to_json
from ldm_backend.config.compvis_yaml import compvis_model_from_yaml
from ldm_backend.config.conditioning import TextConfig
from ldm_backend.config.presets import PRESETS
from ldm_backend.errors import CheckpointError, ConfigError, LDMError
from ldm_backend.texts.bert_json import text_config_from_json, text_config_to_json
from ldm_backend.texts.vocabulary import bert_vocabulary
from ldm_backend.throughput import best_batch
from ldm_backend.verification import verify_checkpoint

TOKENS = "cond_stage_model.transformer.token_emb.weight"


def yaml_of(release: str = "text2img-large") -> tuple[dict[str, Any], dict[str, Any]]:
    data = released_yaml(release)
    return data, data["model"]["params"]


@pytest.mark.parametrize("release", RELEASES)
def test_released_yaml_is_the_preset(release):
    found = compvis_model_from_yaml(yaml_of(release)[0], "a.yaml")
    assert found.config == PRESETS[RELEASES[release]]
    assert found.config.task == "text-conditional"
    assert found.use_ema is (False if release == "text2img-large" else None)
    assert found.config.first_stage.scale_factor == (0.18215 if release == "text2img-large" else 1.0)


@pytest.mark.parametrize("release", RELEASES)
def test_every_published_tensor_finds_its_place(release):
    file, config = meta_file(release), PRESETS[RELEASES[release]]
    assert_every_tensor_has_a_place(file, config)
    assert fitting_presets(file.tensors) == [RELEASES[release]]


@pytest.mark.parametrize("release", [*RELEASES, "cin256-v2", "cin256", "bsr_sr", "celeba256", "lsun_churches256"])
@pytest.mark.parametrize("preset", [*RELEASES.values(), "imagenet-256"])
def test_a_published_file_is_taken_for_no_other_model(release, preset):
    """text2img256 and cin256-v2 have UNets of the same layers, and attend to contexts of other widths."""
    assert_taken_only_where_it_fits(release, preset)


@pytest.mark.parametrize(("weights", "factor"), [("auto", 2), ("raw", 1)])
def test_original_checkpoints(tmp_path, weights, factor):
    """With averaged weights as text2img256, and as text2img-large without; the layer of logits is passed over."""
    found = read_checkpoint(write_ckpt(tmp_path, ema=True), weights, BERT)
    assert_holds(found, BERT, random_weights(BERT), factor)
    assert found.vocabulary == bert_vocabulary()
    single = read_checkpoint(write_ckpt(tmp_path), weights, BERT)
    assert_holds(single, BERT, random_weights(BERT))
    assert single.weights == "raw"


@pytest.mark.parametrize("own", [True, False], ids=["own words", "BERT's words"])
@pytest.mark.parametrize("dtype", ["fp32", "fp16"])
def test_conversion_there_and_back(tmp_path, own, dtype):
    config, words = (OWN, VOCABULARY) if own else (BERT, bert_vocabulary())
    source = checkpoint_of(config, words) if own else read_checkpoint(write_ckpt(tmp_path), config=config)
    convert_to_single_file(source, tmp_path / "single.safetensors", dtype)
    single = read_checkpoint(tmp_path / "single.safetensors")
    assert (single.config, single.vocabulary) == (config, words)
    with safe_open(tmp_path / "single.safetensors", framework="pt") as opened:
        assert ("vocabulary" in opened.metadata()) == own
    limits = convert_to_folder(single, tmp_path / "folder", dtype)
    assert len(limits) == (1 if own else 2)
    assert "A cell of the latents stands for 4 pixels" in limits[0]
    folder = read_checkpoint(tmp_path / "folder")
    assert (folder.config, folder.vocabulary) == (config, words)
    if dtype == "fp32":
        assert_holds(single, config, random_weights(config))
        assert_holds(folder, config, random_weights(config))
    index = json.loads((tmp_path / "folder" / "model_index.json").read_text())
    assert index["_class_name"] == "LDMTextToImagePipeline"
    assert index["unet"] == ["diffusers", "UNet2DConditionModel"]
    assert set(load_file(tmp_path / "folder" / "bert" / "model.safetensors")) == {
        f"model.{key}" for key in random_weights(config).conditioner
    }


def test_inspection_and_loading_say_the_task(tmp_path):
    ckpt = write_ckpt(tmp_path)
    parameters = sum(tensor.numel() for tensor in random_weights(BERT).conditioner.values())
    info = inspect_checkpoint(ckpt, BERT)
    assert (info.task, info.problem, info.conditioner_parameters) == ("text-conditional", None, parameters)
    model = ldm_backend.load(ckpt, "cpu", config=BERT)
    assert model.task == "text-conditional"
    assert inspect_checkpoint(ckpt).task is None
    folder = inspect_checkpoint(write_text_folder(tmp_path / "folder"))
    assert [file.name for file, _, _ in folder.files].count("model.safetensors") == 1


def test_the_encoder_counts_where_memory_is_planned(tmp_path, monkeypatch: pytest.MonkeyPatch):
    """Of two models that differ in their encoders only, the one with the larger takes fewer images at once."""
    small = checkpoint_of()
    large = replace(small, conditioner={**small.conditioner, "more": torch.empty(2**40, device="meta")})
    monkeypatch.setattr("ldm_backend.throughput.free_bytes", lambda device: 2**40)
    cpu = torch.device("cpu")
    assert best_batch(small, cpu, 4) > best_batch(large, cpu, 4) == 1


def test_what_draws_from_noise_alone_refuses_them(tmp_path):
    words = "verify takes an unconditional model, and this one is a text-conditional model: it draws pictures of what"
    with pytest.raises(LDMError, match=words):
        verify_checkpoint(write_ckpt(tmp_path), "cpu", config=BERT)


@pytest.mark.parametrize("other", [*OTHERS, "class-conditional"])
def test_no_model_loads_as_another_task(tmp_path, other):
    config = CLASSES if other == "class-conditional" else OTHERS[other]
    with pytest.raises(LDMError, match=r"model\.ckpt"):
        ldm_backend.load(write_ckpt(tmp_path), "cpu", config=config)
    folder = write_text_folder(tmp_path / "folder")
    with pytest.raises(ConfigError, match="by its bert/config.json it is a model for text-conditional"):
        read_checkpoint(folder, config=config)


def test_a_file_of_classes_is_no_model_of_texts(tmp_path):
    with pytest.raises(CheckpointError, match=r"unexpected keys: cond_stage_model\.embedding\.weight"):
        read_checkpoint(write_classes(tmp_path, CLASSES), config=BERT)


@pytest.mark.parametrize(
    ("clip", "name"),
    [
        ("cond_stage_model.transformer.text_model.embeddings.token_embedding.weight", "Stable Diffusion 1"),
        ("cond_stage_model.transformer.embeddings.position_embedding.weight", "Stable Diffusion 1"),
        ("cond_stage_model.model.transformer.resblocks.0.attn.in_proj_weight", "Stable Diffusion 2"),
        ("conditioner.embedders.0.transformer.text_model.final_layer_norm.weight", "Stable Diffusion XL"),
    ],
)
@pytest.mark.parametrize("config", [None, BERT])
def test_a_file_of_stable_diffusion_is_no_model_of_texts(tmp_path, clip, name, config):
    """Its UNet has the layers of text2img-large, and another context; its encoder is CLIP's."""
    state = {key: tensor for key, tensor in compvis_tensors(BERT).items() if not key.startswith("cond_stage")}
    torch.save(state | {clip: torch.zeros(4, 12)}, tmp_path / "sd.ckpt")
    told = rf"sd\.ckpt: this is {name} \(it holds an encoder of CLIP, .*Load it with Load Checkpoint"
    with pytest.raises(CheckpointError, match=told):
        read_checkpoint(tmp_path / "sd.ckpt", config=config)


def test_a_folder_of_stable_diffusion_is_no_model_of_texts(tmp_path):
    folder = write_text_folder(tmp_path / "folder")
    (folder / "bert").rename(folder / "text_encoder")
    with pytest.raises(ConfigError, match="nothing says what makes it; expected classes, or texts.*Stable Diffusion"):
        read_checkpoint(folder)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({TOKENS: torch.zeros(30522, 13)}, r"embed_tokens\.weight is \(30522, 13\), expected \(30522, 12\)"),
        ({TOKENS: torch.zeros(7, 12)}, r"embed_tokens\.weight is \(7, 12\), expected"),
        ({"cond_stage_model.transformer.x": torch.zeros(6)}, r"unexpected keys: cond_stage_model\.transformer\.x"),
        ({"cond_stage_model.to_logits.bias": torch.zeros(6)}, r"unexpected keys: cond_stage_model\.to_logits\.bias"),
        (
            {"cond_stage_model.transformer.attn_layers.layers.4.0.weight": torch.zeros(12)},
            r"unexpected keys: cond_stage_model\.transformer\.attn_layers\.layers\.4\.0\.weight",
        ),
    ],
)
def test_the_encoder_is_taken_whole(tmp_path, changes, message):
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(write_ckpt(tmp_path, changes=changes), config=BERT)


def test_the_encoder_must_be_there_and_finite(tmp_path):
    state = compvis_tensors(BERT)
    with pytest.raises(CheckpointError, match=r"embed_tokens\.weight holds NaN"):
        ldm_backend.load(write_ckpt(tmp_path, changes={TOKENS: state[TOKENS] * torch.nan}), "cpu", config=BERT)
    del state[TOKENS]
    torch.save(state, tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError, match=r"embed_tokens\.weight is missing"):
        read_checkpoint(tmp_path / "a.ckpt", config=BERT)


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"x": torch.zeros(1)}, "unexpected keys: x"),
        ({"model.x": torch.zeros(1)}, r"x is \(1,\), expected none"),
        ({"model.layers.2.fc1.bias": torch.zeros(48)}, r"layers\.2\.fc1\.bias is \(48,\), expected none"),
        ({"to_logits.x": torch.zeros(1)}, r"unexpected keys: to_logits\.x"),
    ],
)
def test_a_tensor_of_a_folder_that_is_not_understood(tmp_path, extra, message):
    file = write_text_folder(tmp_path / "folder") / "bert" / "model.safetensors"
    tensors = {key: tensor.clone() for key, tensor in load_file(file).items()}
    save_file(tensors | {"to_logits.weight": torch.zeros(1), "to_logits.bias": torch.zeros(1)}, file)
    read_checkpoint(tmp_path / "folder")
    save_file(tensors | extra, file)
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(tmp_path / "folder")


def test_a_folder_says_once_what_its_unet_sees(tmp_path):
    folder = write_text_folder(tmp_path / "folder")
    (folder / "conditioner").mkdir()
    settings = {"kind": "classes", "n_classes": 6, "embed_dim": 12, "last_is_none": True}
    (folder / "conditioner" / "config.json").write_text(json.dumps(settings))
    with pytest.raises(ConfigError, match=r"both conditioner/config\.json and bert/config\.json say"):
        read_checkpoint(folder)
    (folder / "bert" / "config.json").rename(folder / "elsewhere.json")
    text = config_to_json(OWN)["conditioning"]
    (folder / "conditioner" / "config.json").write_text(json.dumps(text))
    with pytest.raises(ConfigError, match="kind is 'text'; expected a text encoder in bert"):
        read_checkpoint(folder)


def test_our_json_gives_the_configuration_back():
    for config in (OWN, BERT, *(PRESETS[name] for name in RELEASES.values())):
        texts = {"format": "comfyui-ldm.1", "ldm_config": json.dumps(config_to_json(config))}
        assert config_from_metadata(texts, "a.safetensors") == config
        one = config.conditioning
        assert isinstance(one, TextConfig)
        assert text_config_from_json(text_config_to_json(one), "config.json") == one


# As the hub has it for CompVis/ldm-text2im-large-256, and as transformers writes it today.
RELEASED_JSON: dict[str, Any] = {
    "_name_or_path": "ldm-bert",
    "activation_dropout": 0.0,
    "activation_function": "gelu",
    "architectures": ["LDMBertModel"],
    "attention_dropout": 0.0,
    "classifier_dropout": 0.0,
    "d_model": 1280,
    "dropout": 0.1,
    "encoder_attention_heads": 8,
    "encoder_ffn_dim": 5120,
    "encoder_layerdrop": 0.0,
    "encoder_layers": 32,
    "head_dim": 64,
    "init_std": 0.02,
    "max_position_embeddings": 77,
    "model_type": "ldmbert",
    "num_hidden_layers": 32,
    "pad_token_id": 0,
    "scale_embedding": False,
    "torch_dtype": "float32",
    "transformers_version": "4.20.1",
    "use_cache": True,
    "vocab_size": 30522,
}


def test_settings_of_the_released_encoder():
    assert text_config_from_json(RELEASED_JSON, "config.json") == TextConfig()


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("activation_function", "relu", "activation_function is 'relu'; supported is 'gelu'"),
        ("scale_embedding", True, "scale_embedding is True; supported is False"),
        ("model_type", "bert", "model_type is 'bert'"),
        ("architectures", ["BertModel"], "architectures is 'BertModel'"),
        ("is_decoder", True, "is_decoder is True"),
        ("encoder_ffn_dim", 1280, "encoder_ffn_dim is 1280; supported is 5120"),
        ("encoder_ffn_dim", None, "encoder_ffn_dim is None; supported is 5120"),
        ("num_hidden_layers", 12, "num_hidden_layers is 12; supported is 32"),
        ("encoder_layers", "many", "encoder_layers is 'many'; expected int"),
        ("d_model", 10**6, "d_model is 1000000; expected a number"),
        ("vocab_size", 0, "vocab_size is 0"),
        ("layers", 32, "unknown keys layers"),
        ("position_embedding_type", "relative", "unknown keys position_embedding_type"),
    ],
)
def test_each_setting_of_the_encoder_counts(key, value, message):
    with pytest.raises(ConfigError, match=rf"^config\.json: (conditioning: )?{message}"):
        text_config_from_json({**RELEASED_JSON, key: value}, "config.json")


@pytest.mark.parametrize("key", ["vocab_size", "d_model", "encoder_layers", "encoder_attention_heads", "head_dim"])
def test_a_setting_of_the_encoder_that_is_missing(key):
    with pytest.raises(ConfigError, match=f"{key} missing"):
        text_config_from_json({name: value for name, value in RELEASED_JSON.items() if name != key}, "config.json")


@pytest.mark.parametrize(
    ("place", "name", "value", "message"),
    [
        ("params", "conditioning_key", "concat", "conditioning_key is 'concat'.*supported is 'crossattn'"),
        ("params", "cond_stage_key", "class_label", "cond_stage_key 'class_label'; supported are .*BERTEmbedder with"),
        ("params", "cond_stage_key", "coordinates_bbox", "this is a layout-to-image model"),
        ("cond_stage_config", "n_embed", None, "n_embed is None"),
        ("cond_stage_config", "n_embed", 640, "1280 wide, and the text conditioning makes one 640"),
        ("cond_stage_config", "n_layer", None, "n_layer is None"),
        ("cond_stage_config", "n_layer", "many", "n_layer is 'many'"),
        ("cond_stage_config", "max_seq_len", 0, "max_seq_len is 0"),
        ("cond_stage_config", "vocab_size", 0, "vocab_size is 0"),
        ("cond_stage_config", "use_tokenizer", False, "use_tokenizer is False; supported is True"),
        ("cond_stage_config", "heads", 4, "unknown settings heads"),
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
    params["cond_stage_config"]["params"] |= {
        **{"vocab_size": 30522, "max_seq_len": 77, "device": "cpu"},
        **{"use_tokenizer": True, "embedding_dropout": 0.1},
    }
    assert compvis_model_from_yaml(data, "a.yaml").config == plain


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"conditioning": TextConfig(embed_dim=13)}, "12 wide, and the text conditioning makes one 13"),
        ({"conditioning": None}, "12 wide, and nothing says what makes it"),
        ({"unet": replace(OWN.unet, in_channels=6)}, "expected 3"),
    ],
)
def test_parts_must_agree(change, message):
    with pytest.raises(ConfigError, match=message):
        replace(OWN, **change)


def test_an_original_checkpoint_has_the_vocabulary_of_bert(tmp_path):
    """One with another has none in its file, and nothing could say which."""
    state = {**compvis_tensors(OWN)}
    torch.save(state, tmp_path / "a.ckpt")
    with pytest.raises(ConfigError, match="no vocabulary, so that of bert-base-uncased: 30522 words, and the text enc"):
        read_checkpoint(tmp_path / "a.ckpt", config=OWN)


def test_shards_and_old_names_of_a_folder(tmp_path):
    """Weights of the encoder in two files with an index, in a pickle, and in a variant."""
    folder = write_text_folder(tmp_path / "folder")
    file = folder / "bert" / "model.safetensors"
    tensors = {key: tensor.clone() for key, tensor in load_file(file).items()}
    file.unlink()
    first = dict(list(tensors.items())[:3])
    parts = {"model-00001-of-00002.safetensors": first, "model-00002-of-00002.safetensors": {**tensors}}
    for key in first:
        del parts["model-00002-of-00002.safetensors"][key]
    for name, part in parts.items():
        save_file(part, folder / "bert" / name)
    places = {key: name for name, part in parts.items() for key in part}
    index = folder / "bert" / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places, "metadata": {}}))
    assert_holds(read_checkpoint(folder), OWN, random_weights(OWN))
    for path in (index, *(folder / "bert" / name for name in parts)):
        path.unlink()
    torch.save(tensors, folder / "bert" / "pytorch_model.bin")
    assert_holds(read_checkpoint(folder), OWN, random_weights(OWN))
    (folder / "bert" / "pytorch_model.bin").unlink()
    with pytest.raises(CheckpointError, match=r"bert: no weights; expected model\.safetensors or pytorch_model\.bin"):
        read_checkpoint(folder)
    save_file(tensors, folder / "bert" / "model.fp16.safetensors")
    assert_holds(read_checkpoint(folder), OWN, random_weights(OWN))


@pytest.mark.parametrize("path", ["bert", "tokenizer"])
def test_a_checkpoint_that_was_read_is_that_of_its_folder(tmp_path, path):
    """Without its vocabulary a model has that of BERT, which is of another size; without its encoder it is none."""
    folder = write_text_folder(tmp_path / "folder")
    (folder / path).rename(folder / "away")
    with pytest.raises(LDMError, match="no tokenizer: 30522 words" if path == "tokenizer" else "nothing says"):
        read_checkpoint(folder)
    assert Path(folder).is_dir()
