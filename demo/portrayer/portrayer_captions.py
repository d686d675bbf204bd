"""What can be said of a drawn portrait: its facts as plain words, captions of them, and the vocabulary of all captions.

A caption never tells what the traits do not have: there is no age, no name and no sex in it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from portrait_traits import BACKDROPS, CLOTHES, EYES, HAIRS, NECKLINES, SKINS, STYLES, Traits

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
MAX_TOKENS = 77  # of the family: what diffusers' pipeline always pads to
SMILING, SERIOUS = 2.1, 1.1  # lifts of the corners of the mouth; between them nothing is said
EMPTY = 0.12  # share of empty captions, which guidance without a classifier needs
WHOLE = 0.15  # share of captions that tell all
STRANGE, STRANGER = 0.1, "xyzzy"  # share of captions with a word that the vocabulary does not have

TRAITS = {  # and the groups of their values
    "style": STYLES,
    "hair": ("black", "brown", "red", "blond", "grey", "white"),
    "skin": ("fair", "tan", "brown", "dark"),
    "eyes": ("brown", "green", "blue", "grey"),
    "glasses": ("no", "yes"),
    "beard": ("none", "full", "moustache"),
    "earrings": ("no", "yes"),
    "smile": ("serious", "smiling"),  # nothing is asked of those between
    "mouth": ("closed", "open"),
    "clothes": ("blue", "red", "white", "black", "green", "yellow", "purple", "pink"),
    "neckline": NECKLINES,
    "backdrop": ("blue", "beige", "green", "purple", "grey", "slate", "yellow", "pink"),
}
UNSAID = -100  # what cross entropy passes over

# Of each colour of a palette: its group, and the words for it, the first of them the plainest.
_SKINS = (
    ("fair", ("fair", "pale", "light")),
    ("fair", ("fair", "light")),
    ("tan", ("tan", "tanned")),
    ("tan", ("tan", "tanned")),
    ("brown", ("brown",)),
    ("dark", ("dark", "dark brown")),
    ("dark", ("dark", "black")),
)
_HAIRS = (
    ("black", ("black",)),
    ("brown", ("dark brown", "brown", "dark")),
    ("brown", ("brown", "brunette")),
    ("brown", ("light brown", "brown", "chestnut")),
    ("red", ("red", "ginger", "orange")),
    ("blond", ("dark blond", "blond", "blonde")),
    ("blond", ("blond", "blonde", "light blond")),
    ("grey", ("grey", "gray", "silver")),
    ("white", ("white", "silver")),
)
_EYES = (
    ("brown", ("dark brown", "brown", "dark")),
    ("brown", ("brown", "light brown")),
    ("green", ("green", "hazel")),
    ("green", ("green",)),
    ("blue", ("blue",)),
    ("grey", ("grey", "gray")),
)
_CLOTHES = (
    ("blue", ("blue", "dark blue", "navy")),
    ("red", ("red",)),
    ("white", ("white", "cream")),
    ("black", ("black", "dark grey", "charcoal")),
    ("green", ("green", "teal")),
    ("yellow", ("yellow", "mustard", "gold")),
    ("purple", ("purple", "violet")),
    ("pink", ("pink",)),
)
_BACKDROPS = (
    ("blue", ("blue", "light blue")),
    ("beige", ("beige", "peach")),
    ("green", ("green", "sage")),
    ("purple", ("purple", "violet", "lavender", "lilac")),
    ("grey", ("grey", "gray", "light grey")),
    ("slate", ("slate", "dark blue", "blue grey")),
    ("yellow", ("yellow", "cream", "sand")),
    ("pink", ("pink", "rose")),
)
# {} is where the colour goes, and falls away where none is said.
_HAIR_FORMS = {
    "short": ("short {} hair", "{} short hair"),
    "side": ("side parted {} hair", "{} hair with a side parting"),
    "fringe": ("{} hair with a fringe", "{} hair with bangs"),
    "long": ("long {} hair", "{} long hair"),
    "bob": ("{} bob", "{} hair in a bob", "chin length {} hair"),
    "curly": ("curly {} hair", "{} curly hair", "{} curls"),
    "afro": ("{} afro", "{} afro hair"),
    "bun": ("{} hair in a bun", "{} bun", "{} hair tied up in a bun"),
    "receding": ("receding {} hair", "{} hair with a receding hairline"),
}
_BALD = ("bald", "bald head", "no hair")
_CLOTHES_FORMS = ("{} top", "{} shirt", "{} clothes", "{} sweater", "wearing {}", "wearing a {} top", "{} jumper")
_NECKLINE_FORMS = {
    "round": ("{} top with a round neck", "{} crew neck"),
    "vee": ("{} top with a v neck", "{} v-neck", "{} v-neck sweater"),
    "collar": ("{} shirt with a collar", "{} collared shirt", "{} polo shirt"),
    "high": ("{} turtleneck", "{} top with a high neck", "{} roll neck"),
}
_BACKDROP_FORMS = ("{} background", "{} backdrop", "{} wall", "in front of a {} background", "background {}")
_SKIN_FORMS = ("{} skin", "{} complexion")
_PLAIN_FORMS = {  # of what has one of a few values
    ("glasses", "yes"): ("glasses", "spectacles", "wearing glasses", "eyeglasses"),
    ("glasses", "no"): ("no glasses", "without glasses"),
    ("beard", "full"): ("beard", "full beard", "bearded", "with a beard"),
    ("beard", "moustache"): ("moustache", "mustache", "with a moustache"),
    ("beard", "none"): ("no beard", "clean shaven", "without a beard"),
    ("earrings", "yes"): ("earrings", "gold earrings", "wearing earrings"),
    ("earrings", "no"): ("no earrings", "without earrings"),
    ("smile", "smiling"): ("smiling", "smile", "a big smile", "happy"),
    ("smile", "serious"): ("serious", "not smiling", "no smile"),
    ("mouth", "open"): ("open mouth", "mouth open", "showing teeth", "teeth"),
    ("mouth", "closed"): ("closed mouth", "mouth closed"),
}
_RARELY = {("glasses", "no"), ("beard", "none"), ("earrings", "no"), ("mouth", "closed")}  # that nothing is there
_BEGINNINGS = (
    "portrait",
    "a portrait",
    "portrait of a person",
    "portrait of a person with",
    "a person",
    "a person with",
    "face with",
    "drawing of a face with",
    "picture of somebody with",
    "the portrait of someone, the face with",
)
_JOINS = ((", ", 0.7), (" and ", 0.12), (" ", 0.12), (" with ", 0.06))
_TOPICS = ("hair", "skin", "eyes", "glasses", "beard", "earrings", "smile", "mouth", "clothes", "backdrop")

Named = tuple[tuple[str, tuple[str, ...]], ...]


def facts(traits: Traits) -> dict[str, str]:
    """Returns what a portrait shows, in the words of the groups; `describe` has more words for the same."""
    return {
        "style": traits.style,
        "hair": _named(traits.hair, HAIRS, _HAIRS)[0],
        "skin": _named(traits.skin, SKINS, _SKINS)[0],
        "eyes": _named(traits.iris, EYES, _EYES)[0],
        "clothes": _named(traits.cloth, CLOTHES, _CLOTHES)[0],
        "neckline": traits.neckline,
        "backdrop": _named(traits.backdrop[0], BACKDROPS, _BACKDROPS)[0],
        "glasses": "yes" if traits.glasses else "no",
        "beard": traits.beard,
        "earrings": "yes" if traits.earrings else "no",
        "smile": "smiling" if traits.mouth[1] > SMILING else "serious" if traits.mouth[1] < SERIOUS else "slight",
        "mouth": "open" if traits.mouth[2] else "closed",
    }


def number_of(name: str, known: dict[str, str]) -> int:
    """Returns the number of a fact among the values of its trait, for a classifier; of none a number that it skips."""
    values = TRAITS[name]
    return values.index(known[name]) if known.get(name) in values else UNSAID


class Caption(NamedTuple):
    """What is said of a portrait, and which traits that tells."""

    text: str
    told: frozenset[str]


def describe(traits: Traits, rng: np.random.Generator) -> Caption:
    """Returns a caption: phrases in random order for a random part of what is known, sometimes all, sometimes none."""
    kind = rng.random()
    if kind < EMPTY:
        return Caption("", frozenset())
    count = len(_TOPICS) if kind < EMPTY + WHOLE else int(rng.integers(1, len(_TOPICS)))
    known = facts(traits)
    said = [_phrase(_TOPICS[topic], traits, known, rng) for topic in rng.permutation(len(_TOPICS))[:count]]
    join = _JOINS[int(rng.choice(len(_JOINS), p=[share for _, share in _JOINS]))][0]
    text = join.join(one.text for one in said if one.text)
    if rng.random() < 0.4:
        text = f"{_any(_BEGINNINGS, rng)}{' ' if rng.random() < 0.6 else ', '}{text}"
    if rng.random() < STRANGE:
        words = text.split(" ")
        words.insert(int(rng.integers(len(words) + 1)), STRANGER)
        text = " ".join(words)
    return Caption(text, frozenset().union(*(one.told for one in said)))


def _phrase(topic: str, traits: Traits, known: dict[str, str], rng: np.random.Generator) -> Caption:
    """Returns what is said of a topic; nothing where there is nothing worth saying."""
    if topic == "hair":
        return _hair(traits, rng)
    told = {topic}
    if topic == "clothes":
        close = rng.random() < 0.35
        told |= {"neckline"} if close else set()
        forms = _NECKLINE_FORMS[traits.neckline] if close else _CLOTHES_FORMS
        text = _any(forms, rng).format(_colour(traits.cloth, CLOTHES, _CLOTHES, rng))
    elif topic == "backdrop":
        words = [_colour(colour, BACKDROPS, _BACKDROPS, rng) for colour in traits.backdrop]
        text = _any(_BACKDROP_FORMS, rng).format(" and ".join(words) if rng.random() < 0.2 else words[0])
    elif topic == "skin":
        text = _any(_SKIN_FORMS, rng).format(_colour(traits.skin, SKINS, _SKINS, rng))
    elif topic == "eyes":
        text = f"{_colour(traits.iris, EYES, _EYES, rng)} eyes"
    else:
        text = _plain((topic, known[topic]), traits, rng)
        told = told if text else set()
    return Caption(text, frozenset(told))


def _plain(fact: tuple[str, str], traits: Traits, rng: np.random.Generator) -> str:
    if fact not in _PLAIN_FORMS or (fact in _RARELY and rng.random() < 0.6):
        return ""
    form = _any(_PLAIN_FORMS[fact], rng)
    if form == "beard" and rng.random() < 0.3:
        return f"{_colour(traits.hair, HAIRS, _HAIRS, rng)} beard"
    return form


def _hair(traits: Traits, rng: np.random.Generator) -> Caption:
    if traits.style == "bald":
        return Caption(_any(_BALD, rng), frozenset({"style"}))
    colour, kind = _colour(traits.hair, HAIRS, _HAIRS, rng), rng.random()
    if kind < 0.2:
        return Caption(f"{colour} hair" if kind < 0.15 else f"{colour}-haired", frozenset({"hair"}))
    text = " ".join(_any(_HAIR_FORMS[traits.style], rng).format("" if kind < 0.4 else colour).split())
    return Caption(text, frozenset({"style"} if kind < 0.4 else {"style", "hair"}))


def _named(colour: np.ndarray, palette: Sequence[str], names: Named) -> tuple[str, tuple[str, ...]]:
    """Returns group and words of the nearest colour of a palette."""
    codes = np.array([[int(code[i : i + 2], 16) / 255 for i in (0, 2, 4)] for code in palette])
    return names[int(np.square(codes - colour).sum(1).argmin())]


def _colour(colour: np.ndarray, palette: Sequence[str], names: Named, rng: np.random.Generator) -> str:
    words = _named(colour, palette, names)[1]
    return words[0] if rng.random() < 0.5 else _any(words, rng)


def _any(choices: Sequence[str], rng: np.random.Generator) -> str:
    return choices[int(rng.integers(len(choices)))]


def split(text: str) -> list[str]:
    """Returns the words and marks of a text in lower case, as the tokenizer of BERT splits plain English."""
    return re.findall(r"\w+|[^\w\s]", text.lower())


def vocabulary() -> list[str]:
    """Returns the special tokens, and all words of all captions in the order of the alphabet."""
    named = [word for names in (_SKINS, _HAIRS, _EYES, _CLOTHES, _BACKDROPS) for _, words in names for word in words]
    forms = [form for some in (_HAIR_FORMS, _NECKLINE_FORMS, _PLAIN_FORMS) for each in some.values() for form in each]
    plain = (*_BALD, *_CLOTHES_FORMS, *_BACKDROP_FORMS, *_SKIN_FORMS, *_BEGINNINGS)
    words = split(" ".join([*named, *forms, *plain, "and", ",", "eyes", "haired"]).replace("{}", " "))
    return [*SPECIAL, *sorted(set(words))]


class Tokenizer:
    """Texts to tokens, as BERT's tokenizer with this vocabulary does: one for each word, none for parts of words."""

    def __init__(self) -> None:
        self._ids = {word: number for number, word in enumerate(vocabulary())}

    def __call__(self, text: str) -> list[int]:
        """Returns MAX_TOKENS tokens: begin, words, end, and what fills up."""
        pad, unknown, begin, end, _ = range(len(SPECIAL))
        words = [self._ids.get(word, unknown) for word in split(text)][: MAX_TOKENS - 2]
        tokens = [begin, *words, end]
        return tokens + [pad] * (MAX_TOKENS - len(tokens))
