"""Resnets and doublings of large images, some rows at a time: what they are at once.

Where strips are as low as here, oneDNN may add up in another order: 1e-5, for values about 1. At the sizes of real
pictures both are equal to the bit.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from ldm_backend.kernels import fast_conv, rows
from ldm_backend.kernels.rows import suits
from ldm_backend.networks import layers
from ldm_backend.networks.layers import Layers, ResnetBlock, Upsample

SETTINGS = Layers(nn, groups=4, eps=1e-6, head_dim=lambda channels: channels)


def image(*shape: int) -> Tensor:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1)) + torch.linspace(-3, 5, shape[3])
    return x.contiguous(memory_format=torch.channels_last)


def filled(module: Any) -> Any:
    generator = torch.Generator().manual_seed(0)
    for weight in module.parameters():
        weight.data = torch.randn(weight.shape, generator=generator) / weight[0].numel() ** 0.5
    return module.requires_grad_(False)


@pytest.fixture
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every strip as low as may be."""
    monkeypatch.setattr(rows, "LARGE", 1)
    monkeypatch.setattr(rows, "_STRIP", 1)
    monkeypatch.setattr(fast_conv, "_DOUBLED", 1)


def whole(block: ResnetBlock, x: Tensor, monkeypatch: pytest.MonkeyPatch) -> Tensor:
    with monkeypatch.context() as patch:
        patch.setattr(layers, "suits", lambda layer, x: False)
        return block(x)


# 128 channels and more go Winograd's way; 99 and 167 rows leave a strip that is too low for itself.
@pytest.mark.parametrize(("inputs", "outputs"), [(16, 16), (32, 16), (16, 32), (128, 128)])
@pytest.mark.parametrize("size", [(64, 70), (99, 66)])
def test_a_resnet(inputs, outputs, size, narrow, monkeypatch):
    block, x = filled(ResnetBlock(SETTINGS, inputs, outputs)), image(1, inputs, *size)
    expected, before = whole(block, x, monkeypatch), x.clone()
    seen: list[int] = []
    real = block.conv2.forward
    monkeypatch.setattr(block.conv2, "forward", lambda h: seen.append(h.shape[2]) or real(h))
    found = block(x)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(x, before)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert len(seen) > 1
    assert max(seen) < size[0]


@pytest.mark.parametrize("size", [(64, 70), (33, 9), (1, 1)])
@pytest.mark.parametrize("count", [1, 2])
def test_a_doubling(size, count, narrow, monkeypatch):
    layer, x = filled(Upsample(SETTINGS, 16)), image(count, 16, *size)
    found = layer(x)
    monkeypatch.setattr(fast_conv, "_DOUBLED", 2**40)
    torch.testing.assert_close(found, layer(x), rtol=1e-5, atol=1e-5)


def test_what_is_left_whole(narrow):
    """Several images, gradients, other formats and layouts, and layers whose weights a host decides on."""
    conv, x = filled(ResnetBlock(SETTINGS, 16, 16)).conv1, image(1, 16, 64, 64)
    assert suits(conv, x)
    assert not suits(conv, image(2, 16, 64, 64))
    assert not suits(conv, x.contiguous())
    assert not suits(conv, x.double())
    assert not suits(conv, x.clone(memory_format=torch.channels_last).requires_grad_())
    conv.comfy_cast_weights = True
    assert not suits(conv, x)


def test_small_images_are_left_whole():
    assert not suits(filled(ResnetBlock(SETTINGS, 16, 16)).conv1, image(1, 16, 256, 256))
