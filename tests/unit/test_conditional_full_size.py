"""Checkpoints of the size that the published ones have, without their bytes: files of holes, which read as zeros."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import pytest
from compvis_writer import published_shapes
from conditional_models import RELEASES, released_yaml
from yaml import safe_dump

import ldm_backend
from ldm_backend.checkpoints.checkpoint import read_checkpoint
from ldm_backend.config.presets import PRESETS
from ldm_backend.errors import LDMError

pytestmark = pytest.mark.full_size


def write_holes(file: Path, shapes: dict[str, tuple[int, ...]]) -> None:
    """A safetensors file of float32 zeros that takes no space on the disk."""
    header, end = {}, 0
    for key, shape in shapes.items():
        start, end = end, end + 4 * math.prod(shape)
        header[key] = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as opened:
        opened.write(len(text).to_bytes(8, "little") + text)
        opened.truncate(8 + len(text) + end)


def whole_shapes(release: str) -> dict[str, tuple[int, ...]]:
    """With averaged weights, their counters and the buffers of the schedule, as training leaves it."""
    shapes = published_shapes(release.replace("512", "256"))
    names = [key for key in shapes if key.startswith("model.")]
    averaged = {"model_ema." + key.removeprefix("model.").replace(".", ""): shapes[key] for key in names}
    return shapes | averaged | {"betas": (1000,), "alphas_cumprod": (1000,), "logvar": (1000,), "model_ema.decay": ()}


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
        if preset.unet == checkpoint.config.unet or {name, RELEASES[release]} <= set(list(PRESETS)[-2:]):
            continue
        with pytest.raises(LDMError, match=r"model\.safetensors"):
            ldm_backend.load(tmp_path, "cpu", config=name)


def test_a_model_of_full_size_is_loaded(tmp_path):
    """That for super-resolution, the smallest; all its numbers are read and checked."""
    write_holes(tmp_path / "model.safetensors", whole_shapes("bsr_sr"))
    model = ldm_backend.load(tmp_path, "cpu", config="super-resolution-4x")
    assert sum(p.numel() for p in model.unet.parameters()) == 113_622_563
    assert sum(p.numel() for p in model.first_stage.parameters()) == 55_322_782
