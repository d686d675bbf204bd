"""Images in an npz: `arr_0`, mapped from the file where it is stored plainly, and the seeds. Nothing is unpickled.

What the headers tell is compared with the bytes that are there before anything of that size is made.
"""

import io
import math
import struct
import zipfile
from pathlib import Path
from typing import IO

import numpy as np

from ldm_backend.errors import first_names, short_repr

from ..errors import JobError
from .bounded import BoundedFile, damage_told
from .png import MAX_PIXELS

_IMAGES, _SEEDS = "arr_0.npy", "seeds.npy"
_LOCAL_HEADER = struct.Struct("<4s22xHH")  # of a zip member: signature, lengths of name and extra field
_MAX_HEADER = 10_000  # of an array; numpy's own limit
_SMALL = 2**28  # bytes that a packed array may have whatever the size of its file
# Times the size of the file, beyond that: pictures are packed to a half or less, bombs to a thousandth.
_MOST_PACKED = 50
_CHUNK = 2**20


def read_npz(path: Path) -> tuple[np.ndarray, list[int] | None]:
    """The images, uint8 (N, H, W, 3), and their seeds where it has them.

    Raises:
        JobError: No npz, a damaged one, or one that holds something else.
    """
    with damage_told(f"cannot read images from {path}"), BoundedFile(path) as file:
        size = path.stat().st_size
        with zipfile.ZipFile(file) as archive:
            found = {info.filename: info for info in archive.infolist()}
            if len(found) < len(archive.infolist()):
                raise JobError(f"{path} holds an array twice; save it again with numpy.savez")
            if _IMAGES not in found:
                raise JobError(
                    f"{path} has no arr_0; it holds {first_names(set(found)) or 'nothing'}; save the images as arr_0"
                )
            if found[_IMAGES].compress_type == zipfile.ZIP_STORED:
                images = _mapped(file, found[_IMAGES], path, size)
            else:
                images = _unpacked(archive, found[_IMAGES], path, size)
            seeds = _seeds(archive, found[_SEEDS], path, len(images)) if _SEEDS in found else None
    return images, seeds


def _mapped(file: BoundedFile, info: zipfile.ZipInfo, path: Path, size: int) -> np.ndarray:
    file.seek(info.header_offset)
    signature, name, extra = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
    start = info.header_offset + _LOCAL_HEADER.size + name + extra
    if signature != b"PK\x03\x04" or info.flag_bits & 1 or start + info.file_size > size:
        raise JobError(f"{path} is cut short or damaged; copy or make it again")
    file.seek(start)
    shape, order = _image_header(file, path)
    if file.tell() + math.prod(shape) > start + info.file_size:
        raise JobError(f"{path}: arr_0 has the shape {shape}, and fewer bytes than that; copy or make it again")
    return np.memmap(file, np.uint8, "r", file.tell(), shape, order)  # pyright: ignore[reportCallIssue, reportArgumentType]


def _unpacked(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path, size: int) -> np.ndarray:
    with archive.open(info) as member:
        shape, order = _image_header(member, path)
        count = math.prod(shape)
        if count > max(_SMALL, _MOST_PACKED * size):
            raise JobError(
                f"{path}: arr_0 has {count:,} bytes in a file of {size:,}, which no pictures are packed to; save "
                "it with numpy.savez"
            )
        data = _read_past(member, count)
        if len(data) != count:
            raise JobError(f"{path}: arr_0 has the shape {shape}, and not as many bytes; copy or make it again")
    return np.frombuffer(data, np.uint8).reshape(shape, order=order)  # pyright: ignore[reportCallIssue, reportArgumentType]


def _image_header(file: IO[bytes], path: Path) -> tuple[tuple[int, ...], str]:
    shape, order, dtype = _header(file, path, "arr_0")
    if dtype != np.uint8 or len(shape) != 4 or shape[-1] != 3 or min(shape) < 1:
        raise JobError(f"{path}: arr_0 is {dtype} {short_repr(shape)}; expected uint8 (N, H, W, 3)")
    if shape[1] * shape[2] > MAX_PIXELS:
        raise JobError(f"{path}: its images have {shape[1] * shape[2]:,} pixels; at most {MAX_PIXELS:,} are taken")
    return shape, order


def _seeds(archive: zipfile.ZipFile, info: zipfile.ZipInfo, path: Path, count: int) -> list[int]:
    with archive.open(info) as member:
        shape, _, dtype = _header(member, path, "seeds")
        if dtype.kind not in "iu" or len(shape) != 1:
            raise JobError(f"{path}: seeds is {dtype} {short_repr(shape)}; expected whole numbers (N,)")
        if shape[0] != count:
            raise JobError(f"{path} has {shape[0]} seeds for {count} images; save one for each")
        data = _read_past(member, count * dtype.itemsize)
    if len(data) != count * dtype.itemsize:
        raise JobError(f"{path}: seeds has {len(data)} bytes for {count} seeds; copy or make it again")
    return np.frombuffer(data, dtype).tolist()


def _read_past(member: IO[bytes], count: int) -> bytearray:
    """All bytes that are left, or some more than this count of them where there are more."""
    data = bytearray()
    while len(data) <= count and (chunk := member.read(_CHUNK)):
        data += chunk
    return data


def _header(file: IO[bytes], path: Path, name: str) -> tuple[tuple[int, ...], str, np.dtype]:
    """Shape, order and kind of numbers of an array; the file is then at its first byte."""
    start = file.read(8)
    version = (start[6], start[7]) if start[:6] == b"\x93NUMPY" and len(start) == 8 else None
    if version not in ((1, 0), (2, 0), (3, 0)):
        raise JobError(f"{path}: {name} is no array of numpy; save it with numpy.savez")
    length = file.read(2 if version == (1, 0) else 4)
    count = int.from_bytes(length, "little")
    text = file.read(min(count, _MAX_HEADER))
    if len(text) < count:
        raise JobError(f"{path}: cannot read {name}: its header has {count:,} bytes; save it with numpy.savez")
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    with damage_told(f"{path}: cannot read {name}"):
        shape, fortran, dtype = read(io.BytesIO(length + text))
        if dtype.hasobject:
            raise JobError(f"{path}: cannot read {name}: it holds Python objects (pickles); save it as numbers")
        return tuple(int(side) for side in shape), "F" if fortran else "C", dtype
