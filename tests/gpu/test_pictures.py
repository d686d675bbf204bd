"""What a user gets on the device beside what the CPU gives, on the demo model.

The dry form takes fewer steps, since it draws everything twice on the same CPU.
"""

from __future__ import annotations

import logging
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ldm_backend
from ldm_backend.sampling.noise import StepNoise, draw_noise
from ldm_backend.sampling.samplers import SAMPLERS, adds_noise, sample

pytestmark = pytest.mark.gpu

DEMO = Path(__file__).parents[2] / "demo" / "portraits-128"
SHAPE = (3, 32, 32)
# Of tests/parity/test_samplers.py: these seeds pass no fork, where a model multiplies any rounding by 1000.
SEEDS = [4, 6]
# float32: absolute on latents of deviation about 1, ten times what the parity tests allow two implementations on a CPU.
# The others: root mean square, relative; bf16 on the CPU is off by 0.04 to 0.08 after three steps.
FP32_TOLERANCE = 1e-3
TOLERANCES = {"bf16": 0.25, "fp16": 0.05}


def assert_same_picture(found: np.ndarray, expected: np.ndarray) -> None:
    """As the parity tests: one level, in at most 0.1 % of the pixels."""
    difference = np.abs(found.astype(int) - expected.astype(int))
    assert difference.max() <= 1
    assert (difference > 0).any(axis=-1).mean() <= 0.001


def steps_for(device: torch.device, full: int) -> int:
    return full if device.type == "cuda" else 2


@cache
def loaded(device: str, precision: str) -> ldm_backend.LatentDiffusion:
    return ldm_backend.load(DEMO, device=device, precision=precision)


@cache
@torch.inference_mode()
def drawn(device: str, precision: str, sampler: str, steps: int) -> torch.Tensor:
    """Latents of a whole run."""
    model = loaded(device, precision)
    settings: dict[str, Any] = {"step_noise": StepNoise(SEEDS, SHAPE)} if adds_noise(sampler) else {}
    x_T = draw_noise(SEEDS, SHAPE).to(device)
    pairs = model.schedule.timesteps(steps, "trailing")
    return sample(sampler, model.unet, x_T, model.schedule, pairs, **settings).cpu()


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_sampler_in_every_format_is_finite_and_near(device, sampler, precision, record_property):
    if (device.type, precision) == ("cpu", "fp16"):
        pytest.skip("the CPU has no fp16: torch emulates it")
    steps = steps_for(device, 10)
    found, exact = drawn(str(device), precision, sampler, steps), drawn("cpu", "fp32", sampler, steps)
    assert torch.isfinite(found).all()
    most = float((found - exact).abs().max())
    relative = float((found - exact).square().mean().sqrt() / exact.square().mean().sqrt())
    record_property("most", f"{most:.1e}")
    record_property("relative", f"{relative:.1e}")
    assert most < FP32_TOLERANCE if precision == "fp32" else relative < TOLERANCES[precision]


@torch.inference_mode()
def test_codes_are_those_of_the_cpu(device, exact, tested, record_property):
    """Another one only where two codes are as near as float32 can tell."""
    z = draw_noise(range(8), SHAPE)
    vector, index = exact.first_stage.quantize(z)
    other_vector, other = tested.first_stage.quantize(z.to(device))
    differ = index != other.cpu()
    record_property("codes that differ", f"{int(differ.sum())} of {differ.numel()}")
    near, far = ((z.double() - v.double().cpu()).norm(dim=1) for v in (vector, other_vector))
    assert (far - near)[differ].abs().max().item() < 1e-5 if differ.any() else True
    assert differ.float().mean() < 1e-3


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_the_demo_picture_is_that_of_the_cpu(device, exact, tested, eta):
    """Seed 11 with 20 steps: no latent lies near the border between two codes, see tests/parity/test_demo_images.py."""
    steps = steps_for(device, 20)
    expected = ldm_backend.generate(exact, [11], steps, eta)
    assert_same_picture(ldm_backend.generate(tested, [11], steps, eta), expected)


def test_a_picture_does_not_depend_on_its_batch(device, tested):
    seeds, steps = [4, 6, 10, 11], steps_for(device, 20)
    batch = ldm_backend.generate(tested, seeds, steps)
    for seed, picture in list(zip(seeds, batch, strict=True))[:: 1 if device.type == "cuda" else 3]:
        assert_same_picture(picture, ldm_backend.generate(tested, [seed], steps)[0])


def test_running_out_of_memory_makes_parts_and_the_same_pictures(device, tested, caplog):
    """Torch is given half of what the batch takes, as if others had the rest; the estimates do not know of it."""
    if device.type != "cuda":
        pytest.skip("on the CPU the system would end the process")
    seeds, steps = list(range(64)), 2
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    expected = ldm_backend.generate(tested, seeds, steps)
    half = (torch.cuda.max_memory_allocated() - before) // 2
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(device).total_memory
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + half) / total)
    try:
        with caplog.at_level(logging.WARNING, logger="comfyui_ldm"):
            found = ldm_backend.generate(tested, seeds, steps)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert any("out of memory with 64 images at once" in record.message for record in caplog.records)
    for one, other in zip(found, expected, strict=True):
        assert_same_picture(one, other)
