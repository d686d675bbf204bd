"""The archive that `torch.save` writes: a zip of a pickle and of the numbers of its tensors, read here alone.

Only the one form is taken that torch.save writes, in which all readers of zip find the same records: the list of
records ends the file, both its long and its short end say where it begins, and each record is stored as it is.
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

import torch
from torch import Tensor

from .pickle_table import StoredTensor

_MAX_PICKLE = 4 * 2**20
_MAX_DIRECTORY = 8 * 2**20  # list of the records of an archive

_DTYPES = {
    "Bool": torch.bool, "Byte": torch.uint8, "Char": torch.int8, "Short": torch.int16, "Int": torch.int32,
    "Long": torch.int64, "Half": torch.float16, "BFloat16": torch.bfloat16, "Float": torch.float32,
    "Double": torch.float64,
}  # fmt: skip

_END = struct.Struct("<4sHHHHIIH")  # of central directory
_LOCATOR = struct.Struct("<4sIQI")
_LONG_END = struct.Struct("<4sQHHIIQQQQ")
_LOCAL = struct.Struct("<4s22xHH")  # header of a record: signature, and lengths of its name and its extra field


class UnusualArchiveError(ValueError):
    """A zip of a form that torch.save never writes; the text says of which."""


@dataclass(frozen=True)
class Archive:
    """Where things are in an archive.

    Attributes:
        names: Of all records, below the root folder.
        pickle: The table of contents.
        storages: First byte in the file, and bytes, of each storage, by the key that the pickle uses.
    """

    names: frozenset[str]
    pickle: bytes
    storages: Mapping[str, tuple[int, int]]


def read_archive(file: BinaryIO, size: int) -> Archive:
    """Find the records.

    Args:
        file: Opened for reading.
        size: Its bytes.

    Raises:
        UnusualArchiveError: As its name says.
        zipfile.BadZipFile, ValueError, OSError, struct.error, RuntimeError: It is damaged.
    """
    _check_directory(file, size)
    with zipfile.ZipFile(file) as archive:
        root, records = _records(archive.infolist(), size)
        if "byteorder" in records and archive.read(records["byteorder"]) != b"little":
            raise UnusualArchiveError("its numbers are big-endian. Save it on a usual machine")
        pickle = archive.read(records["data.pkl"])
    places = {name: (_first_byte(file, record), record.file_size) for name, record in records.items()}
    if any(start + length > size for start, length in places.values()):
        raise ValueError("a record leads beyond the end of the file")
    storages = {name.removeprefix("data/"): place for name, place in places.items() if name.startswith("data/")}
    return Archive(frozenset(records), pickle, storages)


def make_tensor(mapped: torch.UntypedStorage, archive: Archive, stored: StoredTensor) -> Tensor:
    """A tensor in the mapped file.

    Args:
        mapped: The whole file.
        archive: Of the same file.
        stored: Of the archive's pickle.

    Raises:
        ValueError: It leads beyond its storage.
    """
    start, length = archive.storages[stored.storage.key]
    last = stored.offset + sum((side - 1) * step for side, step in zip(stored.size, stored.stride, strict=True))
    if 0 not in stored.size and last >= stored.storage.count:
        raise ValueError(f"a tensor leads beyond its storage {stored.storage.key[:40]!r}")
    part: Any = mapped[start : start + length]
    tensor = torch.empty(0, dtype=_DTYPES[stored.storage.kind])
    return tensor.set_(part, stored.offset if 0 not in stored.size else 0, stored.size, stored.stride)


def _check_directory(file: BinaryIO, size: int) -> None:
    """Raise ValueError unless the list of records ends the file, and says so in each place where a reader may look."""
    tail_size = min(size, _LONG_END.size + _LOCATOR.size + _END.size)
    file.seek(size - tail_size)
    tail = file.read(tail_size)
    end = _END.unpack(tail[-_END.size :])
    short = end[4], end[5], end[6]  # records, bytes, first byte
    if end[0] != b"PK\x05\x06" or end[7] or end[1:4] != (0, 0, end[4]):
        raise ValueError("it does not end with its list of records")
    ends_at = size - _END.size
    count, length, start = short
    if tail[-_END.size - _LOCATOR.size :][:4] == b"PK\x06\x07":
        ends_at = size - tail_size
        locator = _LOCATOR.unpack(tail[_LONG_END.size : -_END.size])
        long_end = _LONG_END.unpack(tail[: _LONG_END.size])
        if locator[1:] != (0, ends_at, 1) or long_end[:2] != (b"PK\x06\x06", _LONG_END.size - 12):
            raise ValueError("the long end of its list of records is somewhere else than before the short one")
        count, length, start = long_end[7:]
        saturated = (min(count, 0xFFFF), min(length, 0xFFFFFFFF), min(start, 0xFFFFFFFF))
        if long_end[4:7] != (0, 0, count) or short != saturated:
            raise ValueError("the two ends of its list of records do not agree")
    elif 0xFFFFFFFF in (length, start) or count == 0xFFFF:
        raise ValueError("the long end of its list of records is missing")
    if start + length != ends_at or length > _MAX_DIRECTORY:
        raise ValueError("it does not end with its list of records, or that list is too long")


def _records(listed: list[zipfile.ZipInfo], size: int) -> tuple[str, dict[str, zipfile.ZipInfo]]:
    """The archive's root folder with its slash, and the records by their names below it."""
    packed = [
        record.filename
        for record in listed
        if record.compress_type != zipfile.ZIP_STORED
        or record.flag_bits & 1
        or record.compress_size != record.file_size
    ]
    total = sum(record.file_size for record in listed)
    if packed or total > size:
        what = f"{packed[0][:40]!r} compressed or encrypted" if packed else f"records of {total} bytes"
        raise UnusualArchiveError(f"an archive of {size} bytes with {what}, which torch.save never writes")
    tables = [record for record in listed if record.filename.rpartition("/")[2] == "data.pkl"]
    names = {record.filename.lower() for record in listed}
    if len(tables) != 1 or len(names) != len(listed) or tables[0].file_size > _MAX_PICKLE:
        raise UnusualArchiveError(
            f"{len(tables)} tables of contents (data.pkl) in {len(listed)} records; expected one, of at most "
            f"{_MAX_PICKLE} bytes, and records of different names, as torch.save writes"
        )
    root = tables[0].filename.removesuffix("data.pkl")
    return root, {record.filename.removeprefix(root): record for record in listed if record.filename.startswith(root)}


def _first_byte(file: BinaryIO, record: zipfile.ZipInfo) -> int:
    """Where the content of a record begins, behind its own header."""
    file.seek(record.header_offset)
    signature, name, extra = _LOCAL.unpack(file.read(_LOCAL.size))
    if signature != b"PK\x03\x04" or file.read(name) != record.orig_filename.encode():
        raise ValueError(f"the record {record.filename[:40]!r} has no header, or one of another name")
    return record.header_offset + _LOCAL.size + name + extra
