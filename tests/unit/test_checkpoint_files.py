"""Files as people have them: variants, shards, training runs, names that training left, two that may be meant."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from compvis_writer import compvis_state_dict, small_yaml
from safetensors.torch import load_file, save_file

import ldm_backend
from ldm_backend.checkpoints.checkpoint import read_checkpoint
from ldm_backend.checkpoints.file_marks import FileMark
from ldm_backend.checkpoints.inspection import inspect_checkpoint
from ldm_backend.config.compvis_yaml import compvis_model_from_yaml
from ldm_backend.errors import CheckpointError, ConfigError, LDMError
from ldm_backend.networks.first_stage import build_first_stage
from ldm_backend.networks.unet import UNet

NAME = "diffusion_pytorch_model.safetensors"


def same(folder: Path, expected: ldm_backend.LatentDiffusion, weights: str = "auto") -> None:
    loaded = ldm_backend.load(folder, device="cpu", weights=weights)
    for part in ("unet", "first_stage"):
        ours, theirs = getattr(loaded, part).state_dict(), getattr(expected, part).state_dict()
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def shard(folder: Path, stem: str, index: str, ending: str = "safetensors") -> dict[str, str]:
    """Divide a part's weights into three files; returns the index's map."""
    tensors = {key: tensor.clone() for key, tensor in load_file(folder / NAME).items()}
    (folder / NAME).unlink()
    places = {}
    for n in range(3):
        part = dict(sorted(tensors.items())[n::3])
        file = f"{stem}-{n + 1:05}-of-00003.{ending}"
        save_file(part, folder / file) if ending == "safetensors" else torch.save(part, folder / file)
        places |= dict.fromkeys(part, file)
    (folder / index).write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
    return places


@pytest.mark.parametrize("variant", ["fp16", "bf16", "non_ema"])
def test_the_only_variant_is_taken(tiny, tiny_folder, variant):
    (tiny_folder / "unet" / NAME).rename(tiny_folder / "unet" / f"diffusion_pytorch_model.{variant}.safetensors")
    same(tiny_folder, tiny)
    shutil.copy(tiny_folder / "vqvae" / NAME, tiny_folder / "unet" / "diffusion_pytorch_model.other.bin")
    with pytest.raises(CheckpointError, match=rf"{variant}.safetensors.*other.bin.*|other.bin.*{variant}") as error:
        read_checkpoint(tiny_folder)
    assert "move the others out of the folder" in str(error.value)


@pytest.mark.parametrize(
    ("stem", "index", "ending"),
    [
        ("diffusion_pytorch_model", "diffusion_pytorch_model.safetensors.index.json", "safetensors"),
        ("diffusion_pytorch_model.fp16", "diffusion_pytorch_model.safetensors.index.fp16.json", "safetensors"),
        ("diffusion_pytorch_model", "diffusion_pytorch_model.bin.index.json", "bin"),
    ],
)
def test_shards_are_read_as_their_index_says(tiny, tiny_folder, stem, index, ending):
    shard(tiny_folder / "unet", stem, index, ending)
    same(tiny_folder, tiny)
    info = inspect_checkpoint(tiny_folder)
    assert len(info.files) == 5  # index, three shards, first stage
    mark = FileMark.of(tiny_folder / "unet" / index)
    mark.check()
    with next(iter(sorted((tiny_folder / "unet").glob("*-00002-*")))).open("ab") as file:
        file.write(b"x")
    with pytest.raises(CheckpointError, match="00002-of-00003.*was changed while"):
        mark.check()


BAD_SHARDS = {
    "parent": ("../vqvae/" + NAME, "refused: it names '../vqvae/"),
    "absolute": ("/etc/passwd.bin", "refused: it names '/etc"),
    "other system": ("..\\vqvae\\a.bin", "refused: it names"),
    "drive": ("c:a.bin", "refused: it names"),
    "not there": ("a.bin", "nothing readable is there"),
    "a number": (7, "refused: it names 7"),
}


@pytest.mark.parametrize("case", BAD_SHARDS)
def test_an_index_never_leads_out_of_its_folder(tiny_folder, case):
    name, message = BAD_SHARDS[case]
    places = shard(tiny_folder / "unet", "diffusion_pytorch_model", NAME + ".index.json")
    index = tiny_folder / "unet" / (NAME + ".index.json")
    index.write_text(json.dumps({"weight_map": places | {"conv_in.weight": name}}))
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(tiny_folder)


def test_an_index_says_where_each_tensor_is(tiny_folder):
    places = shard(tiny_folder / "unet", "diffusion_pytorch_model", NAME + ".index.json")
    index = tiny_folder / "unet" / (NAME + ".index.json")
    index.write_text(json.dumps({"weight_map": {k: v for k, v in places.items() if k != "conv_in.weight"}}))
    with pytest.raises(CheckpointError, match=r"holds conv_in.weight, which the index does not look for"):
        read_checkpoint(tiny_folder)
    index.write_text(json.dumps({"weight_map": places | {"lost.weight": places["conv_in.weight"]}}))
    with pytest.raises(CheckpointError, match=r"lost.weight missing"):
        read_checkpoint(tiny_folder)
    index.write_text(json.dumps({"weight_map": [1]}))
    with pytest.raises(CheckpointError, match=r"weight_map is \[1\]"):
        read_checkpoint(tiny_folder)
    index.write_text(json.dumps({"weight_map": places}))
    save_file({"a": torch.zeros(1)}, tiny_folder / "unet" / NAME)
    with pytest.raises(CheckpointError, match=r"both .* hold the weights"):
        read_checkpoint(tiny_folder)


def test_averaged_weights_of_emamodel(tiny, tiny_folder):
    """EMAModel.save_pretrained: a folder of its own, with seven keys more; `auto` takes it."""
    extra = {"decay": 0.9999, "min_decay": 0.0, "optimization_step": 5, "update_after_step": 0}
    extra |= {"use_ema_warmup": False, "inv_gamma": 1.0, "power": 2 / 3}
    shutil.copytree(tiny_folder / "unet", tiny_folder / "unet_ema")
    config = tiny_folder / "unet_ema" / "config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | extra))
    raw = tiny_folder / "unet" / NAME
    save_file({key: 2 * tensor for key, tensor in load_file(raw).items()}, raw)
    same(tiny_folder, tiny)
    assert read_checkpoint(tiny_folder).weights == "ema"
    doubled = read_checkpoint(tiny_folder, "raw")
    assert doubled.weights == "raw"
    assert torch.equal(doubled.unet["conv_in.bias"], 2 * tiny.unet.state_dict()["conv_in.bias"])
    shutil.rmtree(tiny_folder / "unet")
    same(tiny_folder, tiny)


WRAPPERS = {
    "ddp": lambda key: f"module.{key}",
    "compiled": lambda key: f"_orig_mod.{key}",
    "compiled in ddp": lambda key: f"module._orig_mod.{key}",
    "ddp compiled": lambda key: f"_orig_mod.module.{key}",
    "a compiled part": lambda key: key.replace("mid_block.", "mid_block._orig_mod."),
}


@pytest.mark.parametrize("wrapper", WRAPPERS)
def test_names_that_wrappers_of_training_left(tiny, tiny_folder, wrapper):
    file = tiny_folder / "unet" / NAME
    save_file({WRAPPERS[wrapper](key): tensor.clone() for key, tensor in load_file(file).items()}, file)
    same(tiny_folder, tiny)


def test_a_name_with_and_without_a_wrapper(tiny_folder):
    file = tiny_folder / "unet" / NAME
    tensors = {key: tensor.clone() for key, tensor in load_file(file).items()}
    save_file(tensors | {"_orig_mod.conv_in.bias": torch.zeros(8)}, file)
    with pytest.raises(CheckpointError, match=r"conv_in.bias is there with _orig_mod. and without"):
        read_checkpoint(tiny_folder)


@pytest.fixture
def trained(tmp_path):
    """A small model of CompVis: state and YAML."""
    data = small_yaml()
    config = compvis_model_from_yaml(data, "a.yaml").config
    unet, stage = UNet(config.unet).state_dict(), build_first_stage(config.first_stage).state_dict()
    return compvis_state_dict(config, unet, stage, None), yaml.safe_dump(data), config


@pytest.mark.parametrize("table", ["state_dict", "model", "model_state_dict"])
def test_tables_where_training_scripts_put_them(trained, tmp_path, table):
    state, text, config = trained
    torch.save({table: {f"module.{k}": t for k, t in state.items()}, "epoch": 3, "step": 7}, tmp_path / "a.pt")
    (tmp_path / "a.yaml").write_text(text)
    found = read_checkpoint(tmp_path / "a.pt")
    assert found.config == config
    assert found.weights == "raw"


def test_a_table_of_averaged_weights_beside_the_plain_one(trained, tmp_path):
    state, text, _ = trained
    key = "model.diffusion_model.input_blocks.0.0.bias"
    torch.save({"model": state, "ema": state | {key: state[key] + 1}, "optimizer": {}}, tmp_path / "a.pt")
    (tmp_path / "a.yaml").write_text(text)
    for weights, stored, plus in (("auto", "ema", 1), ("ema", "ema", 1), ("raw", "raw", 0)):
        found = read_checkpoint(tmp_path / "a.pt", weights)
        assert found.weights == stored
        assert torch.equal(found.unet["conv_in.bias"], state[key] + plus)
    torch.save({"model": state, "state_dict": state}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="the tables model, state_dict may all hold"):
        read_checkpoint(tmp_path / "a.pt")
    torch.save({"model": state, "ema": {"decay": 0.9, "shadow_params": [torch.zeros(1)]}}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"shadow_params, a list without names.*save_pretrained"):
        read_checkpoint(tmp_path / "a.pt")
    assert read_checkpoint(tmp_path / "a.pt", "raw").weights == "raw"


def test_a_run_folder_of_lightning(trained, tmp_path):
    """logs/<run>/checkpoints/last.ckpt beside configs/<time>-project.yaml, given as folder or as file."""
    state, text, config = trained
    for name in ("checkpoints", "configs"):
        (tmp_path / "run" / name).mkdir(parents=True)
    file = tmp_path / "run" / "checkpoints" / "last.ckpt"
    torch.save({"state_dict": state, "global_step": 1}, file)
    (tmp_path / "run" / "configs" / "2022-01-01T00-00-00-project.yaml").write_text(text)
    (tmp_path / "run" / "configs" / "2022-01-01T00-00-00-lightning.yaml").write_text("lightning: {}")
    for path in (tmp_path / "run", file):
        assert read_checkpoint(path).config == config
    shutil.copy(file, file.with_name("epoch=000010.ckpt"))
    with pytest.raises(CheckpointError, match=r"epoch=000010.ckpt, last.ckpt may all be meant. Name one of these"):
        read_checkpoint(tmp_path / "run")
    (tmp_path / "run" / "configs" / "2022-02-02T00-00-00-project.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"2022-01.*2022-02.*Say which with config"):
        read_checkpoint(file)


def test_the_only_yaml_beside_a_file_is_its_own(trained, tmp_path):
    state, text, config = trained
    torch.save(state, tmp_path / "a.ckpt")
    (tmp_path / "ldm-vq4 final.yml").write_text(text)
    assert read_checkpoint(tmp_path / "a.ckpt").config == config
    (tmp_path / "second.yaml").write_text(text)
    with pytest.raises(ConfigError, match=r"ldm-vq4 final.yml, second.yaml may all be its configuration"):
        read_checkpoint(tmp_path / "a.ckpt")
    (tmp_path / "ldm-vq4 final.yml").unlink()
    torch.save(state, tmp_path / "second.ckpt")  # then the YAML of that name is not for the other
    with pytest.raises(ConfigError, match="no configuration"):
        read_checkpoint(tmp_path / "a.ckpt")
    with pytest.raises(LDMError, match=r"a.ckpt, second.ckpt may all be meant"):
        read_checkpoint(tmp_path)


def test_a_kl_first_stage_in_a_folder_called_vqvae(tiny_folder, tiny):
    """LDMPipeline has its first stage there whichever kind it is; the class in its configuration says which."""
    from ldm_backend.checkpoints.conversion import convert_to_folder
    from ldm_backend.config.model import KLConfig

    kl = KLConfig(
        latent_channels=3, block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4, scale_factor=0.3
    )
    stage = build_first_stage(kl).state_dict()
    (tiny_folder / "vqvae" / "config.json").write_text(json.dumps(kl.to_dict()))
    save_file(stage, tiny_folder / "vqvae" / NAME)
    found = read_checkpoint(tiny_folder)
    assert found.config.first_stage == kl
    convert_to_folder(found, tiny_folder.parent / "again")
    assert (tiny_folder.parent / "again" / "vqvae").is_dir()
    assert read_checkpoint(tiny_folder.parent / "again").config == found.config
