"""Folders of PNG, npz files and WebDataset shards as one kind of thing: images by key. Imports files.png and numpy.

The key of an image is its seed where that is known, else its name. Images are read when asked for, one at a time.
"""

import io
import re
import struct
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TypeVar

import numpy as np

from ..errors import JobError
from ..files.png import read_png

Key = int | str  # a seed or a name
Value = TypeVar("Value")
_SEED = re.compile(r"seed-(\d{1,20})")
_LOCAL_HEADER = struct.Struct("<4s22xHH")  # of a zip member: signature, lengths of name and extra field


@dataclass(frozen=True)
class ImageSet:
    """Images by key.

    Attributes:
        source: Where they come from, for messages.
        keys: In the order of the files.
    """

    source: Path
    keys: tuple[Key, ...]
    _read: Callable[[Key], np.ndarray]

    def read(self, key: Key) -> np.ndarray:
        """The pixels of one image, uint8 (H, W, 3).

        Raises:
            JobError: The image cannot be read.
        """
        return self._read(key)


def open_images(path: Path) -> ImageSet:
    """Look into a set of images.

    Args:
        path: A folder of PNG files or of .tar shards, one .tar, or an .npz with `arr_0` and, if it has them, `seeds`.

    Raises:
        JobError: None of these, no images, or a key that occurs twice.
    """
    try:
        if path.suffix == ".npz":
            return _open_npz(path)
        if path.suffix == ".tar":
            return _open_tars(path, [path])
        if not path.is_dir():
            raise JobError(f"{path} is no folder, .tar or .npz of images; give one")
        npz, tars, pngs = (sorted(path.glob(pattern)) for pattern in ("*.npz", "*.tar", "*.png"))
        if sum(map(bool, (npz, tars, pngs))) != 1 or len(npz) > 1:
            found = f"{len(pngs)} PNG, {len(tars)} .tar and {len(npz)} .npz files"
            raise JobError(f"{path} holds {found}; expected PNG files, .tar files or one .npz")
        return _open_npz(npz[0]) if npz else _open_tars(path, tars) if tars else _open_pngs(path, pngs)
    except (OSError, zipfile.BadZipFile, tarfile.TarError) as error:
        raise JobError(f"cannot read images from {path}: {error}; check the path") from error


def _open_pngs(path: Path, files: list[Path]) -> ImageSet:
    by_key = _unique([(_key(file.stem), file) for file in files], path)
    return ImageSet(path, tuple(by_key), lambda key: read_png(by_key[key]))


def _open_tars(path: Path, files: list[Path]) -> ImageSet:
    """Positions are noted now; nothing is unpacked to the disk."""
    found: list[tuple[Key, tuple[BinaryIO, int, int]]] = []
    for file in files:
        stream = file.open("rb")
        with tarfile.open(fileobj=stream, mode="r:") as archive:
            for member in archive:
                if member.isfile() and member.name.endswith(".png"):
                    found.append((_key(Path(member.name).stem), (stream, member.offset_data, member.size)))
    by_key = _unique(found, path)

    def read(key: Key) -> np.ndarray:
        stream, offset, size = by_key[key]
        stream.seek(offset)
        return read_png(io.BytesIO(stream.read(size)), f"{key} in {stream.name}")

    return ImageSet(path, tuple(by_key), read)


def _open_npz(path: Path) -> ImageSet:
    pixels = _array_of_npz(path)
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[-1] != 3 or not len(pixels):
        raise JobError(f"{path}: arr_0 is {pixels.dtype} {pixels.shape}; expected uint8 (N, H, W, 3)")
    with zipfile.ZipFile(path) as archive:
        has_seeds = "seeds.npy" in archive.namelist()
    keys = (
        np.load(path, allow_pickle=False)["seeds"].tolist() if has_seeds else [f"row {n}" for n in range(len(pixels))]
    )
    if len(keys) != len(pixels):
        raise JobError(f"{path} has {len(keys)} seeds for {len(pixels)} images; save one for each")
    by_key = _unique([(key, row) for row, key in enumerate(keys)], path)
    return ImageSet(path, tuple(by_key), lambda key: np.asarray(pixels[by_key[key]]))


def _array_of_npz(path: Path) -> np.ndarray:
    """`arr_0`, mapped from the file where it is stored plainly: such files may exceed the memory."""
    with zipfile.ZipFile(path) as archive:
        if "arr_0.npy" not in archive.namelist():
            raise JobError(f"{path} has no arr_0; it holds {', '.join(archive.namelist())}; save the images as arr_0")
        info = archive.getinfo("arr_0.npy")
    try:
        if info.compress_type != zipfile.ZIP_STORED:
            return np.load(path, allow_pickle=False)["arr_0"]
        with path.open("rb") as file:
            file.seek(info.header_offset)
            _, name, extra = _LOCAL_HEADER.unpack(file.read(_LOCAL_HEADER.size))
            file.seek(name + extra, 1)
            version = np.lib.format.read_magic(file)
            header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, fortran, dtype = header(file)
            order = "F" if fortran else "C"
            return np.memmap(path, dtype, "r", file.tell(), shape, order)
    except ValueError as error:
        raise JobError(f"{path}: cannot read arr_0: {error}; save it again") from error


def _key(stem: str) -> Key:
    match = _SEED.fullmatch(stem)
    return int(match[1]) if match else stem


def _unique(pairs: Sequence[tuple[Key, Value]], path: Path) -> dict[Key, Value]:
    by_key = dict(pairs)
    if not pairs:
        raise JobError(f"{path} holds no PNG images; give what does")
    if len(by_key) < len(pairs):
        raise JobError(f"{path} holds a seed or name more than once: {len(pairs)} images for {len(by_key)} of them")
    return by_key
