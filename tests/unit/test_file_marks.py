"""A checkpoint that changes while it is loaded is noticed before the next run, and never crashes that one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import ldm_backend
from ldm_backend.checkpoints.file_marks import FileMark
from ldm_backend.errors import CheckpointError
from ldm_backend.pipeline import decode_to_uint8

ROOT = Path(__file__).parents[2]
WEIGHTS = "diffusion_pytorch_model.safetensors"


@pytest.mark.parametrize("part", ["unet", "vqvae"])
def test_a_file_that_was_changed_in_place_is_noticed(tiny_folder, part):
    model = ldm_backend.load(tiny_folder, device="cpu")
    ldm_backend.generate(model, steps=1)
    file = tiny_folder / part / WEIGHTS
    os.utime(file, ns=(1, 1))
    with pytest.raises(CheckpointError, match=f"{part}/{WEIGHTS}: the file was changed while its weights were in use"):
        ldm_backend.generate(model, steps=1)
    with pytest.raises(CheckpointError, match="Load the checkpoint again"):
        decode_to_uint8(model, None)  # pyright: ignore[reportArgumentType] - refused before it is looked at
    ldm_backend.generate(ldm_backend.load(tiny_folder, device="cpu"), steps=1)


def test_a_truncated_file_ends_in_a_message_and_not_in_a_signal(tiny_folder):
    """In a child, which would die of SIGBUS if the mapped weights were read."""
    code = (
        "import os, sys, ldm_backend; folder, file = sys.argv[1:]; model = ldm_backend.load(folder, device='cpu')\n"
        "os.truncate(file, 4096)\n"
        "try: ldm_backend.generate(model, steps=1)\n"
        "except ldm_backend.errors.CheckpointError as error: print(error)"
    )
    file = tiny_folder / "unet" / WEIGHTS
    size = file.stat().st_size
    command = [sys.executable, "-c", code, str(tiny_folder), str(file)]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert f"had {size} bytes and now has 4096" in run.stdout


@pytest.mark.parametrize("how", ["replaced", "removed"])
def test_a_file_that_is_replaced_or_removed_leaves_the_loaded_weights(tiny_folder, how):
    model = ldm_backend.load(tiny_folder, device="cpu")
    before = ldm_backend.generate(model, steps=2)
    file = tiny_folder / "unet" / WEIGHTS
    if how == "replaced":
        other = file.with_name("other")
        other.write_bytes(bytes(file.stat().st_size))
        other.replace(file)
    else:
        file.unlink()
    assert np.array_equal(ldm_backend.generate(model, steps=2), before)


def test_a_file_that_is_not_there_cannot_be_marked(tmp_path):
    with pytest.raises(CheckpointError, match="cannot be read"):
        FileMark.of(tmp_path / "absent")
