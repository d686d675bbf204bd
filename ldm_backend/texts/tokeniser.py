"""Texts to tokens as BERT-uncased does it, on the library `tokenizers`. Imports config, errors and the vocabulary.

Source: CompVis BERTTokenizer (ldm/modules/encoders/modules.py:53-77): BertTokenizerFast of bert-base-uncased, cut and
filled up to the length that the model was trained with. Text that spells a special token, as "[SEP]", is that token.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType
from typing import Any

from ..config.conditioning import TextConfig
from ..errors import ConfigError, InputError, is_text, printable, short_repr
from .vocabulary import BEGIN, END, MASK, NEEDED, PAD, UNKNOWN, Vocabulary, check_size

_LONGEST_WORD = 100  # characters; a longer one is unknown
_FRAME = 2  # [CLS] before a text, [SEP] behind
_MOST_CHARACTERS = 100_000  # of a text; 77 tokens are some 400
_MOST_NAMED = 5
_SHOWN = 40  # characters of a word or text in a message


@dataclass(frozen=True)
class Tokens:
    """A text as the encoder takes it.

    Attributes:
        ids: Numbers of its words, as many as the encoder takes.
        number: Of its tokens before it was cut, with the two around it.
        lost: The first word that was cut away, whole or in part; None if all of them are there.
        unknown: Words that are there and that the vocabulary does not have, each once.
        places: Of each of `ids` where it begins in the text; None for those around the text.
    """

    ids: tuple[int, ...]
    number: int
    lost: str | None
    unknown: tuple[str, ...]
    places: tuple[int | None, ...]


class Tokeniser:
    """From texts to tokens.

    Args:
        vocabulary: Of the model.
        config: Of its text encoder.
        source: Where the vocabulary is from, for messages.

    Attributes:
        told: Texts of which was said what the model does not see of them: it is said once.

    Raises:
        ConfigError: `tokenizers` is not installed, or the vocabulary is not the encoder's.
    """

    def __init__(self, vocabulary: Vocabulary, config: TextConfig, source: str = "vocabulary") -> None:
        check_size(vocabulary, config, source)
        if config.max_tokens <= _FRAME:
            raise ConfigError(
                f"{source}: max_tokens is {config.max_tokens}; expected more than {_FRAME}, which stand around a text. "
                "Write down what the model was trained with."
            )
        self.max_tokens = config.max_tokens
        self.told: set[str] = set()
        numbers = {word: number for number, word in enumerate(vocabulary.words)}
        self._pad, self._unknown, self._begin, self._end = (numbers[one] for one in (PAD, UNKNOWN, BEGIN, END))
        self._split = _splitter(numbers, source)

    def __call__(self, text: str) -> Tokens:
        """The tokens of a text.

        Raises:
            InputError: No text, or one that no encoding can write, or a very long one.
        """
        self._check(text)
        found = self._split.encode(text, add_special_tokens=False)
        room = self.max_tokens - _FRAME
        ids = found.ids[:room]
        words = [text[start:end] for (start, end), one in zip(found.offsets, ids, strict=False) if one == self._unknown]
        return Tokens(
            ids=(self._begin, *ids, self._end, *[self._pad] * (room - len(ids))),
            number=len(found.ids) + _FRAME,
            lost=_word_at(found, room, text) if len(found.ids) > room else None,
            unknown=tuple(dict.fromkeys(words)),
            places=(None, *(start for start, _ in found.offsets[:room]), *[None] * (room + 1 - len(ids))),
        )

    def _check(self, text: Any) -> None:
        if not isinstance(text, str):
            raise InputError(f"A prompt is {short_repr(text)}; expected a text.")
        if not is_text(text):
            raise InputError(f"The prompt {_shown(text)} holds half of a character; expected a text. Write it anew.")
        if len(text) > _MOST_CHARACTERS:
            raise InputError(
                f"The prompt {_shown(text)} has {len(text)} characters; expected at most {_MOST_CHARACTERS}, of which "
                f"the model sees some {self.max_tokens} words. Make it shorter."
            )


def warnings_of(text: str, tokens: Tokens) -> list[str]:
    """What the model does not see of a text, in sentences; none if it sees all."""
    said = []
    if tokens.lost is not None:
        said.append(
            f"The prompt {_shown(text)} has {tokens.number} tokens, and the model takes {len(tokens.ids)}: it is cut "
            f"before or in the word {_shown(tokens.lost)}."
        )
    if tokens.unknown:
        more = len(tokens.unknown) - _MOST_NAMED
        named = ", ".join(map(_shown, tokens.unknown[:_MOST_NAMED])) + (f" (and {more} more)" if more > 0 else "")
        said.append(f"The prompt {_shown(text)} has words that the model does not know: {named}.")
    return said


def _shown(text: str) -> str:
    return f'"{printable(text, _SHOWN)}"'


def _word_at(found: Any, token: int, text: str) -> str:
    """The word that a token is of, whole."""
    word = found.word_ids[token]
    start, end = found.word_to_chars(word) if word is not None else found.offsets[token]
    return text[start:end]


def _library(source: str) -> ModuleType:
    try:
        import tokenizers
        import tokenizers.models
        import tokenizers.normalizers
        import tokenizers.pre_tokenizers
    except ImportError as error:
        raise ConfigError(
            f"{source}: a model of texts needs the package tokenizers, which is not installed. `pip install tokenizers`"
            " adds it."
        ) from error
    return tokenizers


def _splitter(numbers: dict[str, int], source: str) -> Any:
    library: Any = _library(source)
    pieces = library.models.WordPiece(numbers, unk_token=UNKNOWN, max_input_chars_per_word=_LONGEST_WORD)
    made = library.Tokenizer(pieces)
    made.normalizer = library.normalizers.BertNormalizer(
        clean_text=True, handle_chinese_chars=True, strip_accents=None, lowercase=True
    )
    made.pre_tokenizer = library.pre_tokenizers.BertPreTokenizer()
    made.add_special_tokens([word for word in (*NEEDED, MASK) if word in numbers])
    return made
