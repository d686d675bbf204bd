"""The picture of the quantiser, against a codebook that can be written down."""

from __future__ import annotations

import pytest
import torch

from ldm_backend.config.model import KLConfig, VQConfig
from ldm_backend.errors import InputError
from ldm_backend.networks.kl import KLModel
from ldm_backend.networks.vq import VQModel
from ldm_backend.sampling.noise import draw_noise
from ldm_backend.views.code_view import code_spacing, heat, view_codes
from ldm_backend.views.latent_rgb import fit_latent_rgb

SMALL = {"sample_size": 32, "block_out_channels": (8, 8, 16), "layers_per_block": 1, "norm_num_groups": 4}


@pytest.fixture
def vq() -> VQModel:
    """Two codes at distance 1, a third one at distance 3 from its nearest: a spacing of (1 + 1 + 3) / 3."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = VQModel(VQConfig(num_vq_embeddings=3, scale_factor=2.0, **SMALL))
    with torch.no_grad():
        model.quantize.embedding.weight.copy_(torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 3, 0]]))
    return model


def latent(*cells: tuple[float, float, float]) -> torch.Tensor:
    """(1, 3, 1, cells) in units of the codebook, scaled as the diffusion model's latents are."""
    return 2.0 * torch.tensor(cells).T.view(1, 3, 1, -1)


def test_spacing(vq):
    assert code_spacing(vq) == pytest.approx(5 / 3)


def test_cells_snap_to_their_codes(vq):
    z = latent((0.1, 0, 0), (0.9, 0, 0.4), (0, 2, 0), (1, 0, 0))
    view = view_codes(vq, z)
    assert view.indices.tolist() == [[[0, 1, 2, 1]]]
    assert torch.equal(view.quantised, latent((0, 0, 0), (1, 0, 0), (0, 3, 0), (1, 0, 0)))
    expected = torch.tensor([0.1, (0.1**2 + 0.4**2) ** 0.5, 1.0, 0.0]) / (5 / 3)
    torch.testing.assert_close(view.relative[0, 0], expected)


def test_pictures_are_blocks_in_the_colours_of_the_preview(vq):
    z = latent((0.1, 0, 0), (0.9, 0, 0.4))
    view = view_codes(vq, z)
    assert view.codes.shape == view.distance.shape == (1, 4, 8, 3)
    rgb = fit_latent_rgb(vq)
    for block, code in ((view.codes[0, :, :4], (0.0, 0.0, 0.0)), (view.codes[0, :, 4:], (2.0, 0.0, 0.0))):
        colour = torch.tensor([code]) @ torch.tensor(rgb.weight) + torch.tensor(rgb.bias)
        expected = ((colour + 1) / 2).clamp(0, 1).expand(4, 4, 3)
        torch.testing.assert_close(block, expected)
    torch.testing.assert_close(view.distance[0, :, :4], heat(view.relative[0, 0, 0]).expand(4, 4, 3))


def test_quantised_latents_decode_to_the_same_picture(tiny):
    z = draw_noise([1, 2], (3, 8, 8))
    with torch.no_grad():
        assert torch.equal(
            tiny.first_stage.decode(view_codes(tiny.first_stage, z).quantised), tiny.first_stage.decode(z)
        )


def test_images_do_not_depend_on_their_batch(tiny):
    z = draw_noise([1, 2, 3], (3, 8, 8))
    whole, alone = view_codes(tiny.first_stage, z), view_codes(tiny.first_stage, z[1:2])
    torch.testing.assert_close(whole.codes[1:2], alone.codes)
    torch.testing.assert_close(whole.distance[1:2], alone.distance)


def test_heat_rises_in_lightness():
    colours = heat(torch.linspace(0.0, 2.0, 41))
    lightness = colours @ torch.tensor([0.2126, 0.7152, 0.0722])
    assert (lightness.diff() > 0).all()
    assert lightness[0] < 0.05
    assert lightness[-1] > 0.9
    assert torch.equal(heat(torch.tensor(50.0)), colours[-1])


def test_a_first_stage_without_codebook():
    with pytest.raises(InputError, match="no codes to show"):
        view_codes(KLModel(KLConfig(**SMALL)), torch.zeros(1, 3, 4, 4))


@pytest.mark.parametrize("codes", [1, 3])
def test_a_codebook_of_equal_codes(codes):
    vq = VQModel(VQConfig(num_vq_embeddings=codes, **SMALL))
    torch.nn.init.zeros_(vq.quantize.embedding.weight)
    with pytest.raises(InputError, match=f"{codes} codes are all the same"):
        code_spacing(vq)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_latents_that_are_no_numbers(vq, value):
    with pytest.raises(InputError, match="NaN or infinity"):
        view_codes(vq, latent((value, 0, 0)))


def test_latents_of_another_family(vq):
    with pytest.raises(InputError, match=r"\(1, 4, 4, 4\)"):
        view_codes(vq, torch.zeros(1, 4, 4, 4))
