"""GroupNorm of large images: nearer to the truth than torch's channels_last kernel, and the same layer otherwise."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import silu

from ldm_backend.kernels import fast_norm
from ldm_backend.kernels.fast_norm import group_norm


def norm_of(channels: int, groups: int) -> nn.GroupNorm:
    norm = nn.GroupNorm(groups, channels, eps=1e-6).requires_grad_(False)
    generator = torch.Generator().manual_seed(0)
    norm.weight.data = torch.rand(channels, generator=generator) + 0.5
    norm.bias.data = torch.randn(channels, generator=generator)
    return norm


def image(*shape: int) -> torch.Tensor:
    """Brighter to the right, as pictures are: not what a sum of noise would show."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1)) + torch.linspace(-3, 5, shape[3])
    return x.contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("activate", [True, False])
@pytest.mark.parametrize(("shape", "groups"), [((1, 128, 256, 256), 32), ((2, 24, 90, 133), 4), ((1, 8, 65, 64), 1)])
def test_large_images(shape, groups, activate):
    norm, x = norm_of(shape[1], groups), image(*shape)
    before = x.clone()
    found = group_norm(norm, x, activate)
    truth = norm.double()(x.double())
    truth = silu(truth) if activate else truth
    assert (found - truth).square().mean().sqrt() < 1e-7
    assert torch.equal(x, before)
    assert found.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("activate", [True, False])
@pytest.mark.parametrize("size", [8, 80])
def test_small_contiguous_and_trained_ones_are_torchs(size, activate, monkeypatch):
    """Where ours must not be asked: small images, another memory format, gradients."""
    monkeypatch.setattr(fast_norm, "_normalise", None)
    norm = norm_of(16, 4)
    x = image(1, 16, size, size).contiguous()
    expected = silu(norm(x)) if activate else norm(x)
    assert torch.equal(group_norm(norm, x, activate), expected)
    x = image(1, 16, 80, 80).requires_grad_(True)
    group_norm(norm, x, activate).sum().backward()
    assert x.grad is not None


def test_a_flat_image_stays_finite():
    """The variance of a constant may come out below zero by rounding."""
    norm = norm_of(8, 2)
    x = torch.full((1, 8, 80, 80), 1e3).contiguous(memory_format=torch.channels_last)
    found = group_norm(norm, x, activate=False)
    torch.testing.assert_close(found, norm.bias[:, None, None].expand_as(found[0])[None], rtol=1e-3, atol=1e-1)
