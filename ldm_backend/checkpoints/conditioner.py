"""What a checkpoint holds for its conditioning: a trained map of labels, a table of classes, the encoder of a text.

Or a copy of the first stage, or nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..config.conditioning import ClassConfig, MaskedImageConfig, SegmentationConfig, TextConfig
from ..config.model import LDMConfig
from ..errors import CheckpointError, first_names, printable
from ..networks.conditioners.text_encoder import TextEncoder
from .compvis import CONDITIONER, FIRST_STAGE, refuse_foreign, unused_by_first_stage
from .key_maps import compvis_text_sources
from .tensor_files import StateDict, TensorFile, under

# Of a text encoder: what only its training would need, which words it guesses. Nothing attends to that.
_TEXT_UNUSED = ("to_logits.weight", "to_logits.bias")
_LDM_BERT = "model."  # before the names of the encoder in a file of diffusers' LDMBertModel


def conditioner_shapes(config: LDMConfig) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the tensors that make the conditioning of a model; most have none."""
    one = config.conditioning
    if isinstance(one, ClassConfig):
        return {"embedding.weight": (one.n_classes, one.embed_dim)}
    if isinstance(one, TextConfig):
        return {key: tuple(tensor.shape) for key, tensor in TextEncoder(one, device="meta").state_dict().items()}
    if not isinstance(one, SegmentationConfig):
        return {}
    return {"channel_mapper.weight": (one.out_channels, one.n_labels, 1, 1)}


def conditioner_from_compvis(file: TensorFile, config: LDMConfig) -> StateDict:
    """The tensors that make the conditioning, out of a checkpoint in the layout of CompVis.

    An inpainting model conditions on latents of its first stage, which its checkpoint may hold a second time.

    Args:
        file: Whole.
        config: Of the model.

    Returns:
        Under our names.

    Raises:
        CheckpointError: A tensor is missing, or one is there that the conditioning does not have.
    """
    found = {key.removeprefix(CONDITIONER): key for key in file.tensors if key.startswith(CONDITIONER)}
    if isinstance(config.conditioning, MaskedImageConfig):
        _check_copy(file, found)
        return {}
    places = _compvis_names(config)
    unused = {f"transformer.{name}" for name in _TEXT_UNUSED} if isinstance(config.conditioning, TextConfig) else set()
    refuse_foreign(file, [found[name] for name in found.keys() - set(places.values()) - unused])
    tensors = {ours: file.tensors[found[theirs]] for ours, theirs in places.items() if theirs in found}
    check_conditioner(config, tensors, f"{file.path}: {CONDITIONER}")
    return tensors


def text_encoder_from_diffusers(file: TensorFile) -> StateDict:
    """The tensors of a text encoder in a file of diffusers' LDMBertModel, under our names.

    Raises:
        CheckpointError: One is there that the encoder does not have.
    """
    refuse_foreign(file, [key for key in file.tensors if not key.startswith(_LDM_BERT) and key not in _TEXT_UNUSED])
    return under(_LDM_BERT, file.tensors)


def text_encoder_to_diffusers(tensors: Mapping[str, Tensor]) -> StateDict:
    """The inverse of `text_encoder_from_diffusers`, without what nothing reads."""
    return {_LDM_BERT + key: tensor for key, tensor in tensors.items()}


def _compvis_names(config: LDMConfig) -> dict[str, str]:
    """Our names -> those below `cond_stage_model.`; but for texts they are the same."""
    one = config.conditioning
    return (
        compvis_text_sources(one.layers) if isinstance(one, TextConfig) else {k: k for k in conditioner_shapes(config)}
    )


def check_conditioner(config: LDMConfig, tensors: Mapping[str, Tensor], source: str | Path) -> None:
    """Raise CheckpointError unless these are exactly the tensors of `conditioner_shapes`; `source` is named."""
    expected = conditioner_shapes(config)
    found = {key: tuple(tensor.shape) for key, tensor in tensors.items()}
    if expected == found:
        return
    wrong = {key for key in expected.keys() | found.keys() if expected.get(key) != found.get(key)}
    first = min(wrong)
    raise CheckpointError(
        f"{source}: the conditioning does not fit the configuration ({first_names(wrong)}; {printable(first)} is "
        f"{found.get(first, 'missing')}, expected {expected.get(first, 'none')}). Take the configuration and the "
        f"weights from the same model; this configuration is of a model for {config.task}."
    )


def _check_copy(file: TensorFile, found: Mapping[str, str]) -> None:
    """The tensors must be those of the first stage again: of another one the picture would be another."""
    other = []
    for name, key in found.items():
        original, copy = file.tensors.get(FIRST_STAGE + name), file.tensors[key]
        if unused_by_first_stage(name):
            continue
        if original is None or original.shape != copy.shape or not _same(original, copy):
            other.append(key)
    if other:
        raise CheckpointError(
            f"{file.path}: {first_names(other)} differ from {FIRST_STAGE}*. An inpainting model of this family sees "
            "its picture through its own first stage; one with another is not implemented. Take the checkpoint as "
            "training wrote it."
        )


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether both hold the same numbers; mostly they are one place in the file."""
    if one.data_ptr() == other.data_ptr() and one.stride() == other.stride():
        return True
    return one.dtype == other.dtype and torch.equal(one, other)
