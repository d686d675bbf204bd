"""Each tensor and each setting is used, or is on a list of those that cannot matter, or is an error."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from compvis_writer import compvis_state_dict, small_yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from ldm_backend.checkpoints.checkpoint import Checkpoint, load_into, read_checkpoint
from ldm_backend.checkpoints.conversion import convert_to_single_file
from ldm_backend.checkpoints.first_stage import load_first_stage
from ldm_backend.config.compvis_yaml import compvis_model_from_yaml, read_compvis_model
from ldm_backend.config.model import KLConfig, LDMConfig, UNetConfig, VQConfig
from ldm_backend.errors import CheckpointError, ConfigError, LDMError
from ldm_backend.networks.first_stage import build_first_stage
from ldm_backend.networks.unet import UNet

QUIET = settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture], database=None
)
# Names as anybody might call a tensor or a setting; and ends that a list of prefixes would let pass.
NAMES = st.from_regex(r"[a-z][a-z0-9_]{0,12}(\.[a-z0-9_]{1,8}){0,3}", fullmatch=True)
LIKE_KNOWN = st.sampled_from(
    ["sqrt_x", "posterior_", "ddim_x", "scale_factor2", "model_ema.x", "first_stage_model.lossy", "betas2", "_x", "__x"]
)
KINDS = {"unet/config.json": UNetConfig, "vqvae/config.json": VQConfig}


def load_all(checkpoint: Checkpoint) -> None:
    load_into(UNet(checkpoint.config.unet, device="meta"), checkpoint.unet, "unet")
    load_into(build_first_stage(checkpoint.config.first_stage, device="meta"), checkpoint.first_stage, "first stage")


@pytest.fixture
def released(tmp_path) -> tuple[Path, dict[str, torch.Tensor], dict[str, Any]]:
    """A CompVis checkpoint as training leaves it: folder, tensors, YAML."""
    data = small_yaml()
    config = compvis_model_from_yaml(data, "config.yaml").config
    unet, stage = UNet(config.unet), build_first_stage(config.first_stage)
    state = compvis_state_dict(config, unet.state_dict(), stage.state_dict(), unet.state_dict())
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(data))
    return tmp_path, state, data


@pytest.mark.slow
@QUIET
@given(name=NAMES | LIKE_KNOWN)
def test_an_unknown_tensor_is_an_error_in_every_layout(tiny_folder, released, name):
    folder, state, _ = released
    if f"first_stage_model.{name}".startswith(("first_stage_model.loss.", "first_stage_model.model_ema.")):
        return  # listed
    extra = {name: torch.zeros(1)}
    for extended in (state | extra, state | {f"model.diffusion_model.{name}": torch.zeros(1)}):
        torch.save(extended, folder / "model.ckpt")
        with pytest.raises(LDMError):
            load_all(read_checkpoint(folder / "model.ckpt"))
    for part in ("unet", "vqvae"):
        file = tiny_folder / part / "diffusion_pytorch_model.safetensors"
        good = {key: tensor.clone() for key, tensor in load_file(file).items()}
        save_file(good | extra, file)
        with pytest.raises(CheckpointError, match="unexpected keys"):
            load_all(read_checkpoint(tiny_folder))
        save_file(good, file)
    single = tiny_folder.parent / "single.safetensors"
    if not single.exists():
        convert_to_single_file(read_checkpoint(tiny_folder), single)
    tensors = load_file(single)
    with safe_open(single, framework="pt") as opened:
        metadata = opened.metadata()
    save_file(tensors | extra, tiny_folder.parent / "extended.safetensors", metadata=metadata)
    with pytest.raises(CheckpointError, match="unexpected keys"):
        load_all(read_checkpoint(tiny_folder.parent / "extended.safetensors"))


@QUIET
@given(name=NAMES | LIKE_KNOWN)
def test_an_unknown_tensor_of_a_first_stage_is_an_error(released, name):
    folder, state, _ = released
    stage = {k.removeprefix("first_stage_model."): t for k, t in state.items() if k.startswith("first_stage_model.")}
    if name.startswith(("loss.", "model_ema.")):
        return
    for file, tensors in (
        ("alone.ckpt", stage | {name: torch.zeros(1)}),
        ("whole.ckpt", state | {f"first_stage_model.{name}": torch.zeros(1)}),
    ):
        torch.save(tensors, folder / file)
        with pytest.raises(CheckpointError, match=r"unexpected keys|holds no first stage"):
            load_first_stage(folder / file)


@pytest.mark.parametrize(
    "name", ["loss.discriminator.main.0.weight", "model_ema.encoderconv_inweight", "colorize", "quantize.used"]
)
def test_what_only_training_needs_is_listed(released, name):
    folder, state, _ = released
    torch.save(state | {f"first_stage_model.{name}": torch.zeros(1)}, folder / "model.ckpt")
    load_all(read_checkpoint(folder / "model.ckpt"))
    load_first_stage(folder / "model.ckpt")


@QUIET
@given(name=NAMES | LIKE_KNOWN, value=st.none() | st.booleans() | st.integers() | st.text(max_size=5))
@pytest.mark.parametrize("part", ["unet/config.json", "vqvae/config.json", "scheduler/scheduler_config.json"])
def test_an_unknown_key_of_json_is_an_error(tiny_folder, part, name, value):
    file = tiny_folder / part
    good = json.loads(file.read_text())
    if name in good:
        return
    file.write_text(json.dumps(good | {name: value}))
    with pytest.raises(ConfigError, match="unknown keys"):
        read_checkpoint(tiny_folder)
    file.write_text(json.dumps(good))


PLACES = (
    (),
    ("model",),
    ("model", "params"),
    ("model", "params", "unet_config"),
    ("model", "params", "unet_config", "params"),
    ("model", "params", "first_stage_config"),
    ("model", "params", "first_stage_config", "params"),
    ("model", "params", "first_stage_config", "params", "ddconfig"),
)


@QUIET
@given(name=NAMES | LIKE_KNOWN, value=st.none() | st.booleans() | st.integers() | st.lists(st.integers(), max_size=2))
@pytest.mark.parametrize("place", PLACES)
def test_an_unknown_setting_of_yaml_is_an_error(tmp_path, place, name, value):
    data = small_yaml()
    section = data
    for key in place:
        section = section[key]
    section[name] = value
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(data))
    with pytest.raises(ConfigError, match="unknown settings"):
        read_compvis_model(tmp_path / "a.yaml")


# (section below model.params, setting, value) -> what the message says
UNET, STAGE = ("unet_config", "params"), ("first_stage_config", "params")
DD = (*STAGE, "ddconfig")
REFUSED = [
    (DD, "tanh_out", True, "tanh_out is True; supported is False. A network"),
    (DD, "give_pre_end", True, "give_pre_end"),
    (DD, "resamp_with_conv", False, "resamp_with_conv is False"),
    (DD, "use_linear_attn", True, "use_linear_attn"),
    (DD, "attn_type", "linear", "attn_type is 'linear'"),
    (DD, "double_z", True, "double_z is True; expected False"),
    (DD, "out_ch", 4, "out_ch 4; expected 3"),
    (UNET, "num_classes", 1000, "num_classes is 1000.*classes and layouts are not implemented"),
    (UNET, "n_embed", 8192, "n_embed"),
    (UNET, "conv_resample", False, "conv_resample"),
    (UNET, "use_new_attention_order", True, "use_new_attention_order"),
    (UNET, "dims", 3, "dims is 3"),
    ((), "v_posterior", 0.5, "v_posterior is 0.5"),
    ((), "cond_stage_config", {"target": "a.BERTEmbedder"}, "cond_stage_config.*BERTEmbedder with cond_stage_key cap"),
    ((), "cond_stage_config", {"target": "a.FrozenCLIPEmbedder"}, "cond_stage_config.*a text-to-image model such as"),
    ((), "scale_by_std", "yes", "scale_by_std is 'yes'; expected true or false"),
]


@pytest.mark.parametrize(("place", "name", "value", "message"), REFUSED, ids=[case[1] for case in REFUSED])
def test_a_setting_that_changes_the_network_is_refused(place, name, value, message):
    data = small_yaml()
    section = data["model"]["params"]
    for key in place:
        section = section[key]
    section[name] = value
    with pytest.raises(ConfigError, match=message):
        compvis_model_from_yaml(data, "a.yaml")


def test_heads_of_the_way_up_count_where_heads_are_a_number():
    data = small_yaml()
    unet = data["model"]["params"]["unet_config"]["params"]
    unet["num_heads_upsample"] = 4
    assert compvis_model_from_yaml(data, "a.yaml").config  # num_head_channels says all
    del unet["num_head_channels"]
    unet["num_heads"] = 8
    with pytest.raises(ConfigError, match="num_heads_upsample is 4 and num_heads 8"):
        compvis_model_from_yaml(data, "a.yaml")


def test_settings_that_cannot_change_a_picture_are_no_reason_to_refuse():
    plain, data = small_yaml(), small_yaml()
    params = data["model"]["params"]
    params |= {"use_ema": False, "concat_mode": True, "clip_denoised": True, "loss_type": "l1", "log_every_t": 7}
    params["unet_config"]["params"] |= {"dropout": 0.1, "use_checkpoint": True, "legacy": False, "use_fp16": False}
    params["first_stage_config"]["params"] |= {"colorize_nlabels": 182, "remap": None, "use_ema": True}
    params["first_stage_config"]["params"]["ddconfig"]["dropout"] = 0.3
    data["model"]["target"] = "mylab.diffusion.LatentDiffusion"
    params["unet_config"]["target"] = "mylab.nets.UNetModel"
    params["first_stage_config"]["target"] = "taming.fork.VQModelInterface"
    assert compvis_model_from_yaml(data, "a.yaml").config == compvis_model_from_yaml(plain, "a.yaml").config
    data["model"]["target"] = "mylab.diffusion.LatentUpscaleDiffusion"
    with pytest.raises(ConfigError, match="LatentUpscaleDiffusion"):
        compvis_model_from_yaml(data, "a.yaml")


def test_the_scale_factor_is_somebodys_word(released):
    """With scale_by_std only the checkpoint has it; two that differ are an error; `scale_factor` goes first."""
    folder, state, data = released
    file = folder / "model.ckpt"
    data["model"]["params"]["scale_by_std"] = True
    (folder / "config.yaml").write_text(yaml.safe_dump(data))
    torch.save(state, file)
    with pytest.raises(ConfigError, match=r"no scale_factor.*scale_by_std.*Say it with scale_factor"):
        read_checkpoint(file)
    assert read_checkpoint(file, scale_factor=0.5).config.first_stage.scale_factor == 0.5
    torch.save(state | {"scale_factor": torch.tensor(0.25)}, file)
    assert read_checkpoint(file).config.first_stage.scale_factor == 0.25
    assert load_first_stage(file).config.scale_factor == 0.25
    data["model"]["params"] |= {"scale_by_std": False, "scale_factor": 0.18215}
    (folder / "config.yaml").write_text(yaml.safe_dump(data))
    with pytest.raises(ConfigError, match=r"scale_factor is 0.25 in the checkpoint and 0.18215 in"):
        read_checkpoint(file)
    torch.save(state | {"scale_factor": torch.tensor(0.18215)}, file)
    assert read_checkpoint(file).config.first_stage.scale_factor == pytest.approx(0.18215)
    data["model"]["params"]["scale_factor"] = "many"
    (folder / "config.yaml").write_text(yaml.safe_dump(data))
    assert read_checkpoint(file, scale_factor=2).config.first_stage.scale_factor == 2.0


@pytest.mark.parametrize("own_buffer", [True, False])
def test_a_kl_first_stage_of_a_whole_checkpoint_needs_its_factor(tmp_path, own_buffer):
    """Without its buffer only a YAML knows it, and 1.0 would be a plausible wrong picture."""
    unet = UNetConfig(
        in_channels=4,
        out_channels=4,
        block_out_channels=(32, 32),
        down_block_types=("DownBlock2D",) * 2,
        up_block_types=("UpBlock2D",) * 2,
        norm_num_groups=4,
        attention_head_dim=8,
    )
    config = LDMConfig(unet, KLConfig(block_out_channels=(32, 32), layers_per_block=1))
    unet_tensors, stage_tensors = UNet(config.unet).state_dict(), build_first_stage(config.first_stage).state_dict()
    state = compvis_state_dict(config, unet_tensors, stage_tensors, None)
    file = tmp_path / "whole.ckpt"
    torch.save(state | ({"scale_factor": torch.tensor(0.25)} if own_buffer else {}), file)
    if own_buffer:
        assert load_first_stage(file).config.scale_factor == 0.25
    else:
        with pytest.raises(CheckpointError, match=r"no scale_factor.*Say it with scale_factor.*1\.0 for latents"):
            load_first_stage(file)
    assert load_first_stage(file, scale_factor=0.5).config.scale_factor == 0.5
    with pytest.raises(ConfigError, match="scale_factor is -1"):
        load_first_stage(file, scale_factor=-1)
    stage = {k.removeprefix("first_stage_model."): t for k, t in state.items() if k.startswith("first_stage_model.")}
    torch.save(stage, file)  # alone it has latents of its own
    assert load_first_stage(file).config.scale_factor == 1.0
    assert load_first_stage(file, scale_factor=0.5).config.scale_factor == 0.5


def test_use_ema_false_with_two_sets_of_weights_asks_which(released):
    folder, state, data = released
    data["model"]["params"]["use_ema"] = False
    (folder / "config.yaml").write_text(yaml.safe_dump(data))
    torch.save(state, folder / "model.ckpt")
    with pytest.raises(CheckpointError, match=r"use_ema is False in .*weights 'ema' or 'raw'"):
        read_checkpoint(folder)
    assert read_checkpoint(folder, "raw").weights == "raw"
    torch.save({key: t for key, t in state.items() if not key.startswith("model_ema.")}, folder / "model.ckpt")
    assert read_checkpoint(folder).weights == "raw"


def test_a_kl_configuration_without_its_factor_has_diffusers_default(caplog):
    data = KLConfig().to_dict()
    del data["scaling_factor"]
    assert KLConfig.from_dict(data).scale_factor == 0.18215
    assert "no scaling_factor; diffusers' default 0.18215 is taken" in caplog.text


def test_the_given_scale_factor_goes_before_what_a_file_says(tiny_folder):
    file = tiny_folder / "vqvae" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"scale_factor": "many"}))
    with pytest.raises(ConfigError, match="scale_factor is 'many'"):
        read_checkpoint(tiny_folder)
    assert read_checkpoint(tiny_folder, scale_factor=3).config.first_stage.scale_factor == 3.0


def test_a_given_configuration_counts_for_a_folder(tiny, tiny_folder):
    (tiny_folder / "unet" / "config.json").unlink()
    assert read_checkpoint(tiny_folder, config=tiny.config).config == tiny.config
    with pytest.raises(CheckpointError, match="do not fit"):
        load_all(read_checkpoint(tiny_folder, config="celebahq-256"))


def test_two_keys_of_one_name_are_an_error(tiny_folder, tmp_path):
    file = tiny_folder / "unet" / "config.json"
    file.write_text(file.read_text().rstrip().removesuffix("}") + ', "attention_head_dim": 4}')
    with pytest.raises(CheckpointError, match="key 'attention_head_dim' twice"):
        read_checkpoint(tiny_folder)
    (tmp_path / "a.yaml").write_text("model:\n  target: a\n  target: b\n")
    with pytest.raises(ConfigError, match="target is there twice"):
        read_compvis_model(tmp_path / "a.yaml")


def test_numbers_and_references_are_those_of_omegaconf(tmp_path):
    data = small_yaml()
    params = data["model"]["params"]
    params |= {"linear_start": 0.0015, "linear_end": 0.0195, "timesteps": "${data.steps}"}
    params["unet_config"]["params"] |= {"in_channels": "${model.params.channels}", "image_size": "${model.params.side}"}
    params["first_stage_config"]["params"]["ddconfig"]["ch_mult"] = "${data.mult}"
    params["ckpt_path"] = "${oc.env:WEIGHTS}/a.ckpt"
    params |= {"channels": 3, "monitor": "${model.params.nothing}"}
    data["data"] = {"steps": "${data.again}", "again": 1000, "mult": [1, "${data.two}", 4], "two": 2, "side": 64}
    params["unet_config"]["params"]["image_size"] = "${data.side}"
    text = yaml.safe_dump(data).replace("0.0015", "15e-4").replace("0.0195", "1.95E-2")
    (tmp_path / "a.yaml").write_text(text)
    plain = small_yaml()
    assert read_compvis_model(tmp_path / "a.yaml").config == compvis_model_from_yaml(plain, "a.yaml").config


@pytest.mark.parametrize(
    "text", ["${oc.env:T}", "${..a}", "${model.params.nothing}", "1${data.x}", "${model.params.timesteps}"]
)
def test_a_reference_that_cannot_be_followed_is_refused_where_it_matters(tmp_path, text):
    data = copy.deepcopy(small_yaml())
    data["model"]["params"]["timesteps"] = text
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(data))
    with pytest.raises(ConfigError, match=r"timesteps is '.*only those to a value of the same file are followed"):
        read_compvis_model(tmp_path / "a.yaml")


def test_references_cannot_grow_without_end(tmp_path):
    levels = {f"l{n}": [f"${{data.l{n + 1}}}"] * 9 for n in range(12)}
    (tmp_path / "a.yaml").write_text(yaml.safe_dump({"model": {}, "data": levels | {"l12": 1}}))
    with pytest.raises(ConfigError, match="its references stand for more than"):
        read_compvis_model(tmp_path / "a.yaml")


def test_messages_speak_of_the_settings_of_the_file():
    """YAML names for YAML, diffusers' for JSON."""
    data = small_yaml()
    params = data["model"]["params"]
    for section, name, value, message in (
        (params["unet_config"]["params"], "num_res_blocks", -1, "num_res_blocks is -1"),
        (params["unet_config"]["params"], "num_head_channels", -1, "num_head_channels is None and num_heads None"),
        (params["unet_config"]["params"], "model_channels", 33, "33 channels cannot be"),
        (params["first_stage_config"]["params"]["ddconfig"], "z_channels", "x", "z_channels is 'x'"),
        (params["first_stage_config"]["params"], "embed_dim", 10**9, "embed_dim is 1000000000"),
        (params, "linear_start", -1.0, "linear_start -1.0, linear_end"),
    ):
        kept = section[name]
        section[name] = value
        with pytest.raises(ConfigError, match=message) as error:
            compvis_model_from_yaml(data, "a.yaml")
        assert "Only unconditional" not in str(error.value)
        section[name] = kept
    with pytest.raises(ConfigError, match=r"vae/config.json: scaling_factor is 'many'; expected float"):
        KLConfig.from_dict(KLConfig().to_dict() | {"scaling_factor": "many"})


def test_a_prefix_before_all_names_is_called_that(tiny_folder):
    file = tiny_folder / "unet" / "diffusion_pytorch_model.safetensors"
    good = {key: tensor.clone() for key, tensor in load_file(file).items()}
    save_file({f"net.{key}": tensor for key, tensor in good.items()}, file)
    with pytest.raises(CheckpointError, match=r"All names begin with net\., .*: save them without it"):
        load_all(read_checkpoint(tiny_folder))
    save_file(good | {"more": torch.zeros(1)}, file)
    with pytest.raises(CheckpointError, match=r"unexpected keys: more.*not understood may change the picture"):
        load_all(read_checkpoint(tiny_folder))
