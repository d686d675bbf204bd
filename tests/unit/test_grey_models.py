"""Models of grey pictures: one channel in and out, from the checkpoint to the PNG."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from model_folder import write_model_folder
from PIL import Image

import ldm_backend
from ldm_backend.config.model import KLConfig, LDMConfig, VQConfig
from ldm_backend.errors import ConfigError
from ldm_backend.networks.tiled_decode import decode_tiled
from ldm_backend.views.images import as_channels, to_uint8
from ldm_backend.views.latent_rgb import fit_cells, paired_cells, probe_cells
from ldm_headless.files.png import encode_png, pixels_sha256, read_png

STAGES = {
    "vq": VQConfig(
        in_channels=1, out_channels=1, block_out_channels=(8, 8, 16), layers_per_block=1, num_vq_embeddings=64,
        norm_num_groups=4,
    ),
    "kl": KLConfig(
        in_channels=1, out_channels=1, latent_channels=3, block_out_channels=(8, 16), layers_per_block=1,
        norm_num_groups=4,
    ),
}  # fmt: skip


@pytest.fixture(params=STAGES)
def folder(request, tiny, tmp_path) -> Path:
    return write_model_folder(tmp_path / "grey", LDMConfig(unet=tiny.config.unet, first_stage=STAGES[request.param]))


@torch.no_grad()
def test_grey_out(folder):
    model = ldm_backend.load(folder, device="cpu")
    side = 8 * model.first_stage.downscale
    images = ldm_backend.generate(model, seeds=(1, 2), steps=2)
    assert images.shape == (2, side, side, 1)
    z = torch.randn((1, 3, 17, 18), generator=torch.Generator().manual_seed(0))
    assert (
        np.abs(
            to_uint8(decode_tiled(model.first_stage, z, 16)).astype(int) - to_uint8(model.first_stage.decode(z))
        ).max()
        <= 1
    )
    data = encode_png(images[0], {"seed": 1})
    with Image.open(io.BytesIO(data)) as picture:
        assert picture.mode == "L"
        assert np.array_equal(np.asarray(picture), images[0, ..., 0])
    again = read_png(io.BytesIO(data), "a.png")
    assert pixels_sha256(again) == pixels_sha256(images[0])
    assert probe_cells(model.first_stage).colours.shape[1] == 3


@torch.no_grad()
def test_grey_in(folder):
    stage = ldm_backend.load(folder, device="cpu").first_stage
    grey = torch.rand((1, 1, 32, 32), generator=torch.Generator().manual_seed(0)) * 2 - 1
    colours = as_channels(grey, 3)
    assert torch.equal(as_channels(colours, 1), grey)
    assert torch.equal(stage.encode(as_channels(colours, stage.config.in_channels)), stage.encode(grey))
    assert len(fit_cells(paired_cells(stage.encode(grey), colours, stage.downscale)).bias) == 3


def test_the_luma_is_that_of_bt_601():
    x = torch.tensor([1.0, 0.5, 0.25]).view(1, 3, 1, 1)
    assert as_channels(x, 1).item() == pytest.approx(0.299 + 0.587 * 0.5 + 0.114 * 0.25)
    assert as_channels(x, 3) is x


@pytest.mark.parametrize(("inside", "outside"), [(4, 4), (2, 2), (3, 1), (1, 3), (3, 4)])
def test_other_channels_are_refused_at_load(inside, outside):
    with pytest.raises(ConfigError, match=r"expected 3 \(RGB\) or 1 \(grey\) in both"):
        replace(STAGES["vq"], in_channels=inside, out_channels=outside)
