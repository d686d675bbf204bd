"""Prompts to tokens: what is cut or not known is said, and every file of a tokenizer is held to BERT's."""

from __future__ import annotations

import json
import sys
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from text_models import OWN, VOCABULARY, WORDS

from ldm_backend.checkpoints.tokenizer_folder import (
    folder_vocabulary,
    metadata_vocabulary,
    vocabulary_metadata,
    write_tokenizer,
)
from ldm_backend.config.conditioning import TextConfig
from ldm_backend.config.model import LDMConfig
from ldm_backend.errors import CheckpointError, ConfigError, InputError, LDMError
from ldm_backend.texts import vocabulary
from ldm_backend.texts.tokeniser import Tokeniser, Tokens, warnings_of
from ldm_backend.texts.vocabulary import Vocabulary, bert_vocabulary, vocabulary_of

ROOT = Path(__file__).parents[2]
SHORT = TextConfig(len(WORDS), max_tokens=7, embed_dim=12, layers=2, heads=2, head_dim=8)
CONFIG = replace(OWN, conditioning=SHORT)


@pytest.fixture(scope="module")
def tokeniser() -> Tokeniser:
    return Tokeniser(VOCABULARY, SHORT)


def test_the_vocabulary_that_comes_along_is_that_of_bert():
    words = bert_vocabulary().words
    assert (len(words), words[:2], words[100:104]) == (
        30522,
        ("[PAD]", "[unused0]"),
        ("[UNK]", "[CLS]", "[SEP]", "[MASK]"),
    )
    notice = (Path(vocabulary.__file__).parent / "bert-base-uncased" / "NOTICE").read_text()
    assert "Apache License, Version 2.0" in notice


def test_the_vocabulary_is_package_data():
    """What setuptools puts into a wheel, and the registry into its archive."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    assert settings["package-data"] == {"ldm_backend.texts": ["bert-base-uncased/*"]}
    ignored = (ROOT / ".comfyignore").read_text() + (ROOT / ".gitignore").read_text()
    assert "texts" not in ignored
    assert "*.txt" not in ignored


def test_a_vocabulary_that_was_changed_is_not_taken(tmp_path, monkeypatch: pytest.MonkeyPatch):
    words = list(bert_vocabulary().words)
    (tmp_path / "vocab.txt").write_text("".join(f"{word}\n" for word in [words[0], "[PRON]", *words[2:]]))
    for path, message in ((tmp_path / "vocab.txt", "changed: its SHA-256"), (tmp_path / "none", "cannot be read")):
        bert_vocabulary.cache_clear()
        monkeypatch.setattr(vocabulary, "_SHIPPED", path)
        with pytest.raises(CheckpointError, match=f"{message}.*install it"):
            bert_vocabulary()
    monkeypatch.undo()
    assert len(bert_vocabulary().words) == 30522


def test_tokens_are_framed_and_filled_up(tokeniser):
    none = (None, None)
    places = (None, 0, 2, 10, None, *none)  # of each word, where it begins
    assert tokeniser("a Smiling woman") == Tokens((3, 5, 9, 10, 4, 0, 0), 5, None, (), places)
    assert tokeniser("") == Tokens((3, 4, 0, 0, 0, 0, 0), 2, None, (), (*none, *none, *none, None))
    assert tokeniser("reddish reds") == Tokens((3, 13, 15, 13, 14, 4, 0), 6, None, (), (None, 0, 3, 8, 11, *none))


@pytest.mark.parametrize(
    ("text", "number", "lost"),
    [
        ("a woman, a man, red", 9, ","),
        ("a woman of the REDDISH hair", 9, "REDDISH"),  # in the middle of the word
        ("a woman of the red hair", 8, "hair"),
        ("the the the the the Café!", 9, "Café"),
        ("the the the the the zebras zebras", 9, "zebras"),
    ],
)
def test_a_prompt_that_is_cut_says_so(tokeniser, text, number, lost):
    tokens = tokeniser(text)
    assert (len(tokens.ids), tokens.number, tokens.lost) == (7, number, lost)
    assert f'has {number} tokens, and the model takes 7: it is cut before or in the word "{lost}".' in " ".join(
        warnings_of(text, tokens)
    )


def test_words_that_the_model_does_not_know_are_named(tokeniser):
    tokens = tokeniser("Zebra a zEbra \U0001f600 Zebra")
    assert tokens.unknown == ("Zebra", "zEbra", "\U0001f600")
    said = warnings_of("Zebra", tokens)
    assert said == ['The prompt "Zebra" has words that the model does not know: "Zebra", "zEbra", "\U0001f600".']
    many = Tokeniser(VOCABULARY, replace(SHORT, max_tokens=77))
    assert warnings_of("x", many("q w e r t y"))[0].endswith('"q", "w", "e", "r", "t" (and 1 more).')
    assert warnings_of("a woman", tokeniser("a woman")) == []


def test_only_what_the_model_sees_is_named_as_unknown(tokeniser):
    tokens = tokeniser("a a a a a zebra")
    assert (tokens.lost, tokens.unknown) == ("zebra", ())


def test_what_a_terminal_would_obey_is_escaped(tokeniser):
    text = "\x1b[31mzebra" * 9
    assert "\x1b" not in "".join(warnings_of(text, tokeniser(text)))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "A prompt is None; expected a text"),
        (7, "A prompt is 7"),
        (b"a", "A prompt is b'a'"),
        ("a \ud800 b", "holds half of a character"),
        ("a" * 100_001, "has 100001 characters; expected at most 100000"),
    ],
)
def test_what_is_no_prompt_is_told(tokeniser, text, message):
    with pytest.raises(InputError, match=message):
        tokeniser(text)


def test_a_vocabulary_of_another_size_is_refused():
    with pytest.raises(ConfigError, match="30522 words, and the text encoder has vocab_size 21; both must agree"):
        Tokeniser(bert_vocabulary(), SHORT)
    for length in (1, 2):
        with pytest.raises(ConfigError, match=f"max_tokens is {length}; expected more than 2"):
            Tokeniser(VOCABULARY, replace(SHORT, max_tokens=length))


def test_without_tokenizers_the_way_out_is_told(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ConfigError, match="a.ckpt: a model of texts needs the package tokenizers.*pip install tok"):
        Tokeniser(VOCABULARY, SHORT, "a.ckpt")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"\[CLS\], \[PAD\], \[SEP\], \[UNK\] missing"),
        ("a\n\nb\n", "no word in the lines 2"),
        ("a\nb\na\n", "a there more than once"),
        ("[PAD]\n[UNK]\n[CLS]\n", r"\[SEP\] missing"),
    ],
)
def test_what_is_no_vocabulary_is_told(text, message):
    with pytest.raises(CheckpointError, match=f"^vocab.txt: {message}"):
        vocabulary_of(text, "vocab.txt")


def test_ends_of_lines_of_any_system():
    text = VOCABULARY.to_text()
    for same in (text, text.replace("\n", "\r\n"), text.rstrip("\n")):
        assert vocabulary_of(same, "vocab.txt") == VOCABULARY
    odd = Vocabulary((*WORDS, "a\u2028b", "\x85"))
    assert vocabulary_of(odd.to_text(), "vocab.txt") == odd


def test_metadata_hold_what_is_not_that_of_bert():
    assert vocabulary_metadata(bert_vocabulary()) == vocabulary_metadata(None) == {}
    texts = vocabulary_metadata(VOCABULARY)
    assert metadata_vocabulary(texts, CONFIG, "a.safetensors") == VOCABULARY
    with pytest.raises(CheckpointError, match="a.safetensors: vocabulary: no word in the lines 1"):
        metadata_vocabulary({"vocabulary": "\n"}, CONFIG, "a.safetensors")
    with pytest.raises(
        ConfigError, match="a.safetensors: vocabulary: 22 words, and the text encoder has vocab_size 21"
    ):
        metadata_vocabulary({"vocabulary": texts["vocabulary"] + "more\n"}, CONFIG, "a.safetensors")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Of a model: only its tokenizer."""
    write_tokenizer(tmp_path / "tokenizer", VOCABULARY, 7)
    return tmp_path


# As the hub has it for CompVis/ldm-text2im-large-256, and as transformers writes it today.
OLD: dict[str, Any] = {
    "cls_token": "[CLS]",
    "do_basic_tokenize": True,
    "do_lower_case": True,
    "mask_token": "[MASK]",
    "model_max_length": 512,
    "name_or_path": "bert-base-uncased",
    "never_split": None,
    "pad_token": "[PAD]",
    "sep_token": "[SEP]",
    "special_tokens_map_file": None,
    "strip_accents": None,
    "tokenize_chinese_chars": True,
    "tokenizer_class": "BertTokenizer",
    "unk_token": {"__type": "AddedToken", "content": "[UNK]", "lstrip": False},
}
NEW: dict[str, Any] = {
    "backend": "tokenizers",
    "cls_token": "[CLS]",
    "do_lower_case": True,
    "mask_token": "[MASK]",
    "model_max_length": 1000000000000000019884624838656,
    "pad_token": "[PAD]",
    "sep_token": "[SEP]",
    "strip_accents": None,
    "tokenize_chinese_chars": True,
    "tokenizer_class": "BertTokenizer",
    "unk_token": "[UNK]",
    "added_tokens_decoder": {
        "0": {"content": "[PAD]", "lstrip": False, "normalized": False, "single_word": False, "special": True},
        "21": {"content": "[MASK]", "special": True},
    },
}


def whole() -> dict[str, Any]:
    """What transformers writes into tokenizer.json."""
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    special = {"[PAD]": 0, "[UNK]": 2, "[CLS]": 3, "[SEP]": 4, "[MASK]": 21}
    return {
        "version": "1.0",
        "truncation": {"max_length": 12},
        "padding": None,
        "added_tokens": [{"id": at, "content": word, **flags} for word, at in special.items()],
        "normalizer": {
            "type": "BertNormalizer",
            "clean_text": True,
            "handle_chinese_chars": True,
            "strip_accents": None,
            "lowercase": True,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [
                {"SpecialToken": {"id": "[CLS]", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": "[SEP]", "type_id": 0}},
            ],
            "pair": [],
            "special_tokens": {},
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": True},
        "model": {
            "type": "WordPiece",
            "unk_token": "[UNK]",
            "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100,
            "vocab": {word: at for at, word in enumerate(WORDS)},
        },
    }


@pytest.mark.parametrize("settings", [OLD, NEW, {}])
def test_a_folder_of_any_year(folder, settings):
    files = folder / "tokenizer"
    (files / "tokenizer_config.json").write_text(json.dumps(settings))
    names = {key: value for key, value in settings.items() if key.endswith("_token")}
    (files / "special_tokens_map.json").write_text(json.dumps(names))
    (files / "added_tokens.json").write_text("{}")
    assert folder_vocabulary(folder, CONFIG) == VOCABULARY
    (files / "tokenizer.json").write_text(json.dumps(whole()))
    assert folder_vocabulary(folder, CONFIG) == VOCABULARY
    (files / "vocab.txt").unlink()
    assert folder_vocabulary(folder, CONFIG) == VOCABULARY
    other = whole() | {"post_processor": {"type": "BertProcessing", "sep": ["[SEP]", 4], "cls": ["[CLS]", 3]}}
    (files / "tokenizer.json").write_text(json.dumps(other))
    assert folder_vocabulary(folder, CONFIG) == VOCABULARY


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("do_lower_case", False),
        ("do_lower_case", None),
        ("strip_accents", False),
        ("tokenize_chinese_chars", False),
        ("do_basic_tokenize", False),
        ("never_split", ["zebra"]),
        ("tokenizer_class", "CLIPTokenizer"),
        ("padding_side", "left"),
        ("truncation_side", "left"),
        ("cls_token", "<s>"),
        ("unk_token", {"content": "?"}),
        ("mask_token", "<mask>"),
        ("pad_token", None),
        ("additional_special_tokens", ["<x>"]),
        ("extra_special_tokens", {"x": "<x>"}),
        ("added_tokens_decoder", {"22": {"content": "<x>", "special": True}}),
        ("added_tokens_decoder", {"5": {"content": "[PAD]", "special": True}}),
        ("added_tokens_decoder", {"x": 7}),
        ("added_tokens_decoder", 7),
        ("wordpieces_prefix", "@@"),
        ("bos_token", "<s>"),
    ],
)
@pytest.mark.parametrize("name", ["tokenizer_config.json", "special_tokens_map.json"])
def test_each_setting_of_a_tokenizer_counts(folder, name, key, value):
    (folder / "tokenizer" / name).write_text(json.dumps({**OLD, key: value}))
    with pytest.raises(ConfigError, match=rf"{name}: (unknown keys )?{key}"):
        folder_vocabulary(folder, CONFIG)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        (("model", "type"), "BPE"),
        (("model", "unk_token"), "[PAD]"),
        (("model", "continuing_subword_prefix"), "@@"),
        (("model", "max_input_chars_per_word"), 10),
        (("model", "dropout"), 0.1),
        (("model", "vocab"), None),
        (("model", "vocab"), {**whole()["model"]["vocab"], "a": 7}),
        (("model", "vocab"), {**whole()["model"]["vocab"], "a": True}),
        (("model", "vocab"), {**whole()["model"]["vocab"], "more": 21}),
        (("normalizer", "lowercase"), False),
        (("normalizer", "strip_accents"), False),
        (("normalizer", "clean_text"), False),
        (("normalizer",), None),
        (("pre_tokenizer",), {"type": "Whitespace"}),
        (("post_processor",), None),
        (("post_processor", "single"), []),
        (("post_processor", "single"), [{"Sequence": {"id": "A"}}]),
        (("post_processor", "type"), "ByteLevel"),
        (("added_tokens",), None),
        (("added_tokens",), [{"id": 21, "content": "<x>"}]),
        (("added_tokens",), [{"id": 0, "content": "[PAD]", "lstrip": True}]),
        (("added_tokens",), [{"id": 22, "content": "[MASK]"}]),
        (("more",), 7),
    ],
)
def test_each_part_of_a_whole_tokenizer_counts(folder, place, value):
    data = whole()
    inner = data
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    (folder / "tokenizer" / "vocab.txt").unlink()
    (folder / "tokenizer" / "tokenizer.json").write_text(json.dumps(data))
    with pytest.raises(LDMError, match="tokenizer"):
        folder_vocabulary(folder, CONFIG)


def test_two_files_of_words_must_agree(folder):
    words = [*WORDS[:5], "the", "an", "a", *WORDS[8:]]
    data = whole()
    data["model"]["vocab"] = {word: at for at, word in enumerate(words)}
    (folder / "tokenizer" / "tokenizer.json").write_text(json.dumps(data))
    with pytest.raises(CheckpointError, match="vocab.txt and tokenizer.json hold other words"):
        folder_vocabulary(folder, CONFIG)


def test_a_tokenizer_without_words_is_none(folder):
    (folder / "tokenizer" / "vocab.txt").unlink()
    with pytest.raises(CheckpointError, match="holds neither vocab.txt nor tokenizer.json"):
        folder_vocabulary(folder, CONFIG)
    (folder / "tokenizer" / "vocab.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(CheckpointError, match=r"vocab\.txt: cannot be read"):
        folder_vocabulary(folder, CONFIG)


def test_words_that_were_added_are_refused(folder):
    file = folder / "tokenizer" / "added_tokens.json"
    file.write_text(json.dumps({"[MASK]": 21}))
    assert folder_vocabulary(folder, CONFIG) == VOCABULARY
    file.write_text(json.dumps({"<x>": 21}))
    with pytest.raises(ConfigError, match="added_tokens.json holds.*'<x>'"):
        folder_vocabulary(folder, CONFIG)


def test_other_models_have_no_vocabulary(tmp_path):
    assert folder_vocabulary(tmp_path, LDMConfig()) is None
    assert metadata_vocabulary({"vocabulary": "a"}, LDMConfig(), "a") is None
