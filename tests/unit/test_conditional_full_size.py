"""Checkpoints of the size that the published ones have, without their bytes: files of holes, which read as zeros."""

from __future__ import annotations

import time

import pytest
from class_models import RELEASES as CLASS_RELEASES
from compvis_writer import whole_shapes, write_holes
from conditional_models import RELEASES, released_yaml
from text_models import RELEASES as TEXT_RELEASES
from vector_models import RELEASES as VECTOR_RELEASES
from yaml import safe_dump

import ldm_backend
from ldm_backend.checkpoints.checkpoint import read_checkpoint
from ldm_backend.config.presets import PRESETS
from ldm_backend.errors import CheckpointError, ConfigError, LDMError

pytestmark = pytest.mark.full_size

SEMANTIC = {"semantic-synthesis-256", "semantic-synthesis-512"}  # of the same networks


@pytest.mark.parametrize("release", RELEASES)
def test_a_file_of_full_size_is_read_in_a_moment(tmp_path, release):
    """The names and shapes of the release, with its YAML, with its preset, and with those of all others."""
    write_holes(tmp_path / "model.safetensors", whole_shapes(release))
    (tmp_path / "config.yaml").write_text(safe_dump(released_yaml(release)))
    start = time.process_time()
    checkpoint = read_checkpoint(tmp_path)
    assert time.process_time() - start < 3  # of this process alone; measured 0.1 to 1.2 s
    assert (checkpoint.config, checkpoint.weights) == (PRESETS[RELEASES[release]], "ema")
    (tmp_path / "config.yaml").unlink()
    for name, preset in PRESETS.items():
        if preset.unet == checkpoint.config.unet or {name, RELEASES[release]} <= SEMANTIC:
            continue
        with pytest.raises(LDMError, match=r"model\.safetensors"):
            ldm_backend.load(tmp_path, "cpu", config=name)


def test_a_model_of_full_size_is_loaded(tmp_path):
    """That for super-resolution, the smallest; all its numbers are read and checked."""
    write_holes(tmp_path / "model.safetensors", whole_shapes("bsr_sr"))
    model = ldm_backend.load(tmp_path, "cpu", config="super-resolution-4x")
    assert sum(p.numel() for p in model.unet.parameters()) == 113_622_563
    assert sum(p.numel() for p in model.first_stage.parameters()) == 55_322_782


WITH_CONTEXT = CLASS_RELEASES | TEXT_RELEASES | VECTOR_RELEASES
AVERAGED = ("cin256", "text2img256", "rdm768x768")  # the YAML of the others says that they have no averaged weights


@pytest.mark.parametrize("release", WITH_CONTEXT)
def test_a_file_with_a_context_of_full_size_is_read_in_a_moment(tmp_path, release):
    write_holes(tmp_path / "model.safetensors", whole_shapes(release, ema=release in AVERAGED))
    (tmp_path / "config.yaml").write_text(safe_dump(released_yaml(release)))
    start = time.process_time()
    checkpoint = read_checkpoint(tmp_path)
    assert time.process_time() - start < 3  # of this process alone
    own = WITH_CONTEXT[release]
    assert (checkpoint.config, checkpoint.weights) == (PRESETS[own], "ema" if release in AVERAGED else "raw")
    (tmp_path / "config.yaml").unlink()
    with pytest.raises(ConfigError, match=f"those of its shapes are {own}\\)"):
        read_checkpoint(tmp_path)
    assert read_checkpoint(tmp_path, config=own).config == PRESETS[own]
    for name in PRESETS.keys() - {own}:
        with pytest.raises(LDMError, match=r"model\.safetensors"):
            ldm_backend.load(tmp_path, "cpu", config=name)


def test_a_file_of_stable_diffusion_of_full_size_is_no_model_of_this_family(tmp_path):
    """Its UNet is like that of text2img-large and attends to a context 768 wide, which the encoder of CLIP makes."""
    clip = {"cond_stage_model.transformer.text_model.embeddings.token_embedding.weight": (49408, 768)}
    shapes = {
        key: tuple(768 if side == 1280 and ".attn2.to_" in key and at == 1 else side for at, side in enumerate(shape))
        for key, shape in whole_shapes("text2img-large", ema=False).items()
        if not key.startswith("cond_stage_model.")
    }
    write_holes(tmp_path / "model.safetensors", shapes | clip)
    for name in WITH_CONTEXT.values():
        with pytest.raises(CheckpointError, match=r"model\.safetensors: this is Stable Diffusion 1 .*Load Checkpoint"):
            ldm_backend.load(tmp_path, "cpu", config=name)
    with pytest.raises(CheckpointError, match=r"this is Stable Diffusion 1 "):
        read_checkpoint(tmp_path)
    write_holes(tmp_path / "model.safetensors", shapes)  # without its encoder its shapes still fit none
    with pytest.raises(ConfigError, match="no configuration.*none has its shapes"):
        read_checkpoint(tmp_path)
