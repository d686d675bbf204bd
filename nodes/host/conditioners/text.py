"""The text encoder of a checkpoint as a native CLIP, for CLIPTextEncode and all that works with its conditioning."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import Any

import comfy.model_management
import comfy.ops
import torch
from comfy.model_patcher import ModelPatcher
from comfy.sd import CLIP
from comfy.sd1_clip import escape_important, token_weights, unescape_important
from torch import Tensor, nn

from ....ldm_backend.checkpoints.checkpoint import Checkpoint, load_into
from ....ldm_backend.checkpoints.file_marks import FileMark
from ....ldm_backend.checkpoints.tokenizer_folder import vocabulary_metadata
from ....ldm_backend.config.conditioning import TEXT_CONDITIONAL, TextConfig
from ....ldm_backend.config.model import LDMConfig
from ....ldm_backend.contexts import build_tokeniser
from ....ldm_backend.errors import InputError, short_repr
from ....ldm_backend.kernels.fp32 import in_fp32
from ....ldm_backend.networks.conditioners.text_encoder import TextEncoder
from ....ldm_backend.texts.tokeniser import Tokeniser, warnings_of
from ....ldm_backend.texts.vocabulary import Vocabulary
from ..conditioning import TASK_KEY
from ..layers import host_layers
from ..model import intermediate_device

logger = logging.getLogger("comfyui_ldm")

_KEY = "ldm"  # of our tokens among those of other encoders
_DEEPEST = 32  # parentheses in parentheses; the host's own reading of them takes the square
_MOST_TEXTS = 64  # behind each other, as nodes may join them

Pairs = list[tuple[int, float]]  # tokens and their weights


class TextModel(nn.Module):
    """What the host's CLIP has for a model.

    Args:
        encoder: With its weights.
        empty: Tokens of the text that says nothing.
        file: What the weights were read from, and may still be mapped from.

    Attributes:
        device: Where it computes.
    """

    device = torch.device("cpu")

    def __init__(self, encoder: TextEncoder, empty: Sequence[int], file: FileMark) -> None:
        super().__init__()
        self.transformer = encoder
        self.dtypes = {torch.float32}
        self.file, self._empty = file, tuple(empty)

    def set_clip_options(self, options: Mapping[str, Any]) -> None:
        """Refuse to give another layer than the last, which alone was trained to be looked at.

        Raises:
            InputError: Another is asked for.
        """
        layer = options.get("layer")
        if layer not in (None, -1):
            raise InputError(
                f"CLIP Set Last Layer asks for layer {short_repr(layer)} of the text encoder; expected -1: its last "
                "norm alone was trained to be looked at. Take that node out of the graph."
            )

    def reset_clip_options(self) -> None:
        """The host calls this before each text; there is nothing that stays."""

    def encode_token_weights(self, tokens: Any) -> tuple[Tensor, None, dict[str, str]]:
        """What a UNet attends to, for tokens and their weights.

        A weight moves a token from what the empty text has at its place, as with the encoders of the host.

        Args:
            tokens: Of `HostTokeniser.tokenize_with_weights`.

        Returns:
            (1, tokens, D) float32, no pooled output, and what else the conditioning carries.

        Raises:
            InputError: Tokens of another encoder.
            CheckpointError: The file of the weights was changed since it was loaded.
        """
        rows = _rows_of(tokens, len(self._empty))
        self.file.check()
        numbers = torch.tensor([[token for token, _ in row] for row in rows], dtype=torch.int64)
        weights = torch.tensor([[weight for _, weight in row] for row in rows])
        encoded = self._encoded(numbers)
        if bool((weights != 1).any()):
            empty = self._encoded(torch.tensor([self._empty]))
            encoded = torch.lerp(empty, encoded, weights[..., None].to(encoded))
        context = encoded.reshape(1, -1, encoded.shape[2])
        return context.to(intermediate_device()), None, {TASK_KEY: TEXT_CONDITIONAL}

    @torch.no_grad()
    @in_fp32
    def _encoded(self, tokens: Tensor) -> Tensor:
        return self.transformer(tokens.to(self.device))


class HostTokeniser:
    """What the host's CLIP has for a tokenizer.

    Args:
        tokeniser: Of the model.
        vocabulary: Its words, for files.
    """

    def __init__(self, tokeniser: Tokeniser, vocabulary: Vocabulary | None) -> None:
        self._tokeniser, self.vocabulary = tokeniser, vocabulary

    def tokenize_with_weights(self, text: str, return_word_ids: bool = False, **others: Any) -> dict[str, list[Pairs]]:
        r"""Tokens of a text, with the weights that its parentheses say: "a (red:1.2) hat".

        Args:
            text: As in all encoders of the host; "\(" is a parenthesis.
            return_word_ids: Refused, as this encoder has none.
            others: Options of other tokenizers, which are refused.

        Returns:
            One row of as many tokens as the model takes.

        Raises:
            InputError: No text, one of extreme size, or what this tokenizer does not have.
        """
        given = [name for name, value in (("return_word_ids", return_word_ids), *others.items()) if value]
        if given:
            raise InputError(
                f"The tokenizer is given {', '.join(map(short_repr, given))}, which this text encoder does not have. "
                "Use CLIP Text Encode, without nodes that set options of other encoders."
            )
        plain, weights = _weighted(text)
        tokens = self._tokeniser(plain)
        for warning in warnings_of(plain, tokens):
            logger.warning("%s", warning)
        places = [1.0 if place is None else weights[place] for place in tokens.places]
        return {_KEY: [list(zip(tokens.ids, places, strict=True))]}

    def untokenize(self, pairs: Pairs) -> list[tuple[Any, str]]:
        """Not known: words are told in the log."""
        return [(pair, "") for pair in pairs]

    def state_dict(self) -> dict[str, Any]:
        """Nothing that a file of weights would hold."""
        return {}


def _weighted(text: Any) -> tuple[str, list[float]]:
    """A text without its parentheses, and the weight of each of its characters.

    Raises:
        InputError: Parentheses deeper than anybody writes, or a weight that is no number.
    """
    if not isinstance(text, str) or ("(" not in text and ")" not in text and "\\" not in text):
        return text, [1.0] * len(text) if isinstance(text, str) else []
    depth = deepest = 0
    escaped = escape_important(text)
    for letter in escaped:
        depth += (letter == "(") - (letter == ")")
        deepest = max(deepest, depth)
    if deepest > _DEEPEST:
        raise InputError(
            f"The prompt has parentheses {deepest} deep; expected at most {_DEEPEST}. Write \\( and \\) for those that "
            "are part of the text."
        )
    parts = [(unescape_important(part), weight) for part, weight in token_weights(escaped, 1.0)]
    if odd := [weight for _, weight in parts if not math.isfinite(weight)]:
        raise InputError(f"A weight in the prompt is {odd[0]}; expected a number, such as 1.2. Change it.")
    return "".join(part for part, _ in parts), [weight for part, weight in parts for _ in part]


def _rows_of(tokens: Any, length: int) -> list[Pairs]:
    """Ours among the tokens that a node hands to the encoder.

    Raises:
        InputError: There are none, or they were made by another tokenizer.
    """
    rows = tokens.get(_KEY) if isinstance(tokens, dict) else None
    if isinstance(rows, list) and 1 <= len(rows) <= _MOST_TEXTS and all(_is_row(row, length) for row in rows):
        return rows
    raise InputError(
        f"The tokens are a {type(tokens).__name__} that the tokenizer of this CLIP did not make; expected texts of "
        f"{length} tokens. Use CLIP Text Encode with the CLIP from LDM Checkpoint Loader."
    )


def _is_row(row: Any, length: int) -> bool:
    return isinstance(row, list) and len(row) == length and all(map(_is_pair, row))


def _is_pair(pair: Any) -> bool:
    known = isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], int)
    return known and isinstance(pair[1], float) and math.isfinite(pair[1])


def make_clip(checkpoint: Checkpoint) -> CLIP | None:
    """The native CLIP of a checkpoint that draws from texts, in float32; None of another.

    Args:
        checkpoint: As read; its tensors become the parameters.

    Raises:
        CheckpointError: Keys or shapes do not fit the configuration.
        ConfigError: The vocabulary is of another model, or `tokenizers` is not installed.
    """
    config = checkpoint.config.conditioning
    tokeniser = build_tokeniser(checkpoint.config, checkpoint.vocabulary, str(checkpoint.path))
    if not isinstance(config, TextConfig) or tokeniser is None:
        return None
    file = checkpoint.conditioner_file or checkpoint.unet_file
    encoder = TextEncoder(config, host_layers(comfy.ops.disable_weight_init), device="meta")
    load_into(encoder, checkpoint.conditioner, file)
    model = TextModel(encoder.float(), tokeniser("").ids, FileMark.of(file))
    words = HostTokeniser(tokeniser, checkpoint.vocabulary)
    target = SimpleNamespace(params={}, clip=lambda **_: model, tokenizer=lambda **_: words)
    # On "meta" nothing is loaded before it is needed.
    options = {"dtype": torch.float32, "initial_device": torch.device("meta")}
    clip = CLIP(target, model_options=options)
    # The plain patcher on every host, as that of the MODEL.
    made = ModelPatcher(model, load_device=clip.patcher.load_device, offload_device=clip.patcher.offload_device)
    made.hook_mode, made.is_clip = clip.patcher.hook_mode, True
    model.device = made.load_device
    clip.patcher = made
    return clip


def text_model_of(clip: Any) -> TextModel:
    """The text encoder inside a CLIP of this pack.

    Raises:
        InputError: The CLIP is of another family.
    """
    model = getattr(clip, "cond_stage_model", None)
    if not isinstance(clip, CLIP) or not isinstance(model, TextModel):
        found = type(clip if model is None else model).__name__
        raise InputError(f"clip: the CLIP is a {found}; expected that of LDM Checkpoint Loader. Connect that loader.")
    return model


def saved_text_encoder(clip: CLIP, config: LDMConfig) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Of a CLIP the tensors, with all patches applied, under our names, and what a file's metadata say of its words.

    Args:
        clip: Of this pack.
        config: Of the MODEL that it is saved with.

    Raises:
        InputError: It is the CLIP of another MODEL.
        CheckpointError: The file of the weights was changed since it was loaded.
    """
    model = text_model_of(clip)
    if model.transformer.config != config.conditioning:
        raise InputError(
            f"clip: the CLIP is that of another MODEL: its configuration is {short_repr(model.transformer.config)}; "
            f"expected {short_repr(config.conditioning)}. Connect both from the same LDM Checkpoint Loader."
        )
    model.file.check()
    comfy.model_management.load_models_gpu([clip.patcher], force_patch_weights=True)
    tensors = {key: tensor.detach().cpu().contiguous() for key, tensor in model.transformer.state_dict().items()}
    return tensors, vocabulary_metadata(clip.tokenizer.vocabulary)
