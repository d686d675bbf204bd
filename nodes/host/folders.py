"""Where checkpoints live: the model folder kind `ldm` of the host, and the demos that come with this pack."""

from __future__ import annotations

import os
from pathlib import Path, PurePosixPath

import folder_paths

from ...ldm_backend.errors import CheckpointError, short_repr
from ...ldm_backend.locations import SINGLE_FILE_ENDINGS, WEIGHT_NAMES, single_files

FOLDER_KIND = "ldm"
DEMO_NAMES = ("portraits-128", "upscaler-4x", "inpainter-128", "text-portraits-128")
MARKER = Path("unet", "config.json")  # what makes a directory a checkpoint

_DEMO_ROOT = Path(__file__).parents[2] / "demo"
_PART_ENDINGS = {Path(name).suffix for name in WEIGHT_NAMES}  # of the files in a Hugging Face folder
_MOST_LETTERS = 255  # no file system takes longer names
_MAX_DEPTH = 2  # "celebahq-256" and "CompVis/ldm-celebahq-256"


def register_folders() -> None:
    """Add `models/ldm` and, last, the pack's demos to the host's paths. The user's own entries stay in front.

    The host itself lists the files of a kind (`/models/ldm`, the assets of newer hosts) by their endings: weights, not
    the texts and scripts beside them.
    """
    for root in (Path(folder_paths.models_dir, FOLDER_KIND), _DEMO_ROOT):
        folder_paths.add_model_folder_path(FOLDER_KIND, str(root))
    paths, endings = folder_paths.folder_names_and_paths[FOLDER_KIND]
    folder_paths.folder_names_and_paths[FOLDER_KIND] = (paths, {*endings, *SINGLE_FILE_ENDINGS, *_PART_ENDINGS})


def checkpoint_names() -> list[str]:
    """Names of all checkpoints, "/" between levels, sorted, the demos last in their own order.

    A name found below several roots appears once; `checkpoint_path` takes the first root, as the host does.
    """
    names = {name for root in _roots() for name in _scan(root)}
    own = sorted(names.difference(DEMO_NAMES))
    return [*own, *(name for name in DEMO_NAMES if name in names)]


def checkpoint_path(name: str) -> Path:
    """The folder or file of a listed checkpoint.

    The name comes from a workflow file, which may be anybody's. It is looked up in the listing and never joined to a
    path unseen, so it cannot lead out of the registered folders.

    Raises:
        CheckpointError: The name is no checkpoint below a registered folder.
    """
    for root in _roots():
        if name in _scan(root):
            return root.joinpath(*PurePosixPath(name).parts)
    raise CheckpointError(_not_found_message(name))


def checkpoint_fingerprint(name: str) -> tuple[tuple[str, int, int], ...]:
    """Path, modification time in ns and size of every file of a checkpoint; changes when the files do.

    Raises:
        CheckpointError: As `checkpoint_path`.
    """
    path = checkpoint_path(name)
    # Beside a single file its configuration counts too.
    root = path if path.is_dir() else path.parent
    found = [*root.glob("*"), *root.glob("*/*")] if path.is_dir() else [path, *root.glob("*.yaml")]
    stats = [(file.relative_to(root).as_posix(), file.stat()) for file in sorted(found) if file.is_file()]
    return tuple((relative, stat.st_mtime_ns, stat.st_size) for relative, stat in stats)


def _roots() -> list[Path]:
    return [Path(root) for root in folder_paths.get_folder_paths(FOLDER_KIND)]


def _scan(root: Path, depth: int = _MAX_DEPTH) -> list[str]:
    """Names of the checkpoints below `root`, at most `depth` levels down. A root that does not exist has none."""
    try:
        entries = sorted(entry.name for entry in os.scandir(root) if not entry.name.startswith("."))
    except OSError:  # absent, no directory, or not readable: nothing to offer
        return []
    names = []
    for entry in entries:
        if _is_checkpoint(root / entry):
            names.append(entry)
        elif depth > 1:
            names.extend(f"{entry}/{name}" for name in _scan(root / entry, depth - 1))
    return names


def _is_checkpoint(path: Path) -> bool:
    """A file with the ending of one, the Hugging Face layout, or a folder that holds exactly one such file."""
    if path.is_file():
        return path.suffix in SINGLE_FILE_ENDINGS
    try:
        return (path / MARKER).is_file() or len(single_files(path)) == 1
    except OSError:  # no directory, or not readable
        return False


def _not_found_message(name: str) -> str:
    roots = _roots()
    searched = ", ".join(str(root) for root in roots)
    available = ", ".join(checkpoint_names()) or "none"
    for folder in _plain_folders(name, roots):
        if folder.is_dir():
            return (
                f"The folder {folder} is no checkpoint: {MARKER.as_posix()} is missing. Expected the Hugging Face "
                f"layout with the folders unet, vqvae and scheduler. Checkpoints available: {available}."
            )
    return (
        f"No checkpoint named {short_repr(name)}. Searched: {searched}. Checkpoints available: {available}. Put the "
        f"checkpoint's file, or the folder that holds unet, vqvae and scheduler, into {roots[0]} and press R in the "
        "browser to refresh the list."
    )


def _plain_folders(name: str, roots: list[Path]) -> list[Path]:
    """Where a name would lie, if it is written as the list would write it; nothing for anything cleverer."""
    if not isinstance(name, str):  # a prompt can hold any JSON value; an empty list in the browser sends null
        return []
    parts = PurePosixPath(name).parts
    clever = (
        len(name) > _MOST_LETTERS
        or not parts
        or name != "/".join(parts)
        or ".." in parts
        or len(parts) > _MAX_DEPTH
        or set(name) & set("\\:\0")
    )
    return [] if clever else [root.joinpath(*parts) for root in roots]
