"""Files whose reading may cost more than their size: equal hashes, long numbers, depth, repetition, many things."""

from __future__ import annotations

import json
import struct
from pathlib import Path

from .archives import GOOD, pickled, plain, storage, table, tensor, text
from .registry import KEY, UNET, bad
from .tensors import described, with_header

PRIME = 2**61 - 1  # Python's hashes of whole numbers are remainders of it
MANY = 100_000


def keys_of(values: list[bytes], kind: bytes = b"}") -> bytes:
    """A table with these keys and a tensor, whole or as list of pairs."""
    pairs = b"".join(value + b"N" for value in values)
    good = text("a") + tensor(storage(4), (4,), (1,))
    return kind + b"(" + good + pairs + b"u"


@bad(
    "holds a table with keys|refused|cannot be read|expected a tensor|unexpected keys|do not fit",
    whole_numbers=keys_of([plain(n * PRIME) for n in range(1, MANY)]),
    ordered=keys_of([plain(n * PRIME) for n in range(1, MANY)], b"ccollections\nOrderedDict\n)R"),
    below_0=keys_of([plain(-n * PRIME) for n in range(1, MANY)]),
    fractions=keys_of([plain(float(2**n % PRIME)) for n in range(1000)] * 100),
    the_same_key=keys_of([text("b")] * MANY),
    long_texts=keys_of([text("b" * 4000 + str(n)) for n in range(900)]),
    tuples=keys_of([plain((n * PRIME, -1)) for n in range(1, MANY // 4)]),
    numbers_of_megabytes=keys_of([b"\x8b" + struct.pack("<i", 2**20) + b"\x7f" * 2**20] * 3),
    digits_of_megabytes=keys_of([b"L" + b"9" * 10**6 + b"L\n"]),
    decimal_of_megabytes=keys_of([b"I" + b"9" * 10**6 + b"\n"]),
    memo=GOOD[:-1] + b"".join(b"q" + bytes([n % 256]) for n in range(MANY * 2)) + b"u",
    memo_by_number=GOOD + b"".join(b"r" + struct.pack("<I", 2**32 - 1 - n) for n in range(MANY)),
    copies=GOOD + b"2" * (MANY * 4),
    copies_in_tuples=b"N" + b"2\x86" * 200_000,
    appended_lists=b"]" + b"2a" * 200_000,
    many_storages=table({f"{n}": tensor(storage(4, key=str(n)), (4,), (1,)) for n in range(5000)}),
    one_storage_in_many=table({f"{n}": tensor(storage(4), (4,), (1,)) for n in range(6_000)}),
    long_names=b"c" + b"a" * 10**6 + b"\n" + b"b" * 10**6 + b"\n)R",
    many_names=b"".join(f"cm{n}\nx{n}\n0".encode() for n in range(MANY)) + GOOD,
    many_ids=table({"a": b"N"}) + b"(lQ0" * MANY,
)
def pickle_that_costs(f: Path, content: bytes) -> None:
    pickled(f, content)


@bad("refused|cannot be read", records=20_000, in_folders=10_000)
def archive_of_many_records(f: Path, count: int) -> None:
    folder = "a/" * 20 if count == 10_000 else ""
    pickled(f, GOOD, **{f"{folder}{n}": b"" for n in range(count)}, **{"data.pkl": b"N" * (5 * 2**20)})


def shapes(entry: object) -> str:
    return json.dumps({KEY: entry})


@bad(
    "cannot be read|refused|do not fit|dimensions",
    long_number=shapes(described()).replace("[2]", f"[{'9' * 10**6}]"),
    long_fraction=shapes(described()).replace("[2]", f"[0.{'9' * 10**6}]"),
    exponent=shapes(described()).replace("[2]", "[1e999999]"),
    below_0=shapes(described()).replace("[0, 8]", f"[-{'1' * 10**6}, 8]"),
    million_dimensions=shapes(described([1] * 10**6, [0, 4])),
    million_zeros=shapes(described([0] * 10**6, [0, 0])),
    deep_shape=shapes(described()).replace("[2]", "[" * MANY + "]" * MANY),
    deep_objects=shapes(described()).replace("[2]", '{"a":' * MANY + "1" + "}" * MANY),
    million_texts=json.dumps({"__metadata__": {str(n): "" for n in range(200_000)}}),
    long_text=json.dumps({"__metadata__": {"a": "\x1b" * 10**6}}),
    long_name=json.dumps({"\x1b[2J" * 10**5: described()}),
    names_that_begin_alike=json.dumps({"module." * n + "a": described([0], [0, 0]) for n in range(1000)}),
    compiled_names=json.dumps({"_orig_mod." * n + "a": described([0], [0, 0]) for n in range(800)}),
    blanks=" " * (7 * 2**20) + "{}",
    just_above="{" + " " * (8 * 2**20) + "}",
)
def header_that_costs(f: Path, text: str) -> None:
    (f / UNET).write_bytes(with_header(text.encode(), bytes(8)))


def nested(levels: int, kind: str) -> str:
    return {"lists": "[" * levels + "]" * levels, "objects": '{"a":' * levels + "1" + "}" * levels}[kind]


@bad(
    "config.json",
    exponent='{"norm_eps": 1e400}',
    exponent_below='{"norm_eps": -1e400}',
    exponent_of_digits='{"norm_eps": 1e' + "9" * 10_000 + "}",
    fraction_of_digits='{"sample_size": 0.' + "1" * 10**6 + "}",
    same_key='{"sample_size": 1, "sample_size": 2}',
    hundred_thousand_keys=json.dumps({f"key{n}": n for n in range(MANY // 2)}),
    deep_lists=f'{{"a": {nested(50_000, "lists")}}}',
    deep_objects=f'{{"a": {nested(50_000, "objects")}}}',
    surrogate='{"_class_name": "\\ud800"}',
    nan='{"norm_eps": NaN}',
    infinity='{"norm_eps": Infinity}',
    utf16='{"sample_size": 32}'.encode("utf-16").decode("latin-1"),
    bom="\ufeff{}",
    million_blocks=json.dumps({"down_block_types": ["DownBlock2D"] * 60_000}),
)
def json_that_costs(f: Path, content: str) -> None:
    (f / "unet" / "config.json").write_bytes(content.encode())
