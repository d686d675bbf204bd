"""The words, and pieces of words, that a text model knows. Imports config and errors."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from ..config.conditioning import MAX_WORDS, TextConfig
from ..errors import CheckpointError, ConfigError, first_names, is_text, repeated

PAD, UNKNOWN, BEGIN, END, MASK = "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"
NEEDED = (PAD, UNKNOWN, BEGIN, END)
_SHIPPED = Path(__file__).parent / "bert-base-uncased" / "vocab.txt"
_SHIPPED_SHA256 = "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"


@dataclass(frozen=True)
class Vocabulary:
    """Words by their numbers.

    Attributes:
        words: That of number 0 first; a piece that goes on a word begins with "##".
    """

    words: tuple[str, ...]

    def to_text(self) -> str:
        """A line for each word, as vocab.txt holds them."""
        return "".join(f"{word}\n" for word in self.words)


@lru_cache(maxsize=1)
def bert_vocabulary() -> Vocabulary:
    """That of bert-base-uncased, which the released models were trained with and do not hold.

    Raises:
        CheckpointError: The file is not the one that came with this package.
    """
    try:
        data = _SHIPPED.read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"{_SHIPPED}: cannot be read ({error.strerror}). It comes with this package: install it anew."
        ) from error
    if hashlib.sha256(data).hexdigest() != _SHIPPED_SHA256:
        raise CheckpointError(
            f"{_SHIPPED}: changed: its SHA-256 is no longer {_SHIPPED_SHA256}. It comes with this package: install it "
            "anew."
        )
    return vocabulary_of(data.decode(), str(_SHIPPED))


def vocabulary_of(text: str, source: str) -> Vocabulary:
    """The words of a vocab.txt, a line each.

    Raises:
        CheckpointError: See `check_words`.
    """
    lines = text.replace("\r\n", "\n").split("\n")
    return check_words(lines[:-1] if lines[-1] == "" else lines, source)


def check_words(words: Sequence[str], source: str) -> Vocabulary:
    """The vocabulary of these words, if it can be one.

    Args:
        words: In the order of their numbers.
        source: Where they are from, for messages.

    Raises:
        CheckpointError: Too many, empty or repeated ones, or one is missing that no text can do without.
    """
    if len(words) > MAX_WORDS:
        raise CheckpointError(f"{source}: refused: {len(words)} words; expected at most {MAX_WORDS}.")
    if empty := [str(at) for at, word in enumerate(words, 1) if not word or not is_text(word)]:
        raise CheckpointError(
            f"{source}: no word in the lines {first_names(empty)}; expected one in each. Download the file again."
        )
    if twice := repeated(words):
        raise CheckpointError(
            f"{source}: {first_names(twice)} there more than once; expected each word once. Download the file again."
        )
    if missing := [word for word in NEEDED if word not in words]:
        raise CheckpointError(
            f"{source}: {first_names(missing)} missing; expected {', '.join(NEEDED)} among the words. Take the "
            "vocabulary that the model was trained with."
        )
    return Vocabulary(tuple(words))


def check_size(vocabulary: Vocabulary, config: TextConfig, source: str) -> None:
    """Raise ConfigError unless a text encoder knows exactly the words of its vocabulary; `source` is the latter's."""
    if len(vocabulary.words) != config.vocab_size:
        raise ConfigError(
            f"{source}: {len(vocabulary.words)} words, and the text encoder has vocab_size {config.vocab_size}; both "
            "must agree. Take the vocabulary that the model was trained with."
        )
