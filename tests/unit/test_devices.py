"""Tensors of different wires, or weights and what they are applied to, may lie on different devices."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from two_devices import ELSEWHERE, HANDING_OVER, second_device

from ldm_backend.editing.inpainting import composite
from ldm_backend.editing.interpolation import circle, slerp
from ldm_backend.networks.tiled_decode import MIN_TILE, decode_tiled
from ldm_backend.networks.unet import UNet
from ldm_backend.networks.vq import VQModel
from ldm_backend.views.code_view import view_codes
from ldm_backend.views.latent_rgb import fit_latent_rgb, place_of

CPU = torch.device("cpu")


def draw(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_the_second_device_refuses_to_mix():
    with second_device():
        far = torch.ones(3).to(ELSEWHERE)
        assert far.device == ELSEWHERE
        assert (2 * far).sum().item() == 6
        with pytest.raises(RuntimeError, match="same device"):
            _ = far + torch.ones(3)
        with pytest.raises(RuntimeError, match="same device"):
            torch.nn.functional.linear(far, torch.ones(3, 3))


@pytest.mark.parametrize("places", [(ELSEWHERE, ELSEWHERE, CPU), (ELSEWHERE, CPU, CPU), (CPU, ELSEWHERE, ELSEWHERE)])
@pytest.mark.parametrize("feather", [0, 2])
def test_a_composite_takes_pictures_and_mask_from_anywhere(places, feather):
    parts = (draw(1, 8, 8, 3), draw(2, 8, 8, 3, seed=1), (draw(8, 8, seed=2) > 0).float())
    image, inpainted, mask = parts
    expected = composite(image, inpainted, mask, feather)
    with second_device(), torch.no_grad():
        image, inpainted, mask = (part.to(place) for part, place in zip(parts, places, strict=True))
        found = composite(image, inpainted, mask, feather)
        assert found.device == places[0]
        assert found.cpu().equal(expected)


@pytest.mark.parametrize("places", [(ELSEWHERE, CPU), (CPU, ELSEWHERE)])
def test_a_walk_leads_from_one_device_to_the_other(places):
    a, b = draw(1, 3, 4, 4), draw(1, 3, 4, 4, seed=1)
    expected = slerp(a, b, 0.3), circle(a, b, 5)
    with second_device(), torch.no_grad():
        a, b = (end.to(place) for end, place in zip((a, b), places, strict=True))
        found = slerp(a, b, 0.3), circle(a, b, 5)
        assert {made.device for made in found} == {places[0]}
        assert all(made.cpu().equal(wanted) for made, wanted in zip(found, expected, strict=True))


@pytest.fixture
def handed_over(tiny) -> VQModel:
    """The first stage with its weights on the CPU, as a host without room on its card keeps them."""
    vq = VQModel(tiny.config.first_stage, HANDING_OVER).eval().requires_grad_(False)
    vq.load_state_dict(tiny.first_stage.state_dict())
    return vq


def test_weights_may_stay_on_the_cpu(tiny, handed_over):
    """Where a layer's weights are read directly, and not by calling it."""
    z = draw(1, 3, 2 * MIN_TILE, MIN_TILE)
    with torch.no_grad():
        expected = (
            tiny.first_stage.decode(z),
            decode_tiled(tiny.first_stage, z, MIN_TILE),
            view_codes(tiny.first_stage, z),
        )
    with second_device(), torch.no_grad():
        far = z.to(ELSEWHERE)
        assert torch.allclose(handed_over.decode(far).cpu(), expected[0], rtol=0, atol=1e-5)
        assert torch.allclose(decode_tiled(handed_over, far, MIN_TILE), expected[1], rtol=0, atol=1e-5)
        view = view_codes(handed_over, far)
        assert view.indices.cpu().equal(expected[2].indices)
        assert torch.allclose(view.codes.cpu(), expected[2].codes, atol=1e-4)


def test_colours_are_fitted_where_the_layers_can_compute(tiny):
    """A host may have moved a part of the weights off the card: those left there cannot be handed to the CPU."""
    vq = VQModel(tiny.config.first_stage).eval().requires_grad_(False)
    vq.load_state_dict(tiny.first_stage.state_dict())
    expected = fit_latent_rgb(vq)
    assert place_of(vq) == CPU
    with second_device(), torch.no_grad():
        for network in (vq.decoder, vq.post_quant_conv):  # the codebook stays
            for module in network.modules():
                weights: Any = module._parameters  # tensors, no leaves as torch wants them
                weights.update({name: weight.to(ELSEWHERE) for name, weight in weights.items() if weight is not None})
        assert place_of(vq) == ELSEWHERE
        found = fit_latent_rgb(vq)
    assert torch.allclose(torch.tensor(found.weight), torch.tensor(expected.weight), atol=1e-4)


def test_a_network_takes_latents_of_its_device(tiny):
    unet = UNet(tiny.config.unet, HANDING_OVER).eval().requires_grad_(False)
    unet.load_state_dict(tiny.unet.state_dict())
    x = draw(2, 3, 8, 8)
    with second_device(), torch.no_grad():
        found = unet(x.to(ELSEWHERE), 500.0)
        assert torch.allclose(found.cpu(), tiny.unet(x, 500.0), rtol=0, atol=1e-4)
