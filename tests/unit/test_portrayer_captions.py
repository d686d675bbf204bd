"""The captions that demo/text-portraits-128 was trained on say what a portrait shows, in words that it knows."""

from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

import ldm_backend

SEEDS, CAPTIONS = 150, 20  # portraits, and captions of each


@pytest.fixture(scope="module")
def scripts(root: Path):
    with pytest.MonkeyPatch.context() as patch:
        for folder in ("demo", "demo/portrayer"):
            patch.syspath_prepend(root / folder)
        yield import_module("portrait_traits"), import_module("portrayer_captions")


@pytest.fixture(scope="module")
def described(scripts):
    """(Traits, facts, captions) of some portraits."""
    traits, captions = scripts
    drawn = [traits.draw_traits(np.random.default_rng(seed)) for seed in range(SEEDS)]
    rng = np.random.default_rng(1)
    return [(one, captions.facts(one), [captions.describe(one, rng).text for _ in range(CAPTIONS)]) for one in drawn]


def test_all_words_are_in_the_vocabulary_but_the_stranger(scripts, described):
    _, captions = scripts
    said = {word for _, _, texts in described for text in texts for word in captions.split(text)}
    assert said - set(captions.vocabulary()) == {captions.STRANGER}


def test_the_model_has_this_vocabulary(scripts, root: Path):
    _, captions = scripts
    words = (root / "demo" / "text-portraits-128" / "tokenizer" / "vocab.txt").read_text().splitlines()
    assert words == captions.vocabulary()
    assert len(words) == len(set(words))


def test_tokens_are_those_that_the_model_is_given(scripts, described, root: Path):
    _, captions = scripts
    theirs, ours = ldm_backend.load(root / "demo" / "text-portraits-128", device="cpu").tokeniser, captions.Tokenizer()
    assert theirs is not None
    texts = [text for _, _, texts in described for text in texts]
    for text in [*texts, "", "A RED Afro, v-neck!", "somebody's curls (grey)", "hair " * 99]:
        assert ours(text) == list(theirs(text).ids), text


def test_no_caption_is_cut(scripts, described):
    _, captions = scripts
    assert max(len(captions.split(text)) for _, _, texts in described for text in texts) <= captions.MAX_TOKENS - 2


def test_captions_tell_nothing_that_is_not_there(described):
    """Each word here belongs to one value of a trait, and stands only in captions of portraits that have it."""
    belongs = {
        "curly": ("style", "curly"), "curls": ("style", "curly"), "afro": ("style", "afro"), "bob": ("style", "bob"),
        "bun": ("style", "bun"), "bald": ("style", "bald"), "fringe": ("style", "fringe"), "bangs": ("style", "fringe"),
        "long": ("style", "long"), "receding": ("style", "receding"), "ginger": ("hair", "red"),
        "blonde": ("hair", "blond"), "chestnut": ("hair", "brown"), "spectacles": ("glasses", "yes"),
        "moustache": ("beard", "moustache"), "bearded": ("beard", "full"), "smiling": ("smile", "smiling"),
        "teeth": ("mouth", "open"), "turtleneck": ("neckline", "high"), "collar": ("neckline", "collar"),
        "tan": ("skin", "tan"), "pale": ("skin", "fair"), "navy": ("clothes", "blue"), "teal": ("clothes", "green"),
    }  # fmt: skip
    told = set()
    for _, facts, texts in described:
        for text in texts:
            for word in belongs.keys() & set(text.replace(",", " ").replace("not smiling", "").split()):
                name, value = belongs[word]
                assert facts[name] == value, text
                told.add(word)
    assert told == belongs.keys()


def test_what_is_missing_is_said_to_be_missing(described):
    for _, facts, texts in described:
        for text in texts:
            words = text.replace(",", " ").split()
            for at, word in enumerate(words):
                if word in ("glasses", "earrings", "beard") and facts[word] in ("no", "none"):
                    assert {"no", "without"} & set(words[max(at - 3, 0) : at]), text


def test_some_captions_are_empty_and_no_two_portraits_have_the_same_ones(scripts, described):
    _, captions = scripts
    texts = [text for _, _, texts in described for text in texts]
    assert 0.5 * captions.EMPTY < np.mean([not text for text in texts]) < 2 * captions.EMPTY
    assert len(set(texts)) > 0.7 * len(texts)
