"""What is written is held against what reads it, before it has its name; and what counts as a number."""

from __future__ import annotations

import math
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from model_folder import write_model_folder

from ldm_backend.checkpoints.checkpoint import Checkpoint, check_readable, read_checkpoint
from ldm_backend.checkpoints.conversion import convert_to_folder, convert_to_single_file
from ldm_backend.checkpoints.single_file import fill_single_file
from ldm_backend.errors import CheckpointError
from ldm_backend.finite import all_finite, is_plain


@pytest.fixture
def checkpoint(tmp_path: Path, tiny) -> Checkpoint:
    return read_checkpoint(write_model_folder(tmp_path / "model", tiny.config))


def spoiled(checkpoint: Checkpoint, number: float) -> Checkpoint:
    unet = {key: tensor.clone() for key, tensor in checkpoint.unet.items()}
    unet["conv_in.weight"].view(-1)[0] = number
    return replace(checkpoint, unet=unet)


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("write", [convert_to_single_file, convert_to_folder])
def test_what_could_not_be_loaded_again_is_not_written(tmp_path, checkpoint, write, number):
    (tmp_path / "out").mkdir()
    with pytest.raises(CheckpointError, match="Nothing was saved: .*the new file.*conv_in.weight") as error:
        write(spoiled(checkpoint, number), tmp_path / "out" / "new")
    assert ".ldm-partial" not in str(error.value)
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.skipif(os.name != "posix", reason="names are bytes only there")
def test_a_name_of_bytes_that_are_no_text_is_converted(tmp_path, checkpoint):
    path = Path(os.fsdecode(b"\xff\xfe"))
    convert_to_single_file(replace(checkpoint, path=path), tmp_path / "new.safetensors")
    assert read_checkpoint(tmp_path / "new.safetensors").weights == checkpoint.weights


def test_files_of_earlier_versions_are_read(tmp_path, checkpoint):
    """They have values of the prompt's beside our own, without a namespace."""
    texts = {"weights": "ema", "prompt": "{}", "workflow": '{"nodes": []}', "parameters": "x", "source": "y"}
    fill_single_file(tmp_path / "a", checkpoint.config, checkpoint.unet, checkpoint.first_stage, "fp32", texts)
    check_readable(tmp_path / "a")
    found = read_checkpoint(tmp_path / "a")
    assert (found.weights, found.config) == ("ema", checkpoint.config)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_numbers_are_told_from_what_is_none(dtype):
    good = torch.linspace(-2.0, 2.0, 24, dtype=dtype).view(2, 3, 4)
    assert all_finite(good)
    assert all_finite(good[:0])
    assert all_finite(good.transpose(0, 2))
    for number in (math.nan, math.inf, -math.inf):
        for place in (0, 11, 23):
            bad = good.clone()
            bad.view(-1)[place] = number
            assert not all_finite(bad)
            assert not all_finite(bad.expand(5, 2, 3, 4))


def test_beyond_float32_is_no_number():
    assert all_finite(torch.tensor([3.4e38, -3.4e38], dtype=torch.float64))
    assert not all_finite(torch.tensor([3.5e38], dtype=torch.float64))
    assert not all_finite(torch.tensor([-1e300], dtype=torch.float64))


def test_what_an_expanded_tensor_repeats_is_looked_at_once():
    start = time.process_time()
    assert all_finite(torch.zeros(1, 1, 1, 1).expand(2**20, 2**20, 2**10, 3))
    assert not all_finite(torch.full((1, 1, 2), math.nan).expand(2**20, 2**20, 2))
    assert time.process_time() - start < 1.0


def test_plain_tensors():
    plain = torch.zeros(2, 3)
    assert is_plain(plain)
    assert is_plain(torch.nn.Parameter(plain))
    others = [plain.to_sparse(), plain.to("meta"), torch.nested.nested_tensor([plain, plain]), plain.numpy(), None, []]
    assert not any(is_plain(other) for other in others)
    assert not is_plain(torch.quantize_per_tensor(plain, 0.1, 0, torch.qint8))
