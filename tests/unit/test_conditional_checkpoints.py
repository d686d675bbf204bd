"""Checkpoints of the models that see something beside the noise: every layout, and none taken for another."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from checkpoint_parts import assert_every_tensor_has_a_place, assert_holds, meta_file
from conditional_models import (
    CONFIGS,
    INPAINTING,
    RELEASES,
    SEMANTIC,
    SUPER_RESOLUTION,
    compvis_tensors,
    random_weights,
    write_conditional_folder,
)
from model_folder import write_model_folder
from safetensors.torch import load_file, save_file

import ldm_backend
from ldm_backend.checkpoints.checkpoint import read_checkpoint
from ldm_backend.checkpoints.compvis import from_compvis
from ldm_backend.checkpoints.conditioner import conditioner_from_compvis
from ldm_backend.checkpoints.configuration import fitting_presets
from ldm_backend.checkpoints.conversion import convert_to_folder, convert_to_single_file
from ldm_backend.checkpoints.inspection import inspect_checkpoint
from ldm_backend.config.model import LDMConfig
from ldm_backend.config.presets import PRESETS
from ldm_backend.errors import CheckpointError, ConfigError, InputError, LDMError
from ldm_backend.networks.unet import UNet
from ldm_backend.verification import verify_checkpoint

COPY = "cond_stage_model."
MAP = COPY + "channel_mapper.weight"


def write_ckpt(folder: Path, config: LDMConfig, **changes: torch.Tensor) -> Path:
    """As training leaves it: a pickle with the optimiser's state beside the tensors."""
    adam = {"state": {0: {"step": 1, "exp_avg": torch.ones(7)}}, "param_groups": [{"lr": 1e-6, "params": [0]}]}
    table = {"state_dict": compvis_tensors(config) | changes, "optimizer_states": [adam], "global_step": 7}
    torch.save(table, folder / "last.ckpt")
    return folder / "last.ckpt"


@pytest.mark.parametrize("release", RELEASES)
def test_every_published_tensor_finds_its_place(release):
    file, config = meta_file(release), PRESETS[RELEASES[release]]
    assert_every_tensor_has_a_place(file, config)


@pytest.mark.parametrize("release", [*RELEASES, "celeba256", "lsun_churches256"])
def test_the_presets_that_fit_are_told_from_the_tensors(release):
    fitting = fitting_presets(meta_file(release).tensors)
    assert (
        fitting
        == {
            "bsr_sr": ["super-resolution-4x"],
            "inpainting_big": ["inpainting-512"],
            "semantic_synthesis256": ["semantic-synthesis-256", "semantic-synthesis-512"],
            "semantic_synthesis512": ["semantic-synthesis-256", "semantic-synthesis-512"],
            "celeba256": ["celebahq-256", "ffhq-256", "lsun-bedrooms-256"],
            "lsun_churches256": ["lsun-churches-256"],
        }[release]
    )


@pytest.mark.parametrize("release", [*RELEASES, "celeba256"])
@pytest.mark.parametrize("preset", PRESETS)
def test_a_published_file_is_taken_for_no_other_model(release, preset):
    """By the names of its tensors and their shapes; what one preset cannot tell from another is the same model."""
    file, config = meta_file(release), PRESETS[preset]
    try:
        unet, _ = from_compvis(file, config, "raw")
        conditioner_from_compvis(file, config)
        expected = {key: tensor.shape for key, tensor in UNet(config.unet, device="meta").state_dict().items()}
        taken = {key: tensor.shape for key, tensor in unet.items()} == expected
    except CheckpointError:
        taken = False
    assert taken == (preset in fitting_presets(file.tensors))


@pytest.mark.parametrize("task", CONFIGS)
@pytest.mark.parametrize(("weights", "factor"), [("auto", 2), ("raw", 1)])
def test_original_checkpoints(tmp_path, task, weights, factor):
    """Pickled with Adam's state, and as safetensors."""
    config = CONFIGS[task]
    ckpt = write_ckpt(tmp_path, config)
    assert_holds(read_checkpoint(ckpt, weights, config), config, random_weights(config), factor)
    save_file({key: tensor.clone() for key, tensor in compvis_tensors(config).items()}, tmp_path / "a.safetensors")
    assert_holds(read_checkpoint(tmp_path / "a.safetensors", weights, config), config, random_weights(config), factor)


@pytest.mark.parametrize("task", CONFIGS)
@pytest.mark.parametrize("layout", ["compvis", "huggingface"])
def test_conversion_there_and_back(tmp_path, task, layout):
    config, factor = CONFIGS[task], 2 if layout == "compvis" else 1
    if layout == "compvis":
        source = read_checkpoint(write_ckpt(tmp_path, config), config=config)
    else:
        source = read_checkpoint(write_conditional_folder(tmp_path / "folder", config))
    assert source.layout == layout
    assert_holds(source, config, random_weights(config), factor)
    convert_to_single_file(source, tmp_path / "single.safetensors")
    single = read_checkpoint(tmp_path / "single.safetensors")
    assert_holds(single, config, random_weights(config), factor)
    limits = convert_to_folder(single, tmp_path / "converted")
    assert_holds(read_checkpoint(tmp_path / "converted"), config, random_weights(config), factor)
    index = tmp_path / "converted" / "model_index.json"
    if task == "super-resolution":
        assert json.loads(index.read_text())["_class_name"] == "LDMSuperResolutionPipeline"
        assert "`LDMSuperResolutionPipeline` loads it whole" in (tmp_path / "converted" / "README.md").read_text()
        assert not limits
    else:
        assert not index.exists()
        assert any(f"no pipeline for this kind of model ({task})" in limit for limit in limits)


def test_a_half_precision_file_is_half_as_large_and_reads_as_that(tmp_path):
    convert_to_single_file(read_checkpoint(write_ckpt(tmp_path, SEMANTIC), config=SEMANTIC), tmp_path / "a.sft", "fp16")
    weights = random_weights(SEMANTIC).conditioner["channel_mapper.weight"]
    assert torch.equal(read_checkpoint(tmp_path / "a.sft").conditioner["channel_mapper.weight"], weights.half())


@pytest.mark.parametrize("task", CONFIGS)
def test_inspection_and_loading_say_the_task(tmp_path, task):
    config = CONFIGS[task]
    ckpt = write_ckpt(tmp_path, config)
    info = inspect_checkpoint(ckpt, config)
    assert (info.task, info.problem) == (task, None)
    assert info.conditioner_parameters == (15 if task == "semantic-synthesis" else 0)
    model = ldm_backend.load(ckpt, "cpu", config=config)
    assert (model.task, model.conditioner is None) == (task, task != "semantic-synthesis")
    assert inspect_checkpoint(ckpt).task is None


@pytest.mark.parametrize("task", CONFIGS)
def test_what_draws_from_noise_alone_refuses_them(tmp_path, task):
    config = CONFIGS[task]
    ckpt = write_ckpt(tmp_path, config)
    functions = {"super-resolution": "upscale", "inpainting": "inpaint", "semantic-synthesis": "synthesise"}
    words = rf"generate without a conditioning takes.*{task} model.*ldm_backend\.{functions[task]}"
    with pytest.raises(InputError, match=words):
        ldm_backend.generate(ldm_backend.load(ckpt, "cpu", config=config), [1], 2)
    with pytest.raises(InputError, match=f"verify takes an unconditional model, and this one is an? {task} model"):
        verify_checkpoint(ckpt, "cpu", config=config)


@pytest.mark.parametrize("found", CONFIGS)
@pytest.mark.parametrize("given", [*CONFIGS, "unconditional"])
def test_no_model_loads_as_another_task(tmp_path, tiny, found, given):
    if found == given:
        return
    config = CONFIGS.get(given, tiny.config)
    with pytest.raises(LDMError, match=r"last\.ckpt"):
        ldm_backend.load(write_ckpt(tmp_path, CONFIGS[found]), "cpu", config=config)
    folder = write_conditional_folder(tmp_path / "folder", CONFIGS[found])
    with pytest.raises(LDMError, match="folder"):
        ldm_backend.load(folder, "cpu", config=config)


def test_a_single_file_is_no_other_task(tmp_path):
    for config, other in ((SEMANTIC, SUPER_RESOLUTION), (SUPER_RESOLUTION, SEMANTIC)):
        file = tmp_path / f"{config.task}.safetensors"
        convert_to_single_file(read_checkpoint(write_ckpt(tmp_path, config), config=config), file)
        with pytest.raises(CheckpointError, match=r"the conditioning does not fit.*channel_mapper\.weight"):
            read_checkpoint(file, config=other)


def test_a_repeated_first_stage_is_skipped_only_where_it_is_one(tmp_path):
    """Its name, its shape and its numbers."""
    key = COPY + "decoder.conv_in.weight"
    plain = compvis_tensors(INPAINTING)
    reads = {
        "as it is": plain,
        "once": {name: tensor for name, tensor in plain.items() if not name.startswith(COPY)},
        "in part": {name: tensor for name, tensor in plain.items() if not name.startswith(COPY + "encoder")},
        "copied": {name: tensor.clone() for name, tensor in plain.items()},
        "with its loss": plain | {COPY + "loss.discriminator.main.0.weight": torch.zeros(1)},
    }
    for name, state in reads.items():
        torch.save(state, tmp_path / "a.ckpt")
        assert_holds(read_checkpoint(tmp_path / "a.ckpt", config=INPAINTING), INPAINTING, random_weights(INPAINTING), 2)
        assert name
    for changed in (
        {key: plain[key] + 1},
        {key: plain[key][:1]},
        {key: plain[key].half()},
        {COPY + "decoder.conv_in.scale": torch.zeros(1)},
        {COPY + "embedding.weight": torch.zeros(1001, 512)},
        {MAP: torch.zeros(3, 5, 1, 1)},
    ):
        torch.save(plain | changed, tmp_path / "a.ckpt")
        with pytest.raises(CheckpointError, match=r"differ from first_stage_model\.\*"):
            read_checkpoint(tmp_path / "a.ckpt", config=INPAINTING)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({MAP: torch.zeros(3, 6, 1, 1)}, r"channel_mapper\.weight is \(3, 6, 1, 1\), expected \(3, 5, 1, 1\)"),
        ({COPY + "channel_mapper.bias": torch.zeros(3)}, r"unexpected keys: cond_stage_model\.channel_mapper\.bias"),
        ({COPY + "x": torch.zeros(3)}, r"unexpected keys: cond_stage_model\.x"),
    ],
)
def test_the_map_of_labels_is_taken_whole(tmp_path, changes, message):
    torch.save(compvis_tensors(SEMANTIC) | changes, tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError, match=message):
        read_checkpoint(tmp_path / "a.ckpt", config=SEMANTIC)


def test_the_map_of_labels_must_be_there_and_finite(tmp_path):
    state = compvis_tensors(SEMANTIC)
    torch.save(state | {MAP: state[MAP] * torch.nan}, tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError, match=r"channel_mapper\.weight holds NaN"):
        ldm_backend.load(tmp_path / "a.ckpt", "cpu", config=SEMANTIC)
    del state[MAP]
    torch.save(state, tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError, match=r"channel_mapper\.weight is missing"):
        read_checkpoint(tmp_path / "a.ckpt", config=SEMANTIC)
    folder = write_conditional_folder(tmp_path / "folder", SEMANTIC)
    (folder / "conditioner" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="no weights"):
        read_checkpoint(folder)


def test_an_unknown_tensor_of_the_conditioning_is_an_error_elsewhere(tmp_path, tiny):
    """A super-resolution model has none, and an unconditional one has none."""
    torch.save(compvis_tensors(SUPER_RESOLUTION) | {COPY + "weight": torch.zeros(1)}, tmp_path / "a.ckpt")
    with pytest.raises(CheckpointError, match=r"unexpected keys: cond_stage_model\.weight"):
        read_checkpoint(tmp_path / "a.ckpt", config=SUPER_RESOLUTION)
    folder = write_conditional_folder(tmp_path / "folder", SEMANTIC)
    file = folder / "conditioner" / "diffusion_pytorch_model.safetensors"
    save_file(load_file(file) | {"x": torch.zeros(1)}, file)
    with pytest.raises(CheckpointError, match="conditioning does not fit"):
        read_checkpoint(folder)


def test_yaml_beside_an_original_checkpoint(tmp_path):
    """The released layout of a model, at the size that its YAML asks for, in half precision."""
    data = yaml.safe_load((Path(__file__).parents[1] / "data/compvis/semantic_synthesis256.yaml").read_text())
    params = data["model"]["params"]
    params["unet_config"]["params"] |= {"model_channels": 32, "channel_mult": [1, 1, 2], "num_heads": 2}
    params["first_stage_config"]["params"]["n_embed"] = 16
    params["first_stage_config"]["params"]["ddconfig"]["ch"] = 32
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(data))
    from ldm_backend.config.compvis_yaml import compvis_model_from_yaml

    config = compvis_model_from_yaml(data, "config.yaml").config
    write_ckpt(tmp_path, config)
    assert_holds(read_checkpoint(tmp_path), config, random_weights(config), 2)


def test_a_folder_says_what_its_unet_sees(tmp_path):
    folder = write_conditional_folder(tmp_path / "folder", SUPER_RESOLUTION)
    (folder / "model_index.json").write_text(json.dumps({"_class_name": "LDMPipeline"}))
    with pytest.raises(ConfigError, match=r"6 input and 3 output.*names 'LDMPipeline'; expected LDMSuper.*with config"):
        read_checkpoint(folder)
    (folder / "model_index.json").unlink()
    with pytest.raises(ConfigError, match="what that is nothing says: .* names None"):
        read_checkpoint(folder)
    assert read_checkpoint(folder, config=SUPER_RESOLUTION).config.task == "super-resolution"
    (folder / "conditioner").mkdir()
    (folder / "conditioner" / "config.json").write_text('{"kind": "masked-image"}')
    with pytest.raises(ConfigError, match="expected 7"):
        read_checkpoint(folder)
    shutil.rmtree(folder)


def test_an_index_of_an_unconditional_folder_is_not_read(tmp_path, tiny):
    """Only what decides something is: a broken one was no reason to refuse before."""
    folder = write_model_folder(tmp_path / "folder", tiny.config)
    (folder / "model_index.json").write_text("{")
    assert read_checkpoint(folder).config == tiny.config
