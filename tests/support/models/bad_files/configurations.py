"""Configurations that ask for the impossible: in our single file, in YAML, in the JSON of diffusers."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml
from compvis_writer import DATA
from safetensors.torch import load_file, save_file

from ldm_backend.checkpoints.single_file import config_to_json
from ldm_backend.config.model import LDMConfig

from .archives import storage, table, tensor, write_archive
from .registry import UNET, VQ, bad
from .tensors import described, with_header

# Our single file


def single_file(f: Path, metadata: Mapping[str, str]) -> Path:
    """The folder's weights in one file, with that metadata instead of the true one."""
    parts = (("unet.", f / UNET), ("vqvae.", f / VQ))
    tensors = {prefix + key: value for prefix, file in parts for key, value in load_file(file).items()}
    save_file(tensors, f / "model.safetensors", metadata=dict(metadata))
    return f / "model.safetensors"


def configured(change: Callable[[dict[str, Any]], object]) -> str:
    """The JSON of a valid configuration, changed."""
    data = config_to_json(LDMConfig())
    change(data)
    return json.dumps(data)


def set_unet(**values: object) -> str:
    return configured(lambda data: data["unet"].update(values))


@bad(
    "metadata|unet|first_stage|schedule|channels|refused: a header",
    not_json="{",
    nothing="",
    deep='{"unet":' * 100_000,
    list="[1, 2]",
    text='"unet"',
    empty="{}",
    lists_for_parts='{"unet": [1], "first_stage": [2], "schedule": [3]}',
    unknown_kind=configured(lambda data: data["first_stage"].update(kind="os.system")),
    kind_that_is_a_list=configured(lambda data: data["first_stage"].update(kind=["vq"])),
    missing_setting=configured(lambda data: data["unet"].pop("attention_head_dim")),
    unknown_setting=set_unet(surprise=1),
    million_levels=set_unet(block_out_channels=[32] * 10**6, down_block_types=["DownBlock2D"] * 10**6),
    giant_levels=set_unet(block_out_channels=[2**40, 2**40, 2**40, 2**40]),
    million_layers=set_unet(layers_per_block=10**6),
    giant_input=set_unet(in_channels=10**9),
    giant_side=set_unet(sample_size=10**9),
    negative=set_unet(layers_per_block=-1),
    truth_for_a_number=set_unet(layers_per_block=True),
    fraction_for_a_number=set_unet(layers_per_block=1.5),
    nan=set_unet(norm_eps=float("nan")),
    infinite=set_unet(norm_eps=float("inf")),
    longest_number=set_unet(norm_eps=10**400),
    digits='{"unet": ' + "9" * 10_000 + "}",
    nested_value=set_unet(block_out_channels=json.loads("[" * 300 + "]" * 300)),
    giant_codebook=configured(lambda data: data["first_stage"].update(num_vq_embeddings=10**12)),
    billions_of_timesteps=configured(lambda data: data["schedule"].update(num_train_timesteps=10**12)),
    betas_that_are_no_numbers=configured(lambda data: data["schedule"].update(beta_start=float("nan"))),
    offset_beyond_the_end=configured(lambda data: data["schedule"].update(steps_offset=-(10**9))),
)
def single_file_configuration(f: Path, text: str) -> Path:
    return single_file(f, {"format": "comfyui-ldm.1", "ldm_config": text})


@bad(
    "format is .*Update|weights|configuration",
    future={"format": "comfyui-ldm.2", "ldm_config": "{}"},
    escape={"format": "\x1b[2J" * 5000, "ldm_config": "{}"},
    no_configuration={},
    strange_weights={"weights": "<script>" * 1000, "format": "comfyui-ldm.1", "ldm_config": "{}"},
)
def single_file_metadata(f: Path, metadata: Mapping[str, str]) -> Path:
    return single_file(f, metadata)


# Configurations beside the weights


def compvis_yaml(change: Callable[[dict[str, Any]], object]) -> str:
    data = yaml.safe_load((DATA / "celeba256.yaml").read_text())
    change(data["model"]["params"])
    return yaml.safe_dump(data)


def set_compvis(section: str, **values: object) -> str:
    def change(params: dict[str, Any]) -> None:
        inner = params[f"{section}_config"]["params"]
        inner.get("ddconfig", inner).update(values)

    return compvis_yaml(change)


LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{', '.join(['*' + chr(97 + n)] * 9)}]\n" for n in range(20)
)
MERGES = "a: &a {x: 1, y: 2}\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} {{<<: [{', '.join(['*' + chr(97 + n)] * 9)}]}}\n" for n in range(20)
)


@bad(
    "yaml",
    aliases=LAUGHS,
    merged_aliases=MERGES,
    alias_to_itself="a: &a [*a]",
    deep="[" * 60_000,
    deep_blocks="- " * 30_000,
    deep_maps="{a: " * 15_000,
    large="a: 1\n" * 300_000,
    binary="\x00\x01\x02",
    list="- 1",
    empty="",
    program="!!python/object/apply:os.system ['touch pwned']",
    module="a: !!python/module:evil_canary",
    name="a: !!python/name:os.system",
    bad_truth="a: !!bool 3",
    bad_number="a: !!int ''",
    bad_date="a: !!timestamp x",
    bad_day="a: 2024-99-99",
    digits=set_compvis("unet", num_res_blocks="DIGITS").replace("DIGITS", "0x" + "f" * 50_000),
    million_levels=set_compvis("unet", channel_mult=[1] * 20_000, attention_resolutions=[3] * 10_000),
    texts_for_factors=set_compvis("unet", channel_mult=["a" * 100], model_channels=10**12),
    giant_levels=set_compvis("unet", model_channels=2**40),
    million_layers=set_compvis("unet", num_res_blocks=10**6),
    giant_heads=set_compvis("unet", num_head_channels=10**12),
    giant_codebook=compvis_yaml(lambda params: params["first_stage_config"]["params"].update(n_embed=10**12)),
    levels_of_the_first_stage=set_compvis("first_stage", ch_mult=[1] * 10_000),
    target_that_is_a_list=compvis_yaml(lambda params: params["first_stage_config"].update(target=["os.system"])),
    billions_of_timesteps=compvis_yaml(lambda params: params.update(timesteps=10**12)),
    scale_that_is_no_number=compvis_yaml(lambda params: params.update(scale_factor=float("nan"))),
)
def yaml_beside_the_checkpoint(f: Path, text: str) -> Path:
    (f.parent / "evil_canary.py").write_text("open('pwned', 'w').close()\n")
    folder = f / "released"
    folder.mkdir()
    write_archive(folder / "model.ckpt", table({"model.diffusion_model.out.2.bias": tensor(storage(4), (4,), (1,))}))
    (folder / "config.yaml").write_text(text)
    return folder / "model.ckpt"


@bad("model.ckpt", scalar=(), empty=(0,), odd=(7,), long=(2**31,))
def attention_of_another_shape(f: Path, shape: tuple[int, ...]) -> Path:
    """The tensor that is taken apart on reading; the last one is a hole of 8 GB."""
    folder = f / "released"
    folder.mkdir()
    (folder / "config.yaml").write_text((DATA / "celeba256.yaml").read_text())
    keys = [line.split()[0] for line in (DATA / "celeba256.keys.txt").read_text().splitlines()]
    count = shape[0] if shape else 1
    entries = {key: described([0], [0, 0]) for key in keys}
    entries[next(key for key in keys if "qkv" in key)] = described(list(shape), [0, 4 * count])
    content = with_header(json.dumps(entries).encode())
    (folder / "model.ckpt").write_bytes(content)
    os.truncate(folder / "model.ckpt", len(content) + 4 * count)
    return folder / "model.ckpt"


@bad(
    "config.json|scheduler_config.json",
    nothing=b"",
    deep=b"[" * 100_000,
    almost_too_deep=b'{"norm_num_groups":' + b"[" * 900 + b"]" * 900 + b"}",
    binary=b"\xff\xfe\x00",
    list=b"[]",
    digits=b'{"sample_size":' + b"9" * 10_000 + b"}",
    large=b'{"a": "' + b" " * 2**21 + b'"}',
    long_key=b'{"' + b"a\\u001b[2J" * 50_000 + b'": 1}',
)
def json_text(f: Path, content: bytes) -> None:
    (f / "unet" / "config.json").write_bytes(content)


@bad("config.json")
def json_of_eight_gigabytes(f: Path) -> None:
    os.truncate(f / "unet" / "config.json", 2**33)


@bad(
    "config.json",
    million_levels={"block_out_channels": [8] * 150_000},
    no_levels={"block_out_channels": [], "down_block_types": [], "up_block_types": []},
    giant_levels={"block_out_channels": [8 * 10**9, 8 * 10**9]},
    million_layers={"layers_per_block": 10**6},
    giant_heads={"attention_head_dim": 10**9},
    no_heads={"attention_head_dim": 0},
    giant_groups={"norm_num_groups": 10**9},
    giant_input={"in_channels": 10**9, "out_channels": 10**9},
    longest_number={"norm_eps": 10**400},
    nan={"norm_eps": float("nan")},
    nested={"block_out_channels": {"a": [[[[[[1]]]]]]}},
    text={"layers_per_block": "2"},
    class_that_is_a_list={"_class_name": ["UNet2DModel"] * 1000},
    another_class={"_class_name": "os.system"},
    unknown={"class_embed_type": {"a": 1}},
)
def json_values(f: Path, values: Mapping[str, object]) -> None:
    file = f / "unet" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@bad(
    "scheduler_config.json",
    steps={"num_train_timesteps": 10**12},
    none={"num_train_timesteps": 0},
    betas={"beta_end": 10**400},
    offset={"steps_offset": 10**9},
)
def scheduler_values(f: Path, values: Mapping[str, object]) -> None:
    file = f / "scheduler" / "scheduler_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@bad(
    "do not fit|agree",
    codes={"num_vq_embeddings": 2**20},
    layers={"layers_per_block": 16},
    channels={"vq_embed_dim": 4},
)
def first_stage_of_another_size(f: Path, values: Mapping[str, object]) -> None:
    file = f / "vqvae" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@bad("do not fit")
def largest_network_that_a_configuration_may_describe(f: Path) -> None:
    """Ten levels of 8192 channels, 16 layers each, attention everywhere: built without memory, then refused."""
    levels = {"block_out_channels": [8192] * 10, "layers_per_block": 16}
    types = {"down_block_types": ["AttnDownBlock2D"] * 10, "up_block_types": ["AttnUpBlock2D"] * 10}
    json_values(f, levels | types)
