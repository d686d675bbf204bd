"""Packed convolutions against the plain ones with the same weights, in float64 where it matters which is nearer."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from model_folder import write_model_folder
from torch import nn

import ldm_backend
from ldm_backend import packed
from ldm_backend.config import KLConfig, LDMConfig, UNetConfig, VQConfig
from ldm_backend.errors import InputError
from ldm_backend.kl import KLModel
from ldm_backend.layers import Layers, Upsample
from ldm_backend.noise import draw_noise
from ldm_backend.packed import PackedConv2d, PackedUpsample, Winograd, pack
from ldm_backend.tiled_decode import decode_tiled
from ldm_backend.unet import UNet
from ldm_backend.vq import VQModel

TINY_VQ = VQConfig(sample_size=64, block_out_channels=(32, 32, 64), layers_per_block=1, num_vq_embeddings=64)
TINY = LDMConfig(
    unet=UNetConfig(sample_size=16, block_out_channels=(32, 64, 96, 96), layers_per_block=1),
    vq=TINY_VQ,
)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def convolution(in_channels: int, out_channels: int, **settings: Any) -> nn.Conv2d:
    conv: Any = nn.Conv2d(in_channels, out_channels, 3, **settings)
    conv.weight.data = noise(*conv.weight.shape) / conv.weight[0].numel() ** 0.5
    conv.bias.data = noise(*conv.bias.shape, seed=1)
    return conv.requires_grad_(False)


@pytest.mark.parametrize("shape", [(1, 128, 16, 16), (3, 128, 17, 31), (2, 160, 64, 20), (1, 128, 200, 16)])
def test_winograd_is_nearer_to_the_truth_than_the_direct_sum(shape):
    """Odd sides, batches, and sizes that need several groups of tiles."""
    conv = convolution(shape[1], 144, padding=1)
    x = noise(*shape, seed=2).contiguous(memory_format=torch.channels_last)
    truth = conv.double()(x.double())
    found = Winograd(conv.float())(x)
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert (found - truth).abs().max() < 1e-5
    assert (found - truth).square().mean() <= (conv(x) - truth).square().mean()


@pytest.mark.parametrize("size", [(8, 8), (5, 7), (16, 32)])
def test_upsample(size):
    """Folding the kernel gives what doubling first gives, at the borders too."""
    plain = Upsample(Layers(nn, 8, 1e-6, head_dim=lambda c: c), 32)
    plain.conv = convolution(32, 32, padding=1)
    x = noise(2, 32, *size)
    torch.testing.assert_close(PackedUpsample(plain)(x), plain(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("settings", [{"stride": 2, "padding": 1}, {"stride": 2}, {"padding": 1}])
def test_other_convolutions_and_other_sizes(settings):
    """The first call's size decides the form; later calls may have any other size and batch."""
    conv = convolution(24, 40, **settings)
    layer = PackedConv2d(conv)
    for shape in ((1, 24, 16, 16), (4, 24, 9, 33), (1, 24, 64, 64)):
        x = noise(*shape)
        torch.testing.assert_close(layer(x), conv(x), rtol=1e-5, atol=1e-5)


def test_weights_are_let_go():
    layer = PackedConv2d(convolution(128, 128, padding=1))
    assert layer.conv is not None
    layer(noise(1, 128, 16, 16))
    assert layer.conv is None
    assert not list(layer.parameters())


def test_load_packs_when_asked(tmp_path):
    """Plain unless asked; packing anywhere but on the CPU is refused before anything is read."""
    folder = write_model_folder(tmp_path / "tiny", TINY)
    x = draw_noise([1], (3, 16, 16))
    plain, fast = (ldm_backend.load(folder, device="cpu", packed=choice) for choice in (False, True))
    assert isinstance(plain.unet.conv_in, nn.Conv2d)
    assert isinstance(fast.unet.conv_in, PackedConv2d)
    torch.testing.assert_close(fast.unet(x, 500), plain.unet(x, 500), rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match="packed is for the CPU"):
        ldm_backend.load(tmp_path / "nowhere", device="cuda", packed=True)


@torch.no_grad()
def test_whole_networks(monkeypatch):
    """UNet, VQ and KL, encoders too, with every convolution that can be one made a Winograd."""
    monkeypatch.setattr(packed, "_WINOGRAD_CHANNELS", 1)
    monkeypatch.setattr(packed, "_WINOGRAD_SIDE", 1)
    unet, vq = UNet(TINY.unet), VQModel(TINY_VQ)
    nn.init.normal_(vq.quantize.embedding.weight)
    kl = KLModel(KLConfig(sample_size=64, block_out_channels=(32, 32, 64, 64), layers_per_block=1))
    x, z = draw_noise([1, 2], (3, 16, 24)), draw_noise([3], (4, 8, 8))
    image = draw_noise([4], (3, 32, 40)).clamp(-1, 1)

    def results() -> list[torch.Tensor]:
        return [unet(x, 500), vq.decode(x), vq.encode(image), kl.decode(z), kl.encode(image)]

    plain = results()
    for network in (unet, vq, kl):
        pack(network)
    for expected, found in zip(plain, results(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.std()))


@torch.no_grad()
def test_tiled_decode_of_a_packed_decoder():
    """The stages of the tiled decode call the same layers."""
    vq = VQModel(TINY_VQ)
    nn.init.normal_(vq.quantize.embedding.weight)
    z = draw_noise([5], (3, 40, 24))
    expected = vq.decode(z)
    pack(vq)
    torch.testing.assert_close(decode_tiled(vq, z, tile=16), expected, rtol=1e-4, atol=1e-4)
