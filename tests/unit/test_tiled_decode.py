"""Tiles of a decoded image show the undivided decoder's picture, and need little memory."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from ldm_backend.config.model import KLConfig, VQConfig
from ldm_backend.errors import InputError
from ldm_backend.networks.kl import KLModel
from ldm_backend.networks.precision import set_first_stage_precision
from ldm_backend.networks.tiled_decode import MIN_TILE, decode_tiled
from ldm_backend.networks.vq import VQModel
from ldm_backend.sampling.noise import draw_noise

VQ = VQConfig(block_out_channels=(8, 8, 16), layers_per_block=1, num_vq_embeddings=64, norm_num_groups=4)
KL = KLConfig(
    latent_channels=4, block_out_channels=(8, 16, 16, 24), layers_per_block=2, norm_num_groups=4, scale_factor=0.3
)
FLAT = VQConfig(block_out_channels=(8,), layers_per_block=1, num_vq_embeddings=64, norm_num_groups=4)


def random_model(config: VQConfig | KLConfig) -> VQModel | KLModel:
    """Random weights, with norms that scale and shift each channel differently, as trained ones do."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = VQModel(config) if isinstance(config, VQConfig) else KLModel(config)
        for module in model.modules():
            if isinstance(module, nn.GroupNorm):
                nn.init.uniform_(module.weight, 0.5, 2.0)
                nn.init.normal_(module.bias, std=0.5)
    return model


def uneven_noise(model: VQModel | KLModel, seeds: list[int], height: int, width: int) -> torch.Tensor:
    """Noise that is stronger and brighter to the right, so that tiles have other statistics than the whole."""
    z = draw_noise(seeds, (model.config.z_channels, height, width))
    ramp = torch.linspace(0.1, 2.0, width)
    return z * ramp + ramp - 1.0


@torch.no_grad()
@pytest.mark.parametrize("config", [VQ, KL, FLAT], ids=["vq", "kl", "one-level"])
@pytest.mark.parametrize(("height", "width"), [(37, 50), (16, 33), (70, 8)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-4)])
def test_the_picture_of_the_undivided_decoder(config, height, width, dtype, tolerance):
    """Nothing but rounding, some hundred times the precision of the type, in parts of the standard deviation."""
    model = random_model(config).to(dtype)
    z = uneven_noise(model, [1], height, width).to(dtype)
    whole = model.decode(z)
    tiled = decode_tiled(model, z, tile=16)
    assert tiled.shape == whole.shape
    assert tiled.dtype == whole.dtype
    assert (tiled - whole).abs().max() < tolerance * whole.std()


@torch.no_grad()
@pytest.mark.parametrize("config", [VQ, KL, FLAT], ids=["vq", "kl", "one-level"])
def test_tiles_in_a_short_format_are_as_near_to_the_exact_picture_as_the_undivided_ones(config):
    """The statistics stay exact: rounded to bf16, they alone would be worse than all that the format rounds."""
    model = random_model(config)
    z = uneven_noise(model, [1], 37, 50)
    exact = model.decode(z)
    set_first_stage_precision(model, "bf16")
    whole, tiled = model.decode(z), decode_tiled(model, z, tile=16)
    assert tiled.dtype == torch.float32
    assert 0 < (tiled - exact).std() < 1.1 * (whole - exact).std()


@torch.no_grad()
def test_tiles_with_their_own_statistics_would_fail_this_test():
    """The test above can fail: the naive way is three orders of magnitude above its widest tolerance."""
    model = random_model(VQ)
    z = uneven_noise(model, [1], 32, 64)
    whole = model.decode(z)
    naive = torch.cat([model.decode(part) for part in z.split(16, dim=3)], dim=3)
    assert (naive - whole).abs().max() > 0.1 * whole.std()


@torch.no_grad()
def test_a_latent_of_one_tile_is_decoded_as_ever():
    model = random_model(VQ)
    z = uneven_noise(model, [1], 16, 16)
    assert torch.equal(decode_tiled(model, z, tile=16), model.decode(z))


@torch.no_grad()
@pytest.mark.parametrize("side", [16, 24])
def test_an_image_does_not_depend_on_its_batch(side):
    """Statistics belong to one image."""
    model = random_model(VQ)
    z = uneven_noise(model, [1, 2], side, side)
    z[1] *= 3.0
    assert torch.equal(decode_tiled(model, z, tile=16)[1:], decode_tiled(model, z[1:], tile=16))


@torch.no_grad()
def test_the_latent_is_left_alone():
    model = random_model(KL)
    z = uneven_noise(model, [1], 24, 24)
    before = z.clone()
    decode_tiled(model, z, tile=16)
    assert torch.equal(z, before)


class LargestTensor(TorchDispatchMode):
    """Remembers the most values that any operation returned in one tensor."""

    values = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and not out._is_view():
            self.values = max(self.values, out.numel())
        return out


def largest(model: VQModel | KLModel, side: int, tile: int | None) -> int:
    with LargestTensor() as mode:
        z = torch.zeros(1, model.config.z_channels, side, side)
        _ = model.decode(z) if tile is None else decode_tiled(model, z, tile)
    return mode.values


@torch.no_grad()
def test_no_tensor_holds_the_features_of_the_whole_image():
    """The largest is the image itself or a coarse level, and not the finest level's 8 channels."""
    model = random_model(VQ)
    pixels = (96 * 4) ** 2
    assert largest(model, 96, tile=None) >= 8 * pixels
    assert largest(model, 96, tile=16) <= 3 * pixels


@torch.no_grad()
@pytest.mark.parametrize(("side", "runs"), [(16, 2), (20, None)])
def test_progress_counts_to_its_end(side, runs):
    """One tile: one count an image. Several: every run of a tile, evenly to the announced number."""
    model, counts = random_model(VQ), []
    decode_tiled(model, draw_noise([1, 2], (3, side, side)), tile=16, callback=lambda *count: counts.append(count))
    total = counts[0][1]
    assert counts == [(index + 1, total) for index in range(total)]
    assert runs is None or total == runs


def test_an_exception_of_the_callback_ends_the_decode():
    def cancel(done: int, total: int) -> None:
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        decode_tiled(random_model(VQ), torch.zeros(1, 3, 20, 20), tile=16, callback=cancel)


def test_wrong_arguments_are_named():
    model = random_model(VQ)
    with pytest.raises(InputError, match=f"tile is 15; expected at least {MIN_TILE}"):
        decode_tiled(model, torch.zeros(1, 3, 8, 8), tile=15)
    for shape in [(1, 4, 8, 8), (1, 4, 40, 40), (3, 8, 8)]:
        with pytest.raises(InputError, match=r"expects \(N, 3, H, W\)"):
            decode_tiled(model, torch.zeros(shape), tile=16)
