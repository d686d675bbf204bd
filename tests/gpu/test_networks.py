"""Both networks on the device against the same networks in float64.

Tolerances are relative: root mean square of the error over that of the value. On the CPU float32 was off by up to 5e-7
and bf16 by up to 4e-3. What is allowed leaves room for other orders of summation, five to ten times that (for fp16 an
eighth of bf16's, as its mantissa has three bits more), and is for float32 far below TF32, whose mantissa of ten bits
is fp16's.
"""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

import ldm_backend
from ldm_backend.config.presets import CELEBAHQ_256
from ldm_backend.kernels.fp32 import fp32
from ldm_backend.networks import layers
from ldm_backend.networks.precision import set_first_stage_precision
from ldm_backend.networks.unet import UNet, one_per_image

DEMO = Path(__file__).parents[2] / "demo" / "portraits-128"
pytestmark = pytest.mark.gpu

TOLERANCES = {"fp32": 5e-6, "bf16": 2e-2, "fp16": 2.5e-3}


def off(found: torch.Tensor, exact: torch.Tensor) -> float:
    """Relative error."""
    difference = found.double().cpu() - exact.double().cpu()
    return float(difference.square().mean().sqrt() / exact.double().square().mean().sqrt())


def latents(batch: int, side: int) -> torch.Tensor:
    return torch.randn((batch, 3, side, side), generator=torch.Generator().manual_seed(0))


@torch.inference_mode()
@pytest.mark.parametrize("precision", TOLERANCES)
@pytest.mark.parametrize("t", [1, 500, 999])
def test_the_unet_is_that_of_float64(device, tested, precision, t, record_property):
    if (device.type, precision) == ("cpu", "fp16"):
        pytest.skip("the CPU has no fp16: torch emulates it")
    model = ldm_backend.load(DEMO, device=device, precision=precision)
    x = latents(2, 32).to(device)
    error = off(model.unet(x, t), deepcopy(tested.unet).double()(x.double(), t))
    record_property("relative error", f"{error:.2e}")
    assert error < TOLERANCES[precision]


@torch.inference_mode()
def test_the_unet_of_full_size_is_that_of_float64(device, record_property):
    """Random weights of the preset celebahq-256."""
    if device.type == "cpu":
        pytest.skip("the dry form has the demo model only")
    torch.manual_seed(0)
    unet = UNet(CELEBAHQ_256.unet).eval().requires_grad_(False).to(device)
    x = latents(1, 64).to(device)
    error = off(unet(x, 500), deepcopy(unet).double()(x.double(), 500))
    record_property("relative error", f"{error:.2e}")
    assert error < TOLERANCES["fp32"]


@torch.inference_mode()
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 5e-6), (torch.bfloat16, 2e-2)])
def test_attention_with_a_head_of_512_is_that_of_float64(device, dtype, tolerance, record_property):
    """As in a first stage of full size, for which torch has no fused kernel on a card: several parts, one shorter."""
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn((3, 1, 60 * 64, 512), generator=generator).to(device, dtype) for _ in range(3))
    with fp32():
        error = off(layers.attended(q, k, v), scaled_dot_product_attention(q.double(), k.double(), v.double()))
    record_property("relative error", f"{error:.2e}")
    assert error < tolerance


@torch.inference_mode()
def test_a_decoder_in_bf16_is_near_that_of_float64(device, exact, record_property):
    stage = deepcopy(exact.first_stage).to(device)
    quantised = stage.quantize(latents(2, 32).to(device))[0]
    double = deepcopy(stage).double()
    set_first_stage_precision(stage, "bf16")
    error = off(stage.decode(quantised, quantize=False), double.decode(quantised.double(), quantize=False))
    record_property("relative error", f"{error:.2e}")
    assert error < TOLERANCES["bf16"]


@torch.inference_mode()
@pytest.mark.parametrize("batch", [1, 3])
def test_the_decoder_is_that_of_float64(device, tested, batch, record_property):
    """After the quantiser, whose choice is another test's: both decode the same codes."""
    quantised = tested.first_stage.quantize(latents(batch, 32).to(device))[0]
    double = deepcopy(tested.first_stage).double()
    error = off(tested.first_stage.decode(quantised, quantize=False), double.decode(quantised.double(), quantize=False))
    record_property("relative error", f"{error:.2e}")
    assert error < TOLERANCES["fp32"]


@torch.no_grad()
@pytest.mark.parametrize("precision", TOLERANCES)
def test_a_recorded_evaluation_is_the_one_that_was_recorded(device, precision):
    """Bit for bit, with other latents and timesteps; on the CPU nothing is recorded."""
    if (device.type, precision) == ("cpu", "fp16"):
        pytest.skip("the CPU has no fp16: torch emulates it")
    unet = ldm_backend.load(DEMO, device=device, precision=precision).unet
    for t in (999, 500, 500, 1):
        x = latents(2, 32).to(device) * (t / 999)
        assert torch.equal(unet(x, t), UNet._evaluate(unet, x, one_per_image(t, x)))
    assert len(unet._graphs._recorded) == (device.type == "cuda")


@torch.no_grad()
def test_a_compiled_evaluation_is_that_of_float64(device, tested, record_property):
    """In bf16; on a card kernels are tried out, and the third call is recorded."""
    unet = ldm_backend.load(DEMO, device=device, precision="bf16", compiled=device.type == "cuda").unet
    x = latents(2, 32).to(device)
    made = [unet(x, 500) for _ in range(4)][-1]
    error = off(made, deepcopy(tested.unet).double()(x.double(), 500))
    record_property("relative error", f"{error:.2e}")
    assert error < TOLERANCES["bf16"]
