"""What a model sees beside the noise, as its configuration says it: presets, YAML, JSON, and the checks."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest
from compvis_writer import DATA
from conditional_models import CONFIGS, INPAINTING, RELEASES, SEMANTIC, SUPER_RESOLUTION, released_yaml
from typer.main import get_command

import ldm_backend
from ldm_backend.checkpoints.single_file import FORMAT, config_from_metadata, config_to_json
from ldm_backend.config.compvis_yaml import compvis_model_from_yaml, read_compvis_model
from ldm_backend.config.conditioning import SegmentationConfig, check_task
from ldm_backend.config.model import LDMConfig, UNetConfig
from ldm_backend.config.presets import PRESETS
from ldm_backend.errors import ConfigError, InputError, LDMError
from ldm_backend.networks.unet import UNet
from ldm_headless import cli


@pytest.mark.parametrize("name", RELEASES)
def test_released_yaml_is_the_preset(name):
    assert read_compvis_model(DATA / f"{name}.yaml").config == PRESETS[RELEASES[name]]


@pytest.mark.parametrize(
    ("preset", "parameters"),
    [
        ("super-resolution-4x", 113_622_563),
        ("inpainting-512", 387_245_827),
        ("semantic-synthesis-256", 215_229_315),
        ("semantic-synthesis-512", 215_229_315),
        ("imagenet-256", 400_920_579),
        ("imagenet-256-f8", 394_984_196),
    ],
)
def test_presets_have_the_published_networks(preset, parameters):
    assert sum(p.numel() for p in UNet(PRESETS[preset].unet, device="meta").parameters()) == parameters


def test_every_preset_has_a_task():
    tasks = {name: preset.task for name, preset in PRESETS.items()}
    assert {name: task for name, task in tasks.items() if task != "unconditional"} == {
        "super-resolution-4x": "super-resolution",
        "inpainting-512": "inpainting",
        "semantic-synthesis-256": "semantic-synthesis",
        "semantic-synthesis-512": "semantic-synthesis",
        "imagenet-256": "class-conditional",
        "imagenet-256-f8": "class-conditional",
        "text-to-image-large-256": "text-conditional",
        "text-to-image-256": "text-conditional",
        "retrieval-768": "vector-conditional",
    }


@pytest.mark.parametrize("task", CONFIGS)
def test_our_json_gives_the_configuration_back(task):
    config = CONFIGS[task]
    texts = {"format": FORMAT, "ldm_config": json.dumps(config_to_json(config))}
    assert config_from_metadata(texts, "a.safetensors") == config
    assert "conditioning" not in config_to_json(LDMConfig())


@pytest.mark.parametrize(
    "conditioning",
    [
        {"kind": "text"},
        {"kind": ["segmentation"]},
        {"kind": "low-resolution", "scale": 4},
        {"kind": "segmentation", "n_labels": 5, "n_stages": 2},
        {"kind": "segmentation", "n_labels": "many", "n_stages": 2, "out_channels": 3},
        {"kind": "segmentation", "n_labels": 10**9, "n_stages": 2, "out_channels": 3},
        {"kind": "segmentation", "n_labels": 5, "n_stages": 1, "out_channels": 3},
        {"kind": "masked-image"},
        [],
        None,
    ],
)
def test_json_of_another_conditioning_is_refused(conditioning):
    data = config_to_json(SEMANTIC) | {"conditioning": conditioning}
    with pytest.raises(LDMError, match=r"a\.safetensors.*"):
        config_from_metadata({"format": FORMAT, "ldm_config": json.dumps(data)}, "a.safetensors")


@pytest.mark.parametrize("task", CONFIGS)
def test_channels_must_agree(task):
    config = CONFIGS[task]
    for unet in (
        replace(config.unet, in_channels=config.unet.in_channels + 1),
        replace(config.unet, out_channels=4),
        replace(config.unet, in_channels=3),
    ):
        with pytest.raises(ConfigError, match=r"input and .* output channels; expected"):
            replace(config, unet=unet)
    with pytest.raises(ConfigError, match="all three must agree"):
        replace(config, conditioning=None)


def test_labels_are_halved_to_the_size_of_the_latent():
    with pytest.raises(ConfigError, match="n_stages is 3 and the first stage halves 2 times"):
        replace(SEMANTIC, conditioning=SegmentationConfig(n_labels=5, n_stages=3))
    with pytest.raises(ConfigError, match="n_labels is 0"):
        SegmentationConfig(n_labels=0)


def test_another_latent_and_grey_pictures_count():
    """The masked picture adds as many channels as a latent has, the small picture as many as a picture."""
    stage = replace(INPAINTING.first_stage, latent_channels=4, vq_embed_dim=4)
    assert replace(INPAINTING, first_stage=stage, unet=replace(INPAINTING.unet, in_channels=9, out_channels=4))
    grey = replace(SUPER_RESOLUTION.first_stage, in_channels=1, out_channels=1)
    assert replace(SUPER_RESOLUTION, first_stage=grey, unet=replace(SUPER_RESOLUTION.unet, in_channels=4))


def params_of(name: str) -> tuple[dict[str, Any], dict[str, Any]]:
    data = released_yaml(name)
    return data, data["model"]["params"]


# Release, setting, value, words of the message.
REFUSED: list[tuple[str, str, Any, str]] = [
    ("bsr_sr", "conditioning_key", "crossattn", "conditioning_key is 'crossattn'.*supported is 'concat'"),
    ("bsr_sr", "conditioning_key", "hybrid", "conditioning_key is 'hybrid'"),
    ("bsr_sr", "conditioning_key", "adm", "conditioning_key is 'adm'"),
    ("bsr_sr", "concat_mode", False, "conditioning_key is 'crossattn'.*concat_mode"),
    ("bsr_sr", "concat_mode", "yes", "concat_mode is 'yes'; expected true or false"),
    ("bsr_sr", "cond_stage_forward", "special", "cond_stage_forward is 'special'"),
    ("bsr_sr", "cond_stage_key", "depth", "cond_stage_key 'depth'; supported are"),
    ("bsr_sr", "cond_stage_key", "segmentation", "torch.nn.Identity.*cond_stage_key 'segmentation'"),
    ("bsr_sr", "cond_stage_key", ["LR_image"], "cond_stage_key"),
    ("bsr_sr", "cond_stage_config", "__is_first_stage__", "__is_first_stage__.*cond_stage_key 'LR_image'"),
    ("bsr_sr", "cond_stage_config", "__is_unconditional__", "all three must agree"),
    ("bsr_sr", "cond_stage_config", {"target": "torch.nn.Identity", "params": {"a": 1}}, "unknown settings a"),
    ("bsr_sr", "cond_stage_config", {"target": "torch.nn.Identity", "weights": 1}, "unknown settings weights"),
    ("bsr_sr", "cond_stage_config", {"target": "torch.nn.Identity", "params": 3}, "params is 3"),
    ("bsr_sr", "cond_stage_config", None, "cond_stage_config is None"),
    ("bsr_sr", "cond_stage_config", "torch.nn.Identity", "is 'torch.nn.Identity'; expected a section with its target"),
    ("inpainting_big", "cond_stage_config", {"target": "__is_first_stage__"}, "expected the text __is_first_stage__"),
    ("bsr_sr", "cond_stage_config", {"target": "os.system"}, "cond_stage_config is 'os.system'"),
    (
        "inpainting_big",
        "cond_stage_config",
        {"target": "ldm.ClassEmbedder"},
        "ClassEmbedder with cond_stage_key class_l",
    ),
    ("inpainting_big", "cond_stage_config", {"target": "ldm.BERTEmbedder"}, "BERTEmbedder with cond_stage_key cap"),
    ("inpainting_big", "cond_stage_config", {"target": "ldm.FrozenCLIPEmbedder"}, "such as Stable Diffusion"),
]


@pytest.mark.parametrize(("release", "name", "value", "message"), REFUSED)
def test_a_conditioning_that_is_not_implemented_is_refused_by_name(release, name, value, message):
    data, params = params_of(release)
    params[name] = value
    with pytest.raises(ConfigError, match=rf"a\.yaml.*{message}"):
        compvis_model_from_yaml(data, "a.yaml")


def test_a_layout_is_no_text():
    data, params = params_of("bsr_sr")
    params |= {"cond_stage_key": "coordinates_bbox", "cond_stage_config": {"target": "ldm.BERTEmbedder"}}
    with pytest.raises(ConfigError, match="this is a layout-to-image model"):
        compvis_model_from_yaml(data, "a.yaml")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("method", "nearest", "method is 'nearest'; supported is 'bilinear'"),
        ("multiplier", 2.0, "multiplier is 2.0"),
        ("bias", True, "bias is True"),
        ("out_channels", None, "out_channels is None"),
        ("out_channels", 4, "expected 7"),
        ("n_stages", 3, "n_stages is 3 and the first stage halves 2 times"),
        ("n_stages", "two", "n_stages is 'two'"),
        ("in_channels", 0, "in_channels is 0"),
        ("in_channels", True, "in_channels is True"),
        ("padding", 1, "unknown settings padding"),
    ],
)
def test_each_setting_of_the_rescaler_counts(name, value, message):
    data, params = params_of("semantic_synthesis256")
    params["cond_stage_config"]["params"][name] = value
    with pytest.raises(ConfigError, match=message):
        compvis_model_from_yaml(data, "a.yaml")


def test_what_is_said_anyway_changes_nothing():
    """The defaults of CompVis' classes, written down; and the way that its default means."""
    for release in RELEASES:
        data, params = params_of(release)
        plain = compvis_model_from_yaml(data, "a.yaml").config
        del params["concat_mode"]
        params |= {"conditioning_key": "concat", "cond_stage_trainable": True, "cond_stage_forward": None}
        if release.startswith("semantic"):
            params["cond_stage_config"]["params"] |= {"method": "bilinear", "multiplier": 0.5, "bias": False}
        assert compvis_model_from_yaml(data, "a.yaml").config == plain


def test_a_model_of_another_task_is_refused_in_words():
    check_task("inpainting", "inpainting", "inpaint")
    with pytest.raises(
        InputError,
        match=r"generate takes an unconditional model, and this one is a super-resolution model: it enlarges small "
        r"pictures\. `ldm upscale` draws from it, in Python ldm_backend\.upscale\.",
    ):
        check_task("super-resolution", "unconditional", "generate")


@pytest.mark.parametrize(
    ("task", "way"),
    [
        ("unconditional", "`ldm generate` draws from it, in Python ldm_backend.generate."),
        ("super-resolution", "`ldm upscale` draws from it, in Python ldm_backend.upscale."),
        ("inpainting", "`ldm inpaint` draws from it, in Python ldm_backend.inpaint."),
        ("semantic-synthesis", "In Python there is ldm_backend.synthesise."),
        ("class-conditional", "`ldm generate` draws from it, in Python ldm_backend.generate."),
    ],
)
def test_the_refusal_names_what_draws_from_a_model(task, way):
    """The command, where there is one, that the parser has; the function, which is there."""
    other = "inpainting" if task != "inpainting" else "unconditional"
    with pytest.raises(InputError) as caught:
        check_task(task, other, "somebody")
    assert str(caught.value).endswith(way)
    commands = vars(get_command(cli.app))["commands"]
    assert set(re.findall("`ldm ([a-z]+)`", way)) <= set(commands)
    assert callable(getattr(ldm_backend, way.rstrip(".").rpartition(".")[2]))


def test_defaults_of_a_unet_stay_unconditional():
    assert LDMConfig().task == "unconditional"
    assert UNetConfig().in_channels == UNetConfig().out_channels
