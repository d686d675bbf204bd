"""What a model sees beside the noise, and so what it is for. Imports only checks, first_stage, JSON and errors.

Pictures, masks and maps are further channels of the UNet's input, behind those of the noisy latent (CompVis' `concat`).
Classes, texts and vectors of CLIP are a context that its blocks attend to (`crossattn`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar

from ..errors import ConfigError, InputError, first_names, short_repr
from .checks import AS_TRAINED, MAX_WIDTH, NOT_IMPLEMENTED
from .first_stage import FirstStageConfig
from .strict_json import read_fields, write_fields

UNCONDITIONAL, SUPER_RESOLUTION = "unconditional", "super-resolution"
INPAINTING, SEMANTIC_SYNTHESIS = "inpainting", "semantic-synthesis"
CLASS_CONDITIONAL, TEXT_CONDITIONAL, VECTOR_CONDITIONAL = "class-conditional", "text-conditional", "vector-conditional"

# What a model of each task does, what draws from it in Python, and the command that does where there is one.
_TASKS = {
    UNCONDITIONAL: ("draws pictures from noise alone", "generate", "ldm generate"),
    SUPER_RESOLUTION: ("enlarges small pictures", "upscale", "ldm upscale"),
    INPAINTING: ("fills the masked parts of pictures", "inpaint", "ldm inpaint"),
    SEMANTIC_SYNTHESIS: ("draws pictures from maps of labels", "synthesise", None),
    CLASS_CONDITIONAL: ("draws pictures of classes that are given by their numbers", "generate", "ldm generate"),
    TEXT_CONDITIONAL: ("draws pictures of what a text says", "generate", "ldm generate"),
    VECTOR_CONDITIONAL: ("draws pictures of what vectors of CLIP say", "generate", None),
}
TASKS = tuple(_TASKS)
MAX_WORDS = 2**20  # of a vocabulary


@dataclass(frozen=True)
class LowResolutionConfig:
    """A small picture as it is: each latent cell sees the pixel at its place (CompVis bsr_sr)."""

    kind: ClassVar[str] = "low-resolution"  # in our own files
    task: ClassVar[str] = SUPER_RESOLUTION
    context_dim: ClassVar[int | None] = None  # width of the tokens that the UNet attends to
    tokens: ClassVar[int] = 0  # how many of them an image has

    def channels(self, first_stage: FirstStageConfig) -> int:
        """How many it adds to the UNet's input: those of a picture."""
        return first_stage.in_channels


@dataclass(frozen=True)
class MaskedImageConfig:
    """The latent of a picture with a black hole, and the mask of the hole (CompVis inpainting_big)."""

    kind: ClassVar[str] = "masked-image"
    task: ClassVar[str] = INPAINTING
    context_dim: ClassVar[int | None] = None
    tokens: ClassVar[int] = 0

    def channels(self, first_stage: FirstStageConfig) -> int:
        """How many it adds to the UNet's input: those of a latent, and one."""
        return first_stage.z_channels + 1


@dataclass(frozen=True)
class SegmentationConfig:
    """A map of labels, halved to the size of the latent and mapped to few channels (CompVis SpatialRescaler)."""

    kind: ClassVar[str] = "segmentation"
    task: ClassVar[str] = SEMANTIC_SYNTHESIS
    context_dim: ClassVar[int | None] = None
    tokens: ClassVar[int] = 0

    n_labels: int = 182
    n_stages: int = 2  # how often the map is halved
    out_channels: int = 3  # of the trained 1x1 convolution behind that

    def __post_init__(self) -> None:
        _check_numbers(self, n_labels=1, n_stages=0, out_channels=1)

    def channels(self, first_stage: FirstStageConfig) -> int:
        """How many it adds to the UNet's input.

        Raises:
            ConfigError: It is not halved to the size of this first stage's latents.
        """
        levels = len(first_stage.block_out_channels) - 1
        if self.n_stages != levels:
            raise ConfigError(
                f"conditioning: n_stages is {self.n_stages} and the first stage halves {levels} times; both must "
                "agree. The parts belong to different models: take all of the same one."
            )
        return self.out_channels


@dataclass(frozen=True)
class ClassConfig:
    """A class, as a vector that the UNet attends to (CompVis ClassEmbedder).

    Attributes:
        last_is_none: The last class is that of no class, which guidance without a classifier needs.
    """

    kind: ClassVar[str] = "classes"
    task: ClassVar[str] = CLASS_CONDITIONAL
    tokens: ClassVar[int] = 1

    n_classes: int = 1001  # no class included
    embed_dim: int = 512
    last_is_none: bool = True

    def __post_init__(self) -> None:
        _check_numbers(self, n_classes=2 if self.last_is_none else 1, embed_dim=1)

    @property
    def context_dim(self) -> int | None:
        """Width of the tokens that the UNet attends to."""
        return self.embed_dim

    @property
    def pictured(self) -> int:
        """How many classes there are pictures of."""
        return self.n_classes - self.last_is_none

    def channels(self, first_stage: FirstStageConfig) -> int:
        """How many it adds to the UNet's input."""
        return 0


@dataclass(frozen=True)
class TextConfig:
    """A text, as tokens that the UNet attends to (CompVis BERTEmbedder).

    The defaults are those of the encoder of text2img-large: 542,895,360 parameters.
    """

    kind: ClassVar[str] = "text"
    task: ClassVar[str] = TEXT_CONDITIONAL

    vocab_size: int = 30522
    max_tokens: int = 77
    embed_dim: int = 1280
    layers: int = 32
    heads: int = 8  # not visible in any shape
    head_dim: int = 64

    def __post_init__(self) -> None:
        _check_numbers(self, max_tokens=1, embed_dim=1, layers=1, heads=1, head_dim=1)
        if not 1 <= self.vocab_size <= MAX_WORDS:
            raise ConfigError(
                f"conditioning: vocab_size is {short_repr(self.vocab_size)}; expected a number from 1 to {MAX_WORDS}. "
                f"{AS_TRAINED}"
            )

    @property
    def context_dim(self) -> int | None:
        """Width of the tokens that the UNet attends to."""
        return self.embed_dim

    @property
    def tokens(self) -> int:
        """How many of them an image has, whatever its text."""
        return self.max_tokens

    def channels(self, first_stage: FirstStageConfig) -> int:
        """How many it adds to the UNet's input."""
        return 0


@dataclass(frozen=True)
class VectorsConfig:
    """Vectors of CLIP, of a text or a picture and of its neighbours, as tokens that the UNet attends to (CompVis RDM).

    Nothing with weights makes them: they come from CLIP ViT-L/14, which is no part of the model.
    """

    kind: ClassVar[str] = "vectors"
    task: ClassVar[str] = VECTOR_CONDITIONAL
    tokens: ClassVar[int] = 21  # at most: one, and 20 neighbours

    embed_dim: int = 768

    def __post_init__(self) -> None:
        _check_numbers(self, embed_dim=1)

    @property
    def context_dim(self) -> int | None:
        """Width of the tokens that the UNet attends to."""
        return self.embed_dim

    def channels(self, first_stage: FirstStageConfig) -> int:
        """How many it adds to the UNet's input."""
        return 0


def _check_numbers(config: Any, **least: int) -> None:
    """Raise ConfigError unless these fields of a conditioning are at least that, and no larger than a network's."""
    for name, low in least.items():
        value = getattr(config, name)
        if not low <= value <= MAX_WIDTH:
            raise ConfigError(
                f"conditioning: {name} is {short_repr(value)}; expected a number from {low} to {MAX_WIDTH}. "
                f"{AS_TRAINED}"
            )


ConditioningConfig = (
    LowResolutionConfig | MaskedImageConfig | SegmentationConfig | ClassConfig | TextConfig | VectorsConfig
)
CONDITIONINGS: dict[str, type[ConditioningConfig]] = {
    one.kind: one
    for one in (LowResolutionConfig, MaskedImageConfig, SegmentationConfig, ClassConfig, TextConfig, VectorsConfig)
}


def conditioning_to_json(config: ConditioningConfig) -> dict[str, Any]:
    """Its kind and its fields, as our own files hold them."""
    return {"kind": config.kind, **write_fields(config)}


def conditioning_from_json(data: Any, source: str) -> ConditioningConfig:
    """The inverse of `conditioning_to_json`.

    Raises:
        ConfigError: Of another kind, or not exactly its fields.
    """
    found = dict(data) if isinstance(data, Mapping) else {}
    kind = found.pop("kind", None)
    if not isinstance(kind, str) or kind not in CONDITIONINGS:
        raise ConfigError(
            f"{source}: kind is {short_repr(kind)}; supported are {', '.join(CONDITIONINGS)}. {NOT_IMPLEMENTED}"
        )
    cls = CONDITIONINGS[kind]
    if other := {str(key) for key in found} ^ {item.name for item in fields(cls)}:
        raise ConfigError(
            f"{source}: keys missing or unknown: {first_names(other)}; expected those of {kind}. "
            "Convert the checkpoint again."
        )
    return read_fields(cls, found, source)


def task_of(conditioning: ConditioningConfig | None) -> str:
    """What a model with this conditioning is for."""
    return UNCONDITIONAL if conditioning is None else conditioning.task


def purpose_of(task: str) -> str:
    """What a model of this task does, in words: "draws pictures from noise alone"."""
    return _TASKS[task][0]


def check_task(found: str, wanted: str, caller: str) -> None:
    """Refuse a model of another task.

    Args:
        found: Of the model.
        wanted: What `caller` can draw from.
        caller: At the beginning of the message.

    Raises:
        InputError: The two differ.
    """
    if found != wanted:
        does, function, command = _TASKS[found]
        here = f"`{command}` draws from it, in Python ldm_backend" if command else "In Python there is ldm_backend"
        raise InputError(
            f"{caller} takes {_article(wanted)} model, and this one is {_article(found)} model: it {does}. {here}."
            f"{function}."
        )


def _article(task: str) -> str:
    return f"an {task}" if task[0] in "aeiou" else f"a {task}"
