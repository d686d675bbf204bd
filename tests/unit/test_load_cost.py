"""What keeps loading quick and small; benchmarks/load.py has the figures."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from ldm_backend.checkpoints.checkpoint import load_into
from ldm_backend.errors import CheckpointError
from ldm_backend.networks import skip_init


def test_loading_imports_nothing_of_torch(tiny_folder):
    """Initialising on the meta device would import 900 modules of torch, for most of a second."""
    code = (
        "import sys, ldm_backend.pipeline as p; before = set(sys.modules); p.load(sys.argv[1], device='cpu');"
        "print([name for name in set(sys.modules) - before if name.startswith(('torch._', 'sympy'))])"
    )
    command = [sys.executable, "-c", code, str(tiny_folder)]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "[]"


@pytest.mark.parametrize("name", ["Conv2d", "Linear", "GroupNorm", "Embedding"])
def test_layers_without_initialisation_are_those_of_torch(name):
    ours, theirs = getattr(skip_init, name), getattr(nn, name)
    assert issubclass(ours, theirs)

    class Nothing:
        """What this Python gives every class of its own accord."""

    assert set(vars(ours)) - {*vars(Nothing), "__parameters__"} == {"reset_parameters"}


def test_float32_tensors_are_not_copied():
    weights = nn.Linear(3, 2).state_dict()
    module = skip_init.Linear(3, 2, device="meta")
    load_into(module, weights, "a.safetensors")
    assert module.weight.data_ptr() == weights["weight"].data_ptr()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("place", [0, 999])
def test_numbers_that_are_none_are_found(dtype, number, place):
    weights = {"weight": torch.zeros(1, 1000, dtype=dtype), "bias": torch.zeros(1, dtype=dtype)}
    weights["weight"][0, place] = number
    with pytest.raises(CheckpointError, match=r"a\.safetensors: weight holds NaN or infinite"):
        load_into(skip_init.Linear(1000, 1, device="meta"), weights, "a.safetensors")
    weights["weight"][0, place] = torch.finfo(dtype).max if dtype != torch.float64 else 1e38
    load_into(skip_init.Linear(1000, 1, device="meta"), weights, "a.safetensors")


def test_numbers_too_large_for_float32_are_found():
    weights = {"weight": torch.full((1, 1), 1e300, dtype=torch.float64), "bias": torch.zeros(1)}
    with pytest.raises(CheckpointError, match="NaN or infinite"):
        load_into(skip_init.Linear(1, 1, device="meta"), weights, "a.safetensors")
