"""Tiny models that draw from texts, always with the same random weights, for tests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from class_models import GUIDED
from compvis_writer import compvis_state_dict
from conditional_models import Weights
from conditional_models import random_weights as weights_of_others
from torch import Tensor

import ldm_backend
from ldm_backend.checkpoints.checkpoint import Checkpoint
from ldm_backend.checkpoints.conversion import convert_to_folder
from ldm_backend.checkpoints.key_maps import compvis_text_sources
from ldm_backend.config.conditioning import TextConfig
from ldm_backend.config.model import LDMConfig
from ldm_backend.networks.conditioners.text_encoder import TextEncoder
from ldm_backend.texts.vocabulary import Vocabulary

WORDS = (
    *(
        "[PAD]",
        "[unused0]",
        "[UNK]",
        "[CLS]",
        "[SEP]",
        "a",
        "an",
        "the",
        "of",
        "smiling",
        "woman",
        "man",
        "hair",
        "red",
    ),
    *("##s", "##dish", "glasses", "with", ",", ".", "cafe"),
)
VOCABULARY = Vocabulary(WORDS)
# With a vocabulary of its own, as such models have that were not trained by the authors.
OWN = replace(
    GUIDED,
    conditioning=TextConfig(len(WORDS), max_tokens=77, embed_dim=12, layers=2, heads=2, head_dim=8),
)
# With that of the released models, as checkpoints of the original's layout must have it.
BERT = replace(GUIDED, conditioning=TextConfig(max_tokens=12, embed_dim=12, layers=2, heads=8, head_dim=4))
RELEASES = {"text2img-large": "text-to-image-large-256", "text2img256": "text-to-image-256"}


def random_weights(config: LDMConfig) -> Weights:
    """Of a whole model; the encoder says what a text is loudly enough for the UNet to hear it."""
    weights, one = weights_of_others(config), config.conditioning
    assert isinstance(one, TextConfig)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        return weights._replace(conditioner=TextEncoder(one).state_dict())


def compvis_tensors(config: LDMConfig, ema: bool = False) -> dict[str, Tensor]:
    """A whole checkpoint in the layout of CompVis; averaged weights, if any, are twice the raw ones."""
    weights, one = random_weights(config), config.conditioning
    assert isinstance(one, TextConfig)
    averaged = {key: 2 * tensor for key, tensor in weights.unet.items()} if ema else None
    state = compvis_state_dict(config, weights.unet, weights.first_stage, averaged)
    for ours, theirs in compvis_text_sources(one.layers).items():
        state[f"cond_stage_model.{theirs}"] = weights.conditioner[ours]
    logits = {"weight": torch.ones(one.vocab_size, one.embed_dim), "bias": torch.ones(one.vocab_size)}
    return state | {f"cond_stage_model.transformer.to_logits.{key}": tensor for key, tensor in logits.items()}


def write_ckpt(
    folder: Path, config: LDMConfig = BERT, ema: bool = False, changes: Mapping[str, Tensor] | None = None
) -> Path:
    """As training leaves it, some tensors perhaps changed."""
    table = {"state_dict": compvis_tensors(config, ema) | dict(changes or {}), "global_step": 7}
    torch.save(table, folder / "model.ckpt")
    return folder / "model.ckpt"


def checkpoint_of(config: LDMConfig = OWN, vocabulary: Vocabulary = VOCABULARY) -> Checkpoint:
    """A model as if it had been read."""
    nowhere = Path("tiny")
    return Checkpoint(
        nowhere, nowhere, nowhere, "huggingface", "only", config, *random_weights(config), None, vocabulary
    )


def write_text_folder(folder: Path, config: LDMConfig = OWN, vocabulary: Vocabulary = VOCABULARY) -> Path:
    """The Hugging Face layout in a folder that must not be there yet."""
    convert_to_folder(checkpoint_of(config, vocabulary), folder)
    return folder


def load_texts(folder: Path) -> ldm_backend.LatentDiffusion:
    """The model with a vocabulary of its own, on the CPU, by way of a folder that must not be there yet."""
    return ldm_backend.load(write_text_folder(folder), "cpu")
