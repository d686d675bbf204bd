"""Files that show one thing to one reader and another to the next: archives with two lists of records, keys twice."""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Callable
from json import dumps
from pathlib import Path

from .archives import GOOD, call, pickled, put
from .registry import KEY, UNET, bad
from .tensors import described, with_header

EVIL = b"\x80\x02" + call("posix", "system", "touch pwned") + b"."


def parts(data: bytes) -> tuple[bytes, bytes, bytes]:
    """The records, their list, and its end."""
    start = int.from_bytes(data[-6:-2], "little")
    return data[:start], data[start:-22], data[-22:]


def other_archive(f: Path) -> bytes:
    """One whose table of contents calls for a program."""
    with zipfile.ZipFile(f / "other.zip", "w") as archive:
        archive.writestr("archive/data.pkl", EVIL)
    return (f / "other.zip").read_bytes()


def long_end(count: int, length: int, start: int) -> bytes:
    return struct.pack("<4sQHHIIQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, length, start)


def locator(place: int) -> bytes:
    return struct.pack("<4sIQI", b"PK\x06\x07", 0, place, 1)


def saturated(end: bytes) -> bytes:
    changed = bytearray(end)
    changed[8:20] = b"\xff" * 12
    return bytes(changed)


def list_that_another_offset_leads_to(good: bytes, other: bytes) -> bytes:
    """Whoever reckons back from the end finds one list, whoever believes the offset the other."""
    records, listed, end = parts(good)
    other_records, other_list, _ = parts(other)
    moved = bytearray(end)
    put(moved, 16, len(records) + len(other_records))
    return records + other_records + other_list + listed + bytes(moved)


def long_list_elsewhere(good: bytes, other: bytes) -> bytes:
    """The locator leads to a long end in the middle of the file, whose list is another one."""
    records, listed, end = parts(good)
    other_records, other_list, _ = parts(other)
    place = len(records) + len(other_records) + len(other_list)
    hidden = long_end(1, len(other_list), len(records) + len(other_records))
    return records + other_records + other_list + hidden + listed + locator(place) + end


def long_list_in_a_comment(good: bytes, other: bytes) -> bytes:
    """Likewise inside of the comment of the last entry, so that offset and size agree."""
    records, listed, end = parts(good)
    other_records, other_list, _ = parts(other)
    place = len(records) + len(other_records) + len(other_list)
    hidden = long_end(1, len(other_list), len(records) + len(other_records))
    comment = hidden + locator(place)
    changed = bytearray(listed)
    put(changed, listed.rindex(b"PK\x01\x02") + 32, len(comment), 2)
    changed_end = bytearray(end)
    put(changed_end, 12, len(changed) + len(comment))
    put(changed_end, 16, place)
    return records + other_records + other_list + bytes(changed) + comment + bytes(changed_end)


def long_end_that_no_size_calls_for(good: bytes, other: bytes) -> bytes:
    records, listed, end = parts(good)
    _, other_list, _ = parts(other)
    place = len(records) + len(listed)
    return records + listed + long_end(1, len(other_list), 0) + locator(place) + end


def long_end_with_another_count(good: bytes, other: bytes) -> bytes:
    records, listed, end = parts(good)
    place = len(records) + len(listed)
    return records + listed + long_end(1, len(listed), len(records)) + locator(place) + saturated(end)


def long_end_that_is_missing(good: bytes, other: bytes) -> bytes:
    records, listed, end = parts(good)
    return records + listed + saturated(end)


def locator_beyond_the_file(good: bytes, other: bytes) -> bytes:
    records, listed, end = parts(good)
    return records + listed + long_end(4, len(listed), len(records)) + locator(2**63) + saturated(end)


def two_archives(good: bytes, other: bytes) -> bytes:
    return other + good


def two_archives_the_other_way(good: bytes, other: bytes) -> bytes:
    return good + other


def end_inside_a_comment(good: bytes, other: bytes) -> bytes:
    """The comment of the archive is an archive."""
    changed = bytearray(good)
    put(changed, len(changed) - 2, len(other), 2)
    return bytes(changed) + other


def header_of_another_name(good: bytes, other: bytes) -> bytes:
    return good.replace(b"archive/data.pkl", b"archive/evil.pkl", 1)


def list_with_a_name_twice(good: bytes, other: bytes) -> bytes:
    return good[:-500].replace(b"archive/version", b"archive/data/00") + good[-500:].replace(
        b"archive/version", b"archive/data.pkl"
    )


ARCHIVES = (list_that_another_offset_leads_to, long_list_elsewhere, long_list_in_a_comment,
            long_end_that_no_size_calls_for, long_end_with_another_count, long_end_that_is_missing,
            locator_beyond_the_file, two_archives, two_archives_the_other_way, end_inside_a_comment,
            header_of_another_name, list_with_a_name_twice)  # fmt: skip


@bad("cannot be read|refused", **{make.__name__: make for make in ARCHIVES})
def archive_with_two_views(f: Path, make: Callable[[bytes, bytes], bytes]) -> None:
    file = pickled(f, GOOD)
    file.write_bytes(make(file.read_bytes(), other_archive(f)))


@bad(
    "cannot be read|do not fit|refused",
    tensor=f'{{"{KEY}":{dumps(described())},"{KEY}":{dumps(described([1], [0, 4]))}}}',
    tensor_in_escapes=f'{{"{KEY}":{dumps(described())},"conv_in\\u002eweight":{dumps(described())}}}',
    metadata=f'{{"__metadata__":{{"a":"1"}},"__metadata__":{{"a":"2"}},"{KEY}":{dumps(described())}}}',
    metadata_as_a_tensor=f'{{"__metadata__":{dumps(described())}}}',
    offsets=f'{{"{KEY}":{{"dtype":"F32","shape":[2],"data_offsets":[0,8],"data_offsets":[4,12]}}}}',
    shape=f'{{"{KEY}":{{"dtype":"F32","shape":[2],"shape":[1],"data_offsets":[0,8]}}}}',
    blanks_and_another=f"{{}}{' ' * 100}{{}}",
    nul_and_another="{}\0{}",
)
def header_with_two_views(f: Path, text: str) -> None:
    (f / UNET).write_bytes(with_header(text.encode(), bytes(8)))
