"""What a checkpoint must hold, part by part, for tests of all kinds of models."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from compvis_writer import published_shapes
from torch import Tensor

from ldm_backend.checkpoints.checkpoint import Checkpoint
from ldm_backend.checkpoints.compvis import from_compvis
from ldm_backend.checkpoints.conditioner import conditioner_from_compvis, conditioner_shapes
from ldm_backend.checkpoints.configuration import fitting_presets
from ldm_backend.checkpoints.tensor_files import TensorFile
from ldm_backend.config.model import LDMConfig
from ldm_backend.config.presets import PRESETS
from ldm_backend.errors import CheckpointError
from ldm_backend.networks.first_stage import build_first_stage
from ldm_backend.networks.unet import UNet


def meta_file(release: str) -> TensorFile:
    """The tensors of a release, without their numbers."""
    shapes = published_shapes(release.replace("512", "256"))  # of the same networks
    return TensorFile(Path("a.ckpt"), {key: torch.empty(shape, device="meta") for key, shape in shapes.items()})


def assert_every_tensor_has_a_place(file: TensorFile, config: LDMConfig) -> None:
    """Of all networks, no tensor is left over, and none is missing."""
    unet, first_stage = from_compvis(file, config, "raw")
    conditioner = conditioner_from_compvis(file, config)
    for found, module in (
        (unet, UNet(config.unet, device="meta")),
        (first_stage, build_first_stage(config.first_stage, device="meta")),
    ):
        expected = {key: tensor.shape for key, tensor in module.state_dict().items()}
        assert {key: tensor.shape for key, tensor in found.items()} == expected
    assert {key: tuple(tensor.shape) for key, tensor in conditioner.items()} == conditioner_shapes(config)


def assert_taken_only_where_it_fits(release: str, preset: str) -> None:
    """A release's tensors are read by the presets of their shapes, and refused by the others."""
    file, config = meta_file(release), PRESETS[preset]
    try:
        from_compvis(file, config, "raw")
        conditioner_from_compvis(file, config)
        taken = True
    except CheckpointError:
        taken = False
    assert taken == (preset in fitting_presets(file.tensors))


def assert_holds(
    checkpoint: Checkpoint, config: LDMConfig, weights: Iterable[Mapping[str, Tensor]], factor: float = 1
) -> None:
    """The configuration, and the weights of UNet, first stage and conditioner, those of the UNet times a factor."""
    assert checkpoint.config == config
    parts = (checkpoint.unet, checkpoint.first_stage, checkpoint.conditioner)
    for part, expected, times in zip(parts, weights, (factor, 1, 1), strict=True):
        assert part.keys() == expected.keys()
        for key, tensor in expected.items():
            assert torch.equal(part[key], times * tensor), key
