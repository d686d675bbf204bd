"""What the images of a run attend to: classes by their numbers, texts, or vectors of CLIP; checked and encoded."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .config.conditioning import ClassConfig, SegmentationConfig, TextConfig, VectorsConfig, purpose_of
from .config.model import LDMConfig
from .errors import InputError, short_repr
from .kernels.fp32 import in_fp32
from .networks import skip_init
from .networks.conditioned import check_cfg, check_classes
from .networks.conditioners.class_embedder import ClassEmbedder
from .networks.conditioners.clip_vectors import vectors_context
from .networks.conditioners.spatial_rescaler import SpatialRescaler
from .networks.conditioners.text_encoder import TextEncoder
from .texts.tokeniser import Tokeniser, warnings_of
from .texts.vocabulary import Vocabulary

logger = logging.getLogger("comfyui_ldm")

Conditioner = SpatialRescaler | ClassEmbedder | TextEncoder

_AT_ONCE = 8  # texts: some 40 MB of work in the largest encoder


@dataclass(frozen=True)
class Wanted:
    """What is wanted of the images of a run, beside pictures.

    Attributes:
        classes: The class of each image by its number, None for no class.
        prompts: The text of each image, or one for all.
        negative: What guidance leads away from, likewise; an empty text is nothing in particular.
        cfg: The scale of guidance without a classifier, see `Attending`.
        vectors: Of CLIP, of the images, see `vectors_context`.
    """

    classes: Sequence[int | None] | None = None
    prompts: str | Sequence[str] | None = None
    negative: str | Sequence[str] = ""
    cfg: float = 1.0
    vectors: Tensor | Sequence[Tensor] | None = None

    @property
    def given(self) -> bool:
        """Whether the images attend to anything."""
        return self.kind is not None

    @property
    def kind(self) -> str | None:
        """The name of what is given, of which there is at most one."""
        return next((name for name in ("classes", "prompts", "vectors") if getattr(self, name) is not None), None)


def build_conditioner(config: LDMConfig) -> Conditioner | None:
    """What makes the conditioning of a model with weights, on the meta device; None where that has none."""
    one = config.conditioning
    if isinstance(one, SegmentationConfig):
        return SpatialRescaler(one, skip_init, device="meta")
    if isinstance(one, ClassConfig):
        return ClassEmbedder(one, skip_init, device="meta")
    return TextEncoder(one, skip_init, device="meta") if isinstance(one, TextConfig) else None


def build_tokeniser(config: LDMConfig, vocabulary: Vocabulary | None, source: str) -> Tokeniser | None:
    """What makes tokens of texts, of a model that draws from them; `source` is named in errors.

    Raises:
        ConfigError: `tokenizers` is not installed, or the vocabulary is of another model.
    """
    one = config.conditioning
    return Tokeniser(vocabulary, one, source) if isinstance(one, TextConfig) and vocabulary is not None else None


def check_wanted(wanted: Wanted, config: LDMConfig, images: int) -> None:
    """Refuse what a model cannot draw, before anything is computed.

    Args:
        wanted: Of the images; the networks that take it in know which classes there are.
        config: Of the model.
        images: That are to be drawn.

    Raises:
        InputError: Classes, texts or vectors for a model of another task, missing, or of another number than the
            images; or guidance that cannot be.
    """
    one = config.conditioning
    if isinstance(one, VectorsConfig):
        _check_vectors(wanted, one, config.task, images)
        return
    if wanted.vectors is not None:
        raise InputError(
            f"vectors are given; expected None, as this model {purpose_of(config.task)}. Leave them out, or load a "
            "model of vectors."
        )
    if not isinstance(one, TextConfig):
        if wanted.prompts is not None or wanted.negative != "":
            raise InputError(
                f"prompts are {short_repr(wanted.prompts)} and negative {short_repr(wanted.negative)}; expected None "
                f'and "", as this model {purpose_of(config.task)}. Leave them out, or load a model of texts.'
            )
        check_classes(wanted.classes, wanted.cfg, config, images)
        return
    check_cfg(wanted.cfg)
    if wanted.classes is not None:
        raise InputError(
            f"classes are {short_repr(wanted.classes)}; expected None, as this model {purpose_of(config.task)}. Give "
            "prompts."
        )
    for name, texts in (("prompts", wanted.prompts), ("negative", wanted.negative)):
        _check_texts(name, texts, images)


def _check_vectors(wanted: Wanted, one: VectorsConfig, task: str, images: int) -> None:
    check_cfg(wanted.cfg)
    others = {"classes": wanted.classes, "prompts": wanted.prompts, "negative": wanted.negative or None}
    for name, value in others.items():
        if value is not None:
            raise InputError(
                f"{name}: {short_repr(value)}; expected none, as this model {purpose_of(task)}. Give vectors."
            )
    if wanted.vectors is None:
        raise InputError(
            f"vectors are None; expected those of each image, as this model {purpose_of(task)}. Encode a text or a "
            "picture with CLIP."
        )
    vectors_context(wanted.vectors, one, images)


def _check_texts(name: str, texts: Any, images: int) -> None:
    if isinstance(texts, str):
        return
    if not isinstance(texts, Sequence) or len(texts) != images:
        raise InputError(
            f"{name}: {short_repr(texts)}, and there are {images} seeds; expected a text for all images, or one for "
            "each seed."
        )


def attended(
    conditioner: Conditioner | None,
    tokeniser: Tokeniser | None,
    wanted: Wanted,
    images: int,
    config: LDMConfig,
    device: torch.device,
) -> tuple[Tensor, Tensor | None]:
    """The contexts of images, on the model's device.

    Args:
        conditioner: Of the model.
        tokeniser: likewise, where it draws from texts.
        wanted: Checked by `check_wanted`.
        images: That are to be drawn.
        config: Of the model.
        device: Of the model.

    Returns:
        (N, tokens, D) of what is wanted, and (1 or N, tokens, D) of what guidance starts from; None where it would
        change nothing.

    Raises:
        InputError: A class that the model does not have, or what is no text.
    """
    if isinstance(config.conditioning, VectorsConfig) and wanted.vectors is not None:
        context = vectors_context(wanted.vectors, config.conditioning, images).to(device)
        return context, torch.zeros_like(context[:1]) if wanted.cfg != 1 else None
    if isinstance(conditioner, ClassEmbedder) and wanted.classes is not None:
        guided = wanted.cfg != 1 and any(one is not None for one in wanted.classes)
        with torch.no_grad():
            return conditioner(wanted.classes), conditioner([None]) if guided else None
    if not isinstance(conditioner, TextEncoder) or tokeniser is None or wanted.prompts is None:
        raise InputError(f"There is nothing that takes in {short_repr(wanted)}; load a model of classes or of texts.")
    prompts, negatives = (_for_each(texts, images) for texts in (wanted.prompts, wanted.negative))
    guided = wanted.cfg != 1 and prompts != negatives
    encoded = encode_texts(conditioner, tokeniser, [*prompts, *negatives] if guided else prompts)
    return encoded[:images], encoded[images:] if guided else None


def _for_each(texts: str | Sequence[str], images: int) -> list[str]:
    return [texts] * images if isinstance(texts, str) else list(texts)


@torch.no_grad()
@in_fp32
def encode_texts(encoder: TextEncoder, tokeniser: Tokeniser, texts: Sequence[str]) -> Tensor:
    """Texts as what a UNet attends to; equal ones are encoded once.

    What the model does not see of a text is said in the log, once.

    Args:
        encoder: Of the model.
        tokeniser: likewise.
        texts: One for each row of the result.

    Returns:
        (N, tokens, D) on the encoder's device.

    Raises:
        InputError: What is no text.
    """
    found = {text: tokeniser(text) for text in texts}
    for text, tokens in found.items():
        for warning in warnings_of(text, tokens) if text not in tokeniser.told else ():
            logger.warning("%s", warning)
    tokeniser.told.update(found)
    device = encoder.embed_tokens.weight.device
    rows = torch.tensor([tokens.ids for tokens in found.values()], dtype=torch.int64, device=device)
    encoded = torch.cat([encoder(part) for part in rows.split(_AT_ONCE)])
    places = {text: place for place, text in enumerate(found)}
    return encoded[torch.tensor([places[text] for text in texts], device=device)]
