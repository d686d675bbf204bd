"""A checkpoint as MODEL, VAE and CLIP, and again as other ones where the host asks for them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from comfy.model_patcher import ModelPatcher
from comfy.sd import CLIP

from ...ldm_backend.checkpoints.checkpoint import read_checkpoint
from ...ldm_backend.checkpoints.file_marks import FileMark
from ...ldm_backend.config.model import LDMConfig
from ...ldm_backend.errors import CheckpointError, InputError
from .conditioners.text import make_clip
from .folders import checkpoint_path
from .model import make_model
from .vae import LDMVAE, make_first_stage


@dataclass(frozen=True)
class Choice:
    """What the user chose.

    Attributes:
        name: Of the checkpoint, as listed.
        weights: One of `WEIGHTS`.
        config: Name of a preset; None reads the configuration in the file or beside it.
        precision: Of the UNet, one of `PRECISIONS`.
        compiled: See `UNet.compile_evaluation`.
        vae_precision: Of the first stage, one of `FIRST_STAGE_PRECISIONS`.
    """

    name: str
    weights: str
    config: str | None
    precision: str
    compiled: bool
    vae_precision: str


@torch.inference_mode(False)  # no gradient goes through weights that are made within the host's
def load_checkpoint(choice: Choice) -> tuple[ModelPatcher, LDMVAE, CLIP | None]:
    """Read, check and wrap the networks; only a model of texts has a CLIP.

    Raises:
        LDMError: Unknown name, or files that are missing, damaged, refused or of another family.
    """
    found = read_checkpoint(checkpoint_path(choice.name), choice.weights, choice.config)
    files = FileMark.of(found.unet_file), FileMark.of(found.first_stage_file)
    first_stage = make_first_stage(
        found.config.first_stage, found.first_stage, found.first_stage_file, choice.vae_precision
    )
    model = make_model(choice.name, found, first_stage, choice.precision, choice.compiled)
    vae = LDMVAE(first_stage, files[1])
    clip = make_clip(found)
    patchers = (model, vae.patcher) if clip is None else (model, vae.patcher, clip.patcher)
    for place, patcher in enumerate(patchers):
        # Hosts newer than 0.3.75 load a model anew for a second device; older ones do not look at it.
        patcher.cached_patcher_init = (_again, (choice, files), place)  # pyright: ignore[reportAttributeAccessIssue]
    return model, vae, clip


def _again(choice: Choice, files: tuple[FileMark, FileMark], disable_dynamic: bool = False) -> tuple[ModelPatcher, ...]:
    """The patchers of MODEL, VAE and, of a model of texts, CLIP from the files that they were read from before.

    Args:
        choice: As then.
        files: As they were then; others would give another model under the same name.
        disable_dynamic: The host's wish for a plain ModelPatcher, which ours are anyway.

    Raises:
        LDMError: As `load_checkpoint`.
        CheckpointError: The files are not what they were.
    """
    for mark in files:
        if FileMark.of(mark.path) != mark:
            raise CheckpointError(
                f"{mark.path}: the file is not the one that this model was loaded from any more, so the model cannot "
                "be loaded for a second device. Run LDM Checkpoint Loader again."
            )
    model, vae, clip = load_checkpoint(choice)
    return (model, vae.patcher) if clip is None else (model, vae.patcher, clip.patcher)


def check_belongs(vae: LDMVAE, config: LDMConfig) -> None:
    """Refuse a VAE that is not the one of a MODEL with this configuration.

    Raises:
        InputError: Their first stages differ.
    """
    if vae.first_stage_model.config != config.first_stage:
        raise InputError(
            "vae: the VAE is not the one that this MODEL was trained with: their configurations differ. Connect both "
            "from the same LDM Checkpoint Loader."
        )
