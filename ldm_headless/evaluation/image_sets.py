"""Folders of PNG, npz files and WebDataset shards as one kind of thing: images by key. Imports files and numpy.

The key of an image is its seed where that is known, else its name. Images are read when asked for, one at a time.
"""

import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from ..errors import JobError
from ..files.bounded import damage_told
from ..files.npz import read_npz
from ..files.png import read_png
from ..files.tar_members import members_of, read_member

Key = int | str  # a seed or a name
Value = TypeVar("Value")
_SEED = re.compile(r"seed-(\d{1,20})")


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
        path: A folder of PNG files, of sub-folders of them (as sets of classes have one for each), or of .tar shards,
            one .tar, or an .npz with `arr_0` and, if it has them, `seeds`.

    Raises:
        JobError: None of these, no images, or a key that occurs twice.
    """
    with damage_told(f"cannot read images from {path}"):
        if path.suffix == ".npz":
            return _open_npz(path)
        if path.suffix == ".tar":
            return _open_tars(path, [path])
        if not path.is_dir():
            raise JobError(f"{path} is no folder, .tar or .npz of images; give one")
        npz, tars, pngs = (sorted(path.glob(pattern)) for pattern in ("*.npz", "*.tar", "*.png"))
        if not (npz or tars or pngs) and (below := sorted(path.glob("[!.]*/*.png"))):
            return _open_sub_folders(path, below)
        if sum(map(bool, (npz, tars, pngs))) != 1 or len(npz) > 1:
            found = f"{len(pngs)} PNG, {len(tars)} .tar and {len(npz)} .npz files"
            raise JobError(f"{path} holds {found}; expected PNG files, sub-folders of them, .tar files or one .npz")
        return _open_npz(npz[0]) if npz else _open_tars(path, tars) if tars else _open_pngs(path, pngs)


def _open_pngs(path: Path, files: list[Path]) -> ImageSet:
    by_key = _unique([(_key(file.stem), file) for file in files], path)
    return ImageSet(path, tuple(by_key), lambda key: read_png(by_key[key]))


def _open_sub_folders(path: Path, files: list[Path]) -> ImageSet:
    by_key: dict[Key, Path] = {f"{file.parent.name}/{file.stem}": file for file in files}
    return ImageSet(path, tuple(by_key), lambda key: read_png(by_key[key]))


def _open_tars(path: Path, files: list[Path]) -> ImageSet:
    """Positions are noted now; nothing is unpacked to the disk."""
    found = [
        (_key(Path(member.name).stem), (file, member))
        for file in files
        for member in members_of(file)
        if member.name.endswith(".png")
    ]
    by_key = _unique(found, path)

    def read(key: Key) -> np.ndarray:
        file, member = by_key[key]
        return read_png(io.BytesIO(read_member(file, member)), f"{member.name} in {file}")

    return ImageSet(path, tuple(by_key), read)


def _open_npz(path: Path) -> ImageSet:
    pixels, seeds = read_npz(path)
    keys: list[Key] = [*seeds] if seeds is not None else [f"row {n}" for n in range(len(pixels))]
    by_key = _unique([(key, row) for row, key in enumerate(keys)], path)
    return ImageSet(path, tuple(by_key), lambda key: np.asarray(pixels[by_key[key]]))


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
