"""A random tensor, JSON key or YAML key in a good checkpoint of each layout: an error, never loaded in silence."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from compvis_writer import compvis_state_dict, small_yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from model_folder import write_model_folder
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ldm_backend import LatentDiffusion
from ldm_backend.checkpoints.checkpoint import load_into, read_checkpoint
from ldm_backend.checkpoints.conversion import convert_to_single_file
from ldm_backend.checkpoints.first_stage import load_first_stage
from ldm_backend.config.compvis_yaml import compvis_model_from_yaml
from ldm_backend.config.model import KLConfig, LDMConfig
from ldm_backend.errors import LDMError
from ldm_backend.networks.first_stage import build_first_stage
from ldm_backend.networks.unet import UNet

WEIGHTS = "diffusion_pytorch_model.safetensors"
FIRST_STAGE = "first_stage_model."
NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,12}(\.[a-z0-9_]{1,8}){0,3}", fullmatch=True)
# Ends that a list of prefixes would let pass, and names of other families and tools.
LIKE_KNOWN = st.sampled_from(
    ["sqrt_x", "posterior_", "scale_factor2", "model_ema.x", "first_stage_model.lossy", "betas2", "x_weight_map", "__x"]
    + ["cond_stage_model.x", "control_model.x", "lora_unet.x", "unet.x", "vqvae.x", "ema.x", "state_dict"]
)
LISTED = ("loss.", "model_ema.", f"{FIRST_STAGE}loss.", f"{FIRST_STAGE}model_ema.", "colorize", "quantize.used")
# What a setting may hold. A scaling_factor or a dropout is a word of the file, not an unknown one.
VALUES = st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=3) | st.lists(st.integers(), max_size=2)

Change = Callable[[str, Any], None]  # adds something of that name and, where it has one, of that value


@dataclass(frozen=True)
class Layout:
    """A good checkpoint: what loads it, and how something is added to each of its files."""

    load: Callable[[], Any]
    changes: dict[str, tuple[Path, Change]]


def load_all(path: Path, **arguments: Any) -> None:
    checkpoint = read_checkpoint(path, **arguments)
    load_into(UNet(checkpoint.config.unet, device="meta"), checkpoint.unet, "unet")
    load_into(build_first_stage(checkpoint.config.first_stage, device="meta"), checkpoint.first_stage, "first stage")


def tensor_in(file: Path, prefix: str = "", table: str | None = None) -> tuple[Path, Change]:
    """A tensor more, in a table of that name where the file has several."""

    def change(name: str, _value: Any) -> None:
        extra = {prefix + name: torch.zeros(1)}
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as opened:
                metadata = opened.metadata()
            save_file({key: tensor.clone() for key, tensor in load_file(file).items()} | extra, file, metadata=metadata)
            return
        whole = torch.load(file, weights_only=True)
        torch.save(whole | {table: whole[table] | extra} if table else whole | extra, file)

    return file, change


def setting_in(file: Path, *place: str) -> tuple[Path, Change]:
    """A key more, in a section of a JSON or YAML."""

    def change(name: str, value: Any) -> None:
        read, write = (yaml.safe_load, yaml.safe_dump) if file.suffix == ".yaml" else (json.loads, json.dumps)
        data = read(file.read_text())
        section = data
        for key in place:
            section = section[key]
        section[name] = value
        file.write_text(write(data))

    return file, change


def setting_of_metadata(file: Path, *place: str) -> tuple[Path, Change]:
    """Likewise in the configuration inside our single file."""

    def change(name: str, value: Any) -> None:
        with safe_open(file, framework="pt") as opened:
            metadata = opened.metadata()
        config = json.loads(metadata["ldm_config"])
        section = config
        for key in place:
            section = section[key]
        section[name] = value
        tensors = {key: tensor.clone() for key, tensor in load_file(file).items()}
        save_file(tensors, file, metadata=metadata | {"ldm_config": json.dumps(config)})

    return file, change


def hugging_face(folder: Path, config: LDMConfig, stage: str = "vqvae", unet: str = "unet") -> Layout:
    write_model_folder(folder, config)
    if stage != "vqvae":
        (folder / "vqvae").rename(folder / stage)
    parts = {"unet": unet, "first stage": stage}
    changes = {f"tensor of the {part}": tensor_in(folder / name / WEIGHTS) for part, name in parts.items()}
    changes |= {f"key of the {part}": setting_in(folder / name / "config.json") for part, name in parts.items()}
    changes["key of the schedule"] = setting_in(folder / "scheduler" / "scheduler_config.json")
    return Layout(lambda: load_all(folder), changes)


def averaged(folder: Path, config: LDMConfig) -> Layout:
    layout = hugging_face(folder, config, unet="unet_ema")
    shutil.copytree(folder / "unet", folder / "unet_ema")
    file = folder / "unet_ema" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"decay": 0.999, "optimization_step": 7}))
    return layout


def sharded(folder: Path, config: LDMConfig, variant: str = "") -> Layout:
    layout = hugging_face(folder, config)
    whole = folder / "unet" / WEIGHTS
    tensors = load_file(whole)
    files = [folder / "unet" / f"diffusion_pytorch_model-0000{n}-of-00002.safetensors" for n in (1, 2)]
    places = {key: files[index % 2].name for index, key in enumerate(tensors)}
    for file in files:
        save_file({key: tensor.clone() for key, tensor in tensors.items() if places[key] == file.name}, file)
    whole.unlink()
    index = folder / "unet" / f"{WEIGHTS}.index.json"
    index.write_text(json.dumps({"metadata": {"total_size": 1}, "weight_map": places}))
    changes = layout.changes | {"tensor of the unet": tensor_in(files[1]), "key of the index": setting_in(index)}

    def name_more(name: str, _value: Any) -> None:
        data = json.loads(index.read_text())
        data["weight_map"][name] = files[0].name
        index.write_text(json.dumps(data))

    return replace(layout, changes=changes | {"tensor of the index": (index, name_more)})


def variant(folder: Path, config: LDMConfig) -> Layout:
    layout = hugging_face(folder, config)
    file = (folder / "unet" / WEIGHTS).rename(folder / "unet" / "diffusion_pytorch_model.fp16.safetensors")
    return replace(layout, changes=layout.changes | {"tensor of the unet": tensor_in(file)})


def single_file(folder: Path, config: LDMConfig) -> Layout:
    file = folder / "model.safetensors"
    convert_to_single_file(read_checkpoint(write_model_folder(folder / "source", config)), file)
    changes = {f"tensor {prefix}": tensor_in(file, prefix) for prefix in ("", "unet.", "vqvae.")}
    for place in ((), ("unet",), ("first_stage",), ("schedule",)):
        changes[f"key of {'.'.join(place) or 'the metadata'}"] = setting_of_metadata(file, *place)
    return Layout(lambda: load_all(file), changes)


YAML_PLACES = (
    (),
    ("model",),
    ("model", "params"),
    ("model", "params", "unet_config"),
    ("model", "params", "unet_config", "params"),
    ("model", "params", "first_stage_config"),
    ("model", "params", "first_stage_config", "params"),
    ("model", "params", "first_stage_config", "params", "ddconfig"),
)


def compvis_tensors() -> dict[str, torch.Tensor]:
    data = small_yaml()
    data["model"]["params"]["unet_config"]["params"] |= {"num_res_blocks": 1}
    config = compvis_model_from_yaml(data, "config.yaml").config
    unet, stage = UNet(config.unet), build_first_stage(config.first_stage)
    return compvis_state_dict(config, unet.state_dict(), stage.state_dict(), None)


def compvis(folder: Path, file: str = "model.ckpt", config: str = "model.yaml") -> Layout:
    """The checkpoint and the YAML, both anywhere in the folder."""
    data = small_yaml()
    data["model"]["params"]["unet_config"]["params"] |= {"num_res_blocks": 1}
    for name in (file, config):
        (folder / name).parent.mkdir(exist_ok=True)
    (folder / config).write_text(yaml.safe_dump(data))
    state, table = compvis_tensors(), None
    if file.endswith(".safetensors"):
        save_file({key: tensor.clone() for key, tensor in state.items()}, folder / file)
    else:
        table = "state_dict"
        torch.save({"epoch": 3, "global_step": 100, table: state}, folder / file)
    prefixes = ("", "model.diffusion_model.", FIRST_STAGE)
    changes = {f"tensor {prefix}": tensor_in(folder / file, prefix, table) for prefix in prefixes}
    for place in YAML_PLACES:
        changes[f"key of {'.'.join(place) or 'the YAML'}"] = setting_in(folder / config, *place)
    return Layout(lambda: load_all(folder), changes)


def first_stage_alone(folder: Path, config: LDMConfig, names: str) -> Layout:
    """A first stage under the names of CompVis, of diffusers, or in diffusers' folder with its configuration."""
    stage = build_first_stage(config.first_stage)
    changes: dict[str, tuple[Path, Change]] = {}
    if names == "folder":
        write_model_folder(folder / "whole", config)
        path = folder / "whole" / "vqvae"
        changes = {"tensor": tensor_in(path / WEIGHTS), "key": setting_in(path / "config.json")}
    else:
        path = folder / ("alone.safetensors" if names == "diffusers" else "alone.ckpt")
        state = {f"{key}": tensor.clone() for key, tensor in stage.state_dict().items()}
        if names == "compvis":
            whole = compvis_state_dict(config, UNet(config.unet).state_dict(), stage.state_dict(), None)
            state = {key.removeprefix(FIRST_STAGE): t for key, t in whole.items() if key.startswith(FIRST_STAGE)}
            torch.save(state, path)
        else:
            save_file(state, path)
        changes = {"tensor": tensor_in(path)}
    return Layout(lambda: load_first_stage(path), changes)


def first_stage_of_whole(folder: Path) -> Layout:
    file = folder / "whole.ckpt"
    torch.save(compvis_tensors(), file)
    return Layout(lambda: load_first_stage(file), {"tensor": tensor_in(file, FIRST_STAGE)})


def wide(config: LDMConfig, kl: bool) -> LDMConfig:
    """With 32 groups, which a file without configuration cannot say."""
    stage: dict[str, Any] = {"block_out_channels": (32, 32), "norm_num_groups": 32}
    if kl:
        return replace(config, first_stage=KLConfig(latent_channels=3, layers_per_block=1, **stage))
    return replace(config, first_stage=replace(config.first_stage, **stage))


LAYOUTS: dict[str, Callable[[Path, LDMConfig], Layout]] = {
    "Hugging Face": hugging_face,
    "Hugging Face, KL": lambda folder, config: hugging_face(folder, wide(config, kl=True), stage="vae"),
    "EMAModel": averaged,
    "shards": sharded,
    "variant": variant,
    "single file": single_file,
    "CompVis": lambda folder, _: compvis(folder),
    "CompVis as safetensors": lambda folder, _: compvis(folder, "model.safetensors", "config.yaml"),
    "Lightning": lambda folder, _: compvis(folder, "checkpoints/last.ckpt", "configs/2022-01-01T00-00-00-project.yaml"),
    "first stage in a whole checkpoint": lambda folder, _: first_stage_of_whole(folder),
    **{
        f"first stage alone, {'KL' if kl else 'VQ'}, {names}": (
            lambda folder, config, kl=kl, names=names: first_stage_alone(folder, wide(config, kl), names)
        )
        for kl in (False, True)
        for names in ("compvis", "diffusers", "folder")
    },
}


@pytest.fixture(scope="module", params=LAYOUTS)
def layout(
    request: pytest.FixtureRequest, tiny: LatentDiffusion, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Layout]:
    folder = tmp_path_factory.mktemp("layout")
    made = LAYOUTS[request.param](folder, tiny.config)
    made.load()
    yield made
    shutil.rmtree(folder)


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None)
@given(name=NAMES | LIKE_KNOWN, value=VALUES, chosen=st.integers(0, 99))
def test_what_is_unknown_is_an_error(layout, name, value, chosen):
    if not name.startswith(LISTED):
        file, change = list(layout.changes.values())[chosen % len(layout.changes)]
        refuses(layout, file, change, name, value)


def test_each_place_is_looked_at(layout):
    for file, change in layout.changes.values():
        refuses(layout, file, change, "surplus", 1)


def refuses(layout: Layout, file: Path, change: Change, name: str, value: Any) -> None:
    good = file.read_bytes()
    try:
        change(name, value)
        with pytest.raises(LDMError) as error:
            layout.load()
        assert len(str(error.value)) < 1000
    finally:
        file.write_bytes(good)
