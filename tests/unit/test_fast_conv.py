"""The faster convolutions against torch's with the same weights, in float64 where it matters which is nearer."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import conv2d, interpolate

from ldm_backend.config.model import KLConfig, UNetConfig, VQConfig
from ldm_backend.kernels import fast_conv, fast_norm
from ldm_backend.kernels.fast_conv import SMALL_TILE, empty_caches, fast_convolution
from ldm_backend.kernels.winograd import Workspace, convolve, kernel_shape, transform_kernel
from ldm_backend.networks.kl import KLModel
from ldm_backend.networks.layers import Layers
from ldm_backend.networks.tiled_decode import decode_tiled
from ldm_backend.networks.unet import UNet
from ldm_backend.networks.vq import VQModel
from ldm_backend.sampling.noise import draw_noise

TINY_UNET = UNetConfig(sample_size=16, block_out_channels=(32, 64, 96, 96), layers_per_block=1)
TINY_VQ = VQConfig(sample_size=64, block_out_channels=(32, 32, 64), layers_per_block=1, num_vq_embeddings=64)
TINY_KL = KLConfig(sample_size=64, block_out_channels=(32, 32, 64, 64), layers_per_block=1)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def layer(in_channels: int, out_channels: int, keep: bool = True, **settings: Any) -> Any:
    made = Layers(nn, 8, 1e-6, head_dim=lambda c: c, keep=keep).conv(in_channels, out_channels, **settings)
    made.weight.data = noise(*made.weight.shape) / made.weight[0].numel() ** 0.5
    made.bias.data = noise(*made.bias.shape, seed=1)
    return made.requires_grad_(False)


def plain(conv: Any, x: torch.Tensor) -> torch.Tensor:
    return conv2d(x, conv.weight.to(x.dtype), conv.bias.to(x.dtype), conv.stride, conv.padding)


@pytest.fixture
def everything_fast(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every convolution that can be a Winograd is one, and every norm is ours."""
    monkeypatch.setattr(fast_norm, "_PIXELS", 0)
    monkeypatch.setattr(fast_conv, "_CHANNELS", 1)
    monkeypatch.setattr(fast_conv, "SIDE", 1)


@pytest.fixture
def nothing_fast(monkeypatch: pytest.MonkeyPatch) -> Iterator[pytest.MonkeyPatch]:
    """torch's own layers, until the test undoes it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fast_conv, "is_plain", lambda *_: False)
        patch.setattr(fast_norm, "is_plain", lambda *_: False)
        yield patch


@pytest.mark.parametrize("shape", [(1, 128, 16, 16), (3, 128, 17, 31), (2, 160, 64, 20), (1, 128, 200, 18)])
@pytest.mark.parametrize(("tile", "factor"), [(2, 1.0), (4, 2.0)])
def test_winograd_is_as_near_to_the_truth_as_the_direct_sum(shape, tile, factor):
    """Odd sides, batches, and sizes that need several groups of tiles. F(2x2) is nearer, F(4x4) within twice."""
    conv = layer(shape[1], 144)
    x = noise(*shape, seed=2).contiguous(memory_format=torch.channels_last)
    truth = plain(conv, x.double())
    kernel = transform_kernel(conv.weight, tile, torch.empty(kernel_shape(conv.weight, tile)))
    found = convolve(x, kernel, conv.bias, tile, Workspace())
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert (found - truth).abs().max() < 2e-5
    error, direct = ((result - truth).square().mean().sqrt() for result in (found, plain(conv, x)))
    assert error <= factor * direct
    without = convolve(x, kernel, None, tile, Workspace())
    torch.testing.assert_close(without + conv.bias[:, None, None], found, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("settings", [{"stride": 2}, {"padding": 0}, {}, {"kernel": 1, "padding": 0}])
def test_all_convolutions_at_all_sizes(settings, keep, monkeypatch):
    """Small ones, whose weights are kept in another order, one image and several, and large ones."""
    monkeypatch.setattr(fast_conv, "_LARGE_WEIGHT", 0)
    conv = layer(130, 144, keep, **settings)
    for shape in ((1, 130, 8, 8), (2, 130, 9, 33), (1, 130, 16, 24), (3, 130, 16, 16), (1, 130, 48, 33)):
        x = noise(*shape)
        before = x.clone()
        for _ in range(2):
            torch.testing.assert_close(conv(x), plain(conv, x), rtol=1e-5, atol=2e-5)
        assert torch.equal(x, before)


@pytest.mark.parametrize("keep", [True, False])
@pytest.mark.parametrize("size", [(8, 8), (5, 7), (16, 32)])
def test_doubling(size, keep):
    """Folding the kernel gives what doubling first gives, at the borders too."""
    conv = layer(32, 48, keep)
    x = noise(2, 32, *size)
    expected = plain(conv, interpolate(x, scale_factor=2.0, mode="nearest"))
    for _ in range(2):
        torch.testing.assert_close(conv.forward_doubled(x), expected, rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_whole_networks(everything_fast, nothing_fast):
    """UNet, VQ and KL, encoders too, at two sizes and batches."""
    unet, vq, kl = UNet(TINY_UNET), VQModel(TINY_VQ), KLModel(TINY_KL)
    nn.init.normal_(vq.quantize.embedding.weight)
    x, z = draw_noise([1, 2], (3, 16, 24)), draw_noise([3], (4, 8, 8))
    image = draw_noise([4], (3, 32, 40)).clamp(-1, 1)

    def results() -> list[torch.Tensor]:
        networks = unet(x, 500), unet(x[:1], 20), vq.decode(x), vq.encode(image), kl.decode(z), kl.encode(image)
        return [*networks, decode_tiled(vq, x, tile=16)]

    expected = results()
    nothing_fast.undo()
    for once, found in zip(expected, results(), strict=True):
        torch.testing.assert_close(found, once, rtol=1e-4, atol=1e-4 * float(once.std()))


@pytest.mark.parametrize("size", [8, 32], ids=["packed", "winograd"])
def test_changed_weights_are_noticed(size):
    """As merges, LoRAs and loading change them: in place, replaced, and by load_state_dict."""
    conv = layer(128, 128)
    x = noise(1, 128, size, size)
    with torch.inference_mode():
        conv(x)
        conv.weight.data.mul_(2)
        torch.testing.assert_close(conv(x), plain(conv, x), rtol=1e-5, atol=3e-5)
    conv.weight = nn.Parameter(conv.weight.detach() + 1, requires_grad=False)
    torch.testing.assert_close(conv(x), plain(conv, x), rtol=1e-5, atol=1e-3)
    conv.load_state_dict({"weight": noise(*conv.weight.shape, seed=9) / 30, "bias": conv.bias})
    torch.testing.assert_close(conv(x), plain(conv, x), rtol=1e-5, atol=3e-5)
    conv.double().float()
    assert "_copy" not in vars(conv)


def test_gradients_and_other_precisions_take_the_plain_way(everything_fast):
    conv = layer(16, 16).requires_grad_(True)
    x = noise(1, 16, 8, 8).requires_grad_(True)
    conv(x).sum().backward()
    assert x.grad is not None
    assert conv.weight.grad is not None
    with torch.no_grad():
        assert conv.double()(x.double()).dtype == torch.float64
    assert "_copy" not in vars(conv)


@pytest.mark.parametrize("name", ["comfy_cast_weights", "weight_function", "bias_function"])
def test_a_host_that_changes_weights_at_each_call_is_obeyed(name, everything_fast):
    """ComfyUI streams, casts and patches weights inside its layers' forward."""

    class HostConv(nn.Conv2d):
        def forward(self, input: torch.Tensor) -> torch.Tensor:
            return super().forward(input) + 1

    conv: Any = fast_convolution(HostConv)(16, 16, 3, padding=1).requires_grad_(False)
    conv.keep, conv.kept_tile, conv.workspace = True, SMALL_TILE, Workspace()
    x = noise(1, 16, 8, 8)
    setattr(conv, name, [lambda weight: weight])
    torch.testing.assert_close(conv(x), plain(conv, x) + 1)


def test_subclasses_of_one_base_are_one_class():
    assert fast_convolution(nn.Conv2d) is fast_convolution(nn.Conv2d)
    assert issubclass(fast_convolution(nn.Conv2d), nn.Conv2d)


@torch.no_grad()
def test_threads_do_not_share_memory(everything_fast):
    """Two threads in one network get what one gets."""
    unet = UNet(TINY_UNET)
    inputs = [draw_noise([seed], (3, 32, 32)) for seed in range(4)]
    expected = [unet(x, 500) for x in inputs]
    found: dict[int, torch.Tensor] = {}

    def work(index: int) -> None:
        with torch.no_grad():
            for _ in range(3):
                found[index] = unet(inputs[index], 500)

    threads = [threading.Thread(target=work, args=(index,)) for index in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, once in enumerate(expected):
        torch.testing.assert_close(found[index], once, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_a_rested_network_works_on(everything_fast):
    """In inference mode and out of it, with memory that was made in the other."""
    vq = VQModel(TINY_VQ)
    nn.init.normal_(vq.quantize.embedding.weight)
    z = draw_noise([5], (3, 16, 16))
    with torch.inference_mode():
        expected = vq.decode(z)
    torch.testing.assert_close(vq.decode(z), expected)
    workspace: Any = vq.decoder.conv_in.workspace
    assert workspace._free
    empty_caches(vq)
    assert not workspace._free
    torch.testing.assert_close(vq.decode(z), expected)
