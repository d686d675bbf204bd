"""The real model's size with random weights, fp32 on the CPU, against diffusers with the same weights.

Both run the same float32 operations, fused and ordered differently, so results differ by rounding only. Tolerances
are relative to the standard deviation of the reference, since random weights give outputs of any scale.
"""

from __future__ import annotations

import pytest
import torch

import ldm_backend
from ldm_backend.sampling.noise import draw_noise
from ldm_backend.sampling.samplers import sample_ddim

pytestmark = pytest.mark.parity


def relative_error(ours: torch.Tensor, reference: torch.Tensor) -> float:
    return float((ours - reference).abs().max() / reference.std())


def test_parameter_counts(full_size_folder):
    """The counts that the paper and the files have."""
    model = ldm_backend.load(full_size_folder, device="cpu")
    assert sum(p.numel() for p in model.unet.parameters()) == 274_056_163
    assert sum(p.numel() for p in model.first_stage.parameters()) == 55_322_782


@torch.no_grad()
def test_unet_evaluation(full_size):
    """One evaluation of eps within 1e-4 of the output's standard deviation (about 800 float32 roundings)."""
    model, reference = full_size
    x = draw_noise([3], (3, 64, 64))
    for t in (995, 500, 0):
        assert relative_error(model.unet(x, t), reference.unet(x, t)["sample"]) < 1e-4


def test_five_steps_of_the_unrolled_loop(full_size):
    """Five DDIM steps within 1e-3: five evaluations, and float64 tables here against float32 there."""
    model, reference = full_size
    pairs = model.schedule.timesteps(5, "leading")
    ours = sample_ddim(model.unet, draw_noise([3], (3, 64, 64)), model.schedule, pairs)
    assert relative_error(ours, reference.unrolled_loop(seed=3, steps=5)) < 1e-3


@torch.no_grad()
def test_code_indices_are_identical(full_size):
    """All 4096 cells of several latents choose the same of 8192 codes, near-ties included."""
    model, reference = full_size
    z = draw_noise([0, 1, 2], (3, 64, 64))
    ours = model.first_stage.quantize(z)[1]
    theirs = reference.vq.quantize(z)[2][2].view(ours.shape)
    assert torch.equal(ours, theirs)
    assert ours.unique().numel() > 1000


@torch.no_grad()
def test_decode(full_size):
    """Quantise and decode within 1e-3 of the picture's standard deviation."""
    model, reference = full_size
    z = draw_noise([3], (3, 64, 64))
    assert relative_error(model.first_stage.decode(z), reference.decode(z)) < 1e-3


@torch.no_grad()
def test_encode(full_size):
    """Encoding does not quantise, in both, and agrees within 1e-3."""
    model, reference = full_size
    x = draw_noise([4], (3, 256, 256)).clamp(-1, 1)
    assert relative_error(model.first_stage.encode(x), reference.vq.encode(x)["latents"]) < 1e-3
