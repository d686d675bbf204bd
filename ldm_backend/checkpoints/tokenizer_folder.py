"""The vocabulary of a text model: out of the files of its tokenizer or our own file's metadata, and back into them.

Every setting of the files has the value that this tokeniser works by, or cannot change a token, or is an error.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..config.conditioning import MAX_WORDS, TextConfig
from ..config.model import LDMConfig
from ..errors import CheckpointError, ConfigError, first_names, printable, short_repr
from ..locations import TOKENIZER_FILES, TOKENIZER_FOLDER
from ..texts.vocabulary import (
    BEGIN,
    END,
    MASK,
    NEEDED,
    PAD,
    UNKNOWN,
    Vocabulary,
    bert_vocabulary,
    check_size,
    check_words,
    vocabulary_of,
)
from .configuration import read_json

VOCABULARY_KEY = "vocabulary"  # in the metadata of our single file
_TEXT, _WHOLE, _SETTINGS, _MAP, _ADDED = TOKENIZER_FILES
_MOST_BYTES = 64 * MAX_WORDS
_NOT_BERT = (
    "Texts would become other tokens. Run the model with the program that trained it, or take away what has no effect."
)

_NAMES = {"pad_token": PAD, "unk_token": UNKNOWN, "cls_token": BEGIN, "sep_token": END, "mask_token": MASK}
# tokenizer_config.json and special_tokens_map.json: values that this tokeniser has, the first those of absent keys.
_FIXED: dict[str, tuple[Any, ...]] = {
    "additional_special_tokens": ([], None),
    "do_basic_tokenize": (True,),
    "do_lower_case": (True,),
    "extra_special_tokens": ({}, [], None),
    "never_split": (None, []),
    "padding_side": ("right",),
    "strip_accents": (None, True),  # None: as lower case has it
    "tokenize_chinese_chars": (True,),
    "tokenizer_class": ("BertTokenizer", "BertTokenizerFast", None),
    "truncation_side": ("right",),
}
_IGNORED = frozenset(
    {"model_max_length", "max_len", "max_length"}  # how long a text may be says the text encoder
    | {"truncation_strategy", "stride", "pad_to_multiple_of", "pad_token_type_id"}  # of other calls than for one text
    | {"name_or_path", "special_tokens_map_file", "tokenizer_file", "vocab_file", "processor_class"}  # where it is from
    | {"backend", "is_local", "local_files_only", "transformers_version"}  # what wrote or reads it
    | {"clean_up_tokenization_spaces", "model_input_names"}  # tokens to text; what else a call returns
)
# tokenizer.json. Filling up and cutting are done by the length of the encoder, texts are not made of tokens.
_WHOLE_IGNORED = frozenset({"version", "truncation", "padding", "decoder"})
_NORMALIZER = {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "lowercase": True}
_PIECES = {
    "type": "WordPiece",
    "unk_token": UNKNOWN,
    "continuing_subword_prefix": "##",
    "max_input_chars_per_word": 100,
}
_ADDED_FLAGS = {"single_word": False, "lstrip": False, "rstrip": False, "special": True}


def folder_vocabulary(root: Path, config: LDMConfig) -> Vocabulary | None:
    """That of a Hugging Face folder, which without one has that of BERT; None of a model that draws from no texts.

    Raises:
        CheckpointError: A file is damaged.
        ConfigError: A tokenizer of another kind, or of another size than the encoder.
    """
    one, folder = config.conditioning, root / TOKENIZER_FOLDER
    if not isinstance(one, TextConfig):
        return None
    found = [_read(folder / name) for name in (_TEXT, _WHOLE) if (folder / name).is_file()]
    if folder.is_dir() and not found:
        raise CheckpointError(f"{folder}: holds neither {_TEXT} nor {_WHOLE}; expected one of them. Copy it there.")
    if len(found) == 2 and found[0] != found[1]:
        raise CheckpointError(
            f"{folder}: {_TEXT} and {_WHOLE} hold other words; expected the same in both. Remove the one that the "
            "model was not trained with."
        )
    vocabulary, source = (found[0], str(folder)) if found else (bert_vocabulary(), f"{root}: no {TOKENIZER_FOLDER}")
    check_size(vocabulary, one, source)
    for name in (_SETTINGS, _MAP):
        if (folder / name).is_file():
            _check_settings(read_json(folder / name), vocabulary, folder / name)
    if (folder / _ADDED).is_file():
        _check_added(read_json(folder / _ADDED), vocabulary, folder / _ADDED)
    return vocabulary


def metadata_vocabulary(metadata: Mapping[str, str], config: LDMConfig, source: str) -> Vocabulary | None:
    """That of a single file, ours or of CompVis, which without one has that of BERT; None as above.

    Raises:
        CheckpointError: The metadata is damaged.
        ConfigError: Of another size than the encoder.
    """
    one = config.conditioning
    if not isinstance(one, TextConfig):
        return None
    text = metadata.get(VOCABULARY_KEY)
    found = bert_vocabulary() if text is None else vocabulary_of(text, f"{source}: {VOCABULARY_KEY}")
    held = (
        f"{source}: {VOCABULARY_KEY}" if text is not None else f"{source}: no vocabulary, so that of bert-base-uncased"
    )
    check_size(found, one, held)
    return found


def vocabulary_metadata(vocabulary: Vocabulary | None) -> dict[str, str]:
    """What `metadata_vocabulary` reads; nothing where that of BERT is meant."""
    if vocabulary is None or vocabulary == bert_vocabulary():
        return {}
    return {VOCABULARY_KEY: vocabulary.to_text()}


def write_tokenizer(folder: Path, vocabulary: Vocabulary, max_tokens: int) -> None:
    """A folder that `folder_vocabulary` and the BertTokenizer of transformers read."""
    folder.mkdir()
    (folder / _TEXT).write_text(vocabulary.to_text(), encoding="utf-8", newline="\n")
    settings = {key: values[0] for key, values in _FIXED.items() if key not in ("extra_special_tokens", "never_split")}
    named = {key: word for key, word in _NAMES.items() if word in vocabulary.words}
    text = json.dumps(settings | named | {"model_max_length": max_tokens}, indent=2, sort_keys=True)
    (folder / _SETTINGS).write_text(text + "\n", encoding="utf-8")


def _read(file: Path) -> Vocabulary:
    if file.name == _WHOLE:
        return _whole_tokenizer(read_json(file, _MOST_BYTES), file)
    try:
        with file.open("rb") as opened:
            data = opened.read(_MOST_BYTES + 1)
        if len(data) > _MOST_BYTES:
            raise CheckpointError(f"{file}: refused: more than {_MOST_BYTES} bytes; expected a line for each word.")
        text = data.decode("utf-8")
    except CheckpointError:
        raise
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: cannot be read ({printable(str(error))}). Download the file again.") from error
    return vocabulary_of(text, str(file))


def _whole_tokenizer(data: Mapping[str, Any], file: Path) -> Vocabulary:
    """The words of a tokenizer.json, if it does what this tokeniser does."""
    parts = {"added_tokens", "normalizer", "pre_tokenizer", "post_processor", "model"}
    if unknown := data.keys() - parts - _WHOLE_IGNORED:
        raise ConfigError(f"{file}: unknown keys {first_names(unknown)}; expected those of BERT. {_NOT_BERT}")
    model = data.get("model")
    words = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(model, dict) or not isinstance(words, dict):
        raise ConfigError(f"{file}: model is {short_repr(model)}; expected WordPiece with its vocab. {_NOT_BERT}")
    if sorted(map(repr, words.values())) != sorted(map(repr, range(len(words)))):
        raise CheckpointError(f"{file}: the numbers in vocab are not 0 to {len(words) - 1}. Download the file again.")
    vocabulary = check_words(sorted(words, key=words.__getitem__), str(file))
    normalizer = data.get("normalizer")
    accents = normalizer.get("strip_accents") if isinstance(normalizer, dict) else None
    for name, found, expected in (
        ("model", {key: value for key, value in model.items() if key != "vocab"}, _PIECES),
        ("normalizer", normalizer, {**_NORMALIZER, "strip_accents": accents}),
        ("normalizer: strip_accents", accents in (None, True), True),
        ("pre_tokenizer", data.get("pre_tokenizer"), {"type": "BertPreTokenizer"}),
        ("post_processor", _frame(data.get("post_processor")), [BEGIN, "A", END]),
    ):
        if found != expected:
            raise ConfigError(f"{file}: {name} is {short_repr(found)}; supported is {expected!r}. {_NOT_BERT}")
    added = data.get("added_tokens")
    for one in added if isinstance(added, list) else [added]:
        _check_added_token(one, vocabulary, f"{file}: added_tokens")
    return vocabulary


def _frame(processor: Any) -> Any:
    """What stands around a text, and itself, by a part of tokenizer.json; the part where it says something else."""
    if not isinstance(processor, dict):
        return processor
    if processor.get("type") == "BertProcessing":
        first, last = processor.get("cls"), processor.get("sep")
        if isinstance(first, list) and isinstance(last, list) and first and last:
            return [first[0], "A", last[0]]
        return processor
    single = processor.get("single")
    if processor.get("type") != "TemplateProcessing" or not isinstance(single, list):
        return processor
    inner = [next(iter(one.values())) if isinstance(one, dict) and len(one) == 1 else None for one in single]
    return [one.get("id") if isinstance(one, dict) else None for one in inner]


def _check_settings(data: Mapping[str, Any], vocabulary: Vocabulary, file: Path) -> None:
    known = _FIXED.keys() | _NAMES.keys() | _IGNORED | {"added_tokens_decoder"}
    if unknown := data.keys() - known:
        raise ConfigError(f"{file}: unknown keys {first_names(unknown)}; expected those of BERT. {_NOT_BERT}")
    for key, allowed in _FIXED.items():
        if data.get(key, allowed[0]) not in allowed:
            raise ConfigError(
                f"{file}: {key} is {short_repr(data[key])}; supported is {' or '.join(map(repr, allowed))}. {_NOT_BERT}"
            )
    for key, word in _NAMES.items():
        found = data.get(key, word)
        named = found.get("content") if isinstance(found, dict) else found
        if named != word and not (key == "mask_token" and named is None):
            raise ConfigError(f"{file}: {key} is {short_repr(found)}; supported is {word!r}. {_NOT_BERT}")
    decoder = data.get("added_tokens_decoder", {})
    if not isinstance(decoder, dict):
        raise ConfigError(f"{file}: added_tokens_decoder is {short_repr(decoder)}; expected an object. {_NOT_BERT}")
    for number, one in decoder.items():
        entry = (
            {**one, "id": int(number) if number.isdecimal() and len(number) < 9 else number}
            if isinstance(one, dict)
            else one
        )
        _check_added_token(entry, vocabulary, f"{file}: added_tokens_decoder")


def _check_added(data: Mapping[str, Any], vocabulary: Vocabulary, file: Path) -> None:
    for word, number in data.items():
        _check_added_token({"content": word, "id": number}, vocabulary, str(file))


def _check_added_token(one: Any, vocabulary: Vocabulary, source: str) -> None:
    """It must be one of the special words, at its place; or that of a mask behind all words, which no text needs."""
    content, number = (one.get("content"), one.get("id")) if isinstance(one, dict) else (None, None)
    ours = type(number) is int and content in (*NEEDED, MASK) and _is_at(vocabulary, content, number)
    if not ours or any(one.get(key, value) != value for key, value in _ADDED_FLAGS.items()):
        raise ConfigError(
            f"{source} holds {short_repr(one)}; supported are {', '.join((*NEEDED, MASK))} at their places. {_NOT_BERT}"
        )


def _is_at(vocabulary: Vocabulary, word: str, number: int) -> bool:
    """Whether a special word has that number; [MASK], if it is not among the words, has the next one."""
    words = vocabulary.words
    return number == (words.index(word) if word in words else len(words) if word == MASK else -1)
