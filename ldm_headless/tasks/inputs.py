"""Which pictures a command makes, of which files: their names and seeds. Imports the files and the errors.

The seed of a picture comes from the seed of the command and its name alone, so that no picture depends on
its neighbours, their number or their order.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ldm_backend.errors import first_names, is_text, printable, repeated

from ..errors import JobError
from ..files.bounded import damage_told
from ..files.pictures import SUFFIXES


@dataclass(frozen=True)
class Item:
    """A picture to make.

    Attributes:
        name: Of its file in the output folder.
        files: It is made of: the picture, and of inpainting the mask behind it.
    """

    name: str
    files: tuple[Path, ...]


def seed_of(base: int, name: str) -> int:
    """The seed of a picture: the first 8 bytes, big-endian, of SHA-256 of the text "BASE NAME" in UTF-8.

    Args:
        base: `--seed`.
        name: Of the picture in the output folder.
    """
    return int.from_bytes(hashlib.sha256(f"{base} {name}".encode()).digest()[:8], "big")


@damage_told("cannot look for the pictures")
def pictures_of(paths: Sequence[Path], out: Path) -> list[Item]:
    """The pictures to enlarge or to restore, sorted by name.

    Args:
        paths: Files, and folders whose PNG, JPEG and WebP files are taken, without those in folders in them.
        out: Where the results go.

    Raises:
        JobError: No pictures, one that is not there, or names that cannot stand for their results.
    """
    files = [file for path in paths for file in (_in_folder(path) if path.is_dir() else [_there(path)])]
    return _checked([Item(f"{file.stem}.png", (file,)) for file in files], out)


@damage_told("cannot look for the pictures")
def masked_pictures_of(image: Path, mask: Path, out: Path) -> list[Item]:
    """The pictures to inpaint, each with its mask, sorted by name.

    Args:
        image: A file, or a folder as for `pictures_of`.
        mask: Likewise; of folders, the files of one name without the suffix belong together.
        out: Where the results go.

    Raises:
        JobError: As `pictures_of`; a file with a folder, or a name that only one of the folders has.
    """
    if image.is_dir() != mask.is_dir():
        raise JobError(f"of {image} and {mask}, one is a folder and one is not; give two files, or two folders")
    if image.exists() and mask.exists() and image.samefile(mask):
        raise JobError(f"{image} is given as picture and as mask; give a mask that is white where to make it anew")
    if not image.is_dir():
        return _checked([Item(f"{image.stem}.png", (_there(image), _there(mask)))], out)
    pictures, masks = _in_folder(image), _in_folder(mask)
    if twice := repeated(path.stem for path in masks):
        raise JobError(f"{mask} holds several masks of one name: {first_names(twice)}; leave one of each")
    by_stem, stems = {path.stem: path for path in masks}, {path.stem for path in pictures}
    for folder, missing in ((mask, stems - by_stem.keys()), (image, by_stem.keys() - stems)):
        if missing:
            raise JobError(
                f"{folder} holds nothing of these names: {first_names(missing)}; each picture needs its mask"
            )
    return _checked([Item(f"{path.stem}.png", (path, by_stem[path.stem])) for path in pictures], out)


def _there(file: Path) -> Path:
    if not file.exists():
        raise JobError(f"{file} is not there; give a picture or a folder of pictures")
    return file


def _in_folder(folder: Path) -> list[Path]:
    found = sorted(
        path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    )
    if not found:
        raise JobError(f"{folder} holds no pictures; expected files that end in {', '.join(SUFFIXES)}")
    return found


def _checked(items: list[Item], out: Path) -> list[Item]:
    files = [file for item in items for file in item.files]
    for file in files:
        if file.name.startswith(".") or not is_text(file.name):
            raise JobError(f"{printable(str(file))} begins with a dot, or its name is no UTF-8 text; rename it")
    if out.resolve() in {folder.resolve() for folder in {file.parent for file in files}}:
        raise JobError(f"{out} holds the pictures themselves; give another --out")
    # Also what only some systems take for two names.
    if twice := repeated(item.name.casefold() for item in items):
        sources = [str(item.files[0]) for item in items if item.name.casefold() in twice]
        raise JobError(
            f"several pictures would become the same file in {out}: {first_names(sources)}; rename them, or give them "
            "to runs with another --out"
        )
    return sorted(items, key=lambda item: item.name)
