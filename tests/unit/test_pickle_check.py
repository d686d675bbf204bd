"""What torch.save writes for models and training states must get through; test_bad_files.py has what must not."""

from __future__ import annotations

import sys
import types
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ldm_backend.checkpoints.tensor_files import read_tensor_file
from ldm_backend.errors import CheckpointError


@pytest.fixture
def lightning_class(monkeypatch) -> type:
    """Stands in for the class that PyTorch Lightning names in the key of a table."""
    name = "pytorch_lightning.callbacks.model_checkpoint"
    cls = type("ModelCheckpoint", (), {"__module__": name})
    module = types.ModuleType(name)
    module.__dict__["ModelCheckpoint"] = cls
    for part in ("pytorch_lightning", "pytorch_lightning.callbacks"):
        monkeypatch.setitem(sys.modules, part, types.ModuleType(part))
    monkeypatch.setitem(sys.modules, name, module)
    return cls


def read(folder: Path, content: object) -> dict[str, torch.Tensor]:
    torch.save(content, folder / "a.ckpt")
    return read_tensor_file(folder / "a.ckpt").tensors


def test_training_state_of_lightning(tmp_path, lightning_class):
    """Everything that the released checkpoints and those of later versions hold beside their tensors."""
    weights = {"a": torch.ones(2, 3), "b": torch.arange(3)}
    adam = {"step": 7, "exp_avg": torch.zeros(2, 3), "exp_avg_sq": torch.zeros(2, 3)}
    content: dict[str, Any] = {
        "epoch": 3,
        "global_step": 410_000,
        "pytorch-lightning_version": "1.4.2",
        "state_dict": OrderedDict(weights),
        "callbacks": {
            lightning_class: {
                "monitor": "val/loss",
                "best_model_score": torch.tensor(0.1),
                "best_model_path": "logs/ü.ckpt",
                "current_score": np.float64(0.1),
                "mode": None,
            }
        },
        "optimizer_states": [{"state": {0: adam}, "param_groups": [{"betas": (0.9, 0.999), "params": [0, 1]}]}],
        "lr_schedulers": [],
        "big": 2**40,
    }
    tensors = read(tmp_path, content)
    assert tensors.keys() == weights.keys()
    assert all(torch.equal(tensors[key], weights[key]) for key in weights)


def test_states_of_modules(tmp_path):
    """An OrderedDict with attributes, parameters, and views that share their memory."""
    module = nn.Sequential(nn.Conv2d(2, 3, 1), nn.BatchNorm2d(3))
    assert read(tmp_path, module.state_dict()).keys() == module.state_dict().keys()
    parameters = read(tmp_path, dict(module.named_parameters()))
    assert not any(tensor.requires_grad for tensor in parameters.values())
    whole = torch.arange(12.0)
    views = {"rows": whole.view(3, 4), "turned": whole.view(3, 4).t(), "end": whole[8:], "number": whole[3]}
    assert all(torch.equal(tensor, views[key]) for key, tensor in read(tmp_path, views).items())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int32, torch.uint8, torch.bool])
def test_dtypes(tmp_path, dtype):
    assert read(tmp_path, {"a": torch.ones(3, dtype=dtype)})["a"].dtype == dtype


def test_empty_tensors(tmp_path):
    assert read(tmp_path, {"a": torch.empty(0, 4)})["a"].shape == (0, 4)


@pytest.mark.parametrize(
    "tensor",
    [
        torch.ones(2, 2).to_sparse(),
        torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
        torch.empty(2, device="meta"),
        torch.ones(2, dtype=torch.complex64),
        torch.ones(1).expand(1000),
    ],
    ids=["sparse", "quantised", "meta", "complex", "one number a thousand times"],
)
def test_tensors_that_are_not_plain(tmp_path, tensor):
    with pytest.raises(CheckpointError, match=r"a\.ckpt: refused"):
        read(tmp_path, {"a": tensor})
