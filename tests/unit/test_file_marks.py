"""A checkpoint that changes while it is loaded is noticed before the next run, and never crashes that one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

import ldm_backend
from ldm_backend.checkpoints.checkpoint import read_checkpoint
from ldm_backend.checkpoints.conversion import convert_to_single_file
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


# A child that loads, has the file under its network written to in place, and goes on without looking at it.
EVALUATE = """
import os, sys, torch, ldm_backend
folder, how = sys.argv[1:]
model = ldm_backend.load(folder, device="cpu")
x = torch.full((1, 3, 16, 16), 0.5)
def run(): return model.unet(x, 500), model.first_stage.decode(x)
before = run()
for part in ("unet", "vqvae"):
    file = os.path.join(folder, part, "diffusion_pytorch_model.safetensors")
    if how == "truncated": os.truncate(file, 4096)
    elif how == "emptied": open(file, "wb").close()
    else: open(file, "r+b").write(bytes(os.path.getsize(file)))
sys.stdout.write("changed "); sys.stdout.flush()
with torch.no_grad(): equal = all(map(torch.equal, before, run()))
ldm_backend.generate(model, steps=1)
print("the same" if equal else "other")
"""


def evaluate(folder: Path, how: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", EVALUATE, str(folder), how]
    kept = {key: value for key, value in os.environ.items() if key != "LDM_COPY_WEIGHTS"}
    return subprocess.run(command, cwd=ROOT, env=kept | environment, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("how", ["truncated", "emptied", "overwritten"])
def test_copied_weights_outlive_their_file(tiny_folder, how):
    run = evaluate(tiny_folder, how, LDM_COPY_WEIGHTS="1")
    assert (run.returncode, run.stdout) == (0, "changed the same\n"), run.stderr


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="how systems end a process differs")
@pytest.mark.parametrize(("how", "environment"), [("truncated", {}), ("emptied", {"LDM_COPY_WEIGHTS": "0"})])
def test_mapped_weights_end_with_their_file(tiny_folder, how, environment):
    """What the choice is about: nobody can answer in the middle of an evaluation, and the system sends SIGBUS."""
    run = evaluate(tiny_folder, how, **environment)
    assert (run.returncode, run.stdout) == (-signal.SIGBUS, "changed ")


@pytest.mark.slow
def test_copied_weights_of_all_layouts(tiny_folder, tmp_path, monkeypatch):
    """None of a network's tensors lies in a file, whatever it was."""
    single = tmp_path / "single.safetensors"
    convert_to_single_file(read_checkpoint(tiny_folder), single, "fp32")
    archive = tmp_path / "archive.ckpt"
    torch.save(safetensors.torch.load_file(single), archive)
    half = tmp_path / "half.safetensors"
    convert_to_single_file(read_checkpoint(tiny_folder), half, "fp16")
    mapped = ldm_backend.load(tiny_folder, device="cpu")
    assert all(in_a_file(tensor.data_ptr()) for tensor in mapped.unet.parameters())
    monkeypatch.setenv("LDM_COPY_WEIGHTS", "1")
    for path in (tiny_folder, single, archive, half):
        config = read_checkpoint(single).config if path == archive else None
        model = ldm_backend.load(path, device="cpu", config=config)
        tensors = [*model.unet.state_dict().values(), *model.first_stage.state_dict().values()]
        assert not any(in_a_file(tensor.data_ptr()) for tensor in tensors), path


def in_a_file(address: int) -> bool:
    """Whether a checkpoint is mapped there."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        span, *_, name = line.split()
        first, last = (int(end, 16) for end in span.split("-"))
        if first <= address < last:
            return name.endswith((".safetensors", ".ckpt"))
    return False


def test_a_choice_that_is_none(tiny_folder, monkeypatch):
    monkeypatch.setenv("LDM_COPY_WEIGHTS", "yes")
    with pytest.raises(CheckpointError, match="LDM_COPY_WEIGHTS is 'yes'; choose one of 0, 1"):
        ldm_backend.load(tiny_folder, device="cpu")


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
