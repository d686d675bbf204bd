"""Files that a private host has saved and told nobody: brought to safety before its folder goes.

Save Checkpoint and other nodes of ComfyUI tell no output; what they write would be lost with the host. Imports
the journal, file_kinds and the errors.
"""

import shutil
from collections.abc import Iterable
from pathlib import Path

from ..client.file_kinds import extension
from ..errors import OutputError
from .journal import free_name, is_safe_name


def rescue(store: Path, told: Iterable[tuple[str, str]], out: Path) -> tuple[list[Path], list[str]]:
    """Move files of a host's output folder that no job has fetched below `out`; nothing is overwritten.

    Args:
        store: The host's output folder.
        told: Folder and name of the files that it told of.
        out: Where they go, under their own names.

    Returns:
        Where they are now; and the names of those that are not taken, as their kind is not on the list.

    Raises:
        OutputError: The disk refuses one.
    """
    known = {store.joinpath(*folder.replace("\\", "/").split("/"), name) for folder, name in told}
    moved, refused = [], []
    for path in sorted(store.rglob("*")) if store.is_dir() else ():
        hidden = any(part.startswith(".") for part in path.relative_to(store).parts)
        if path in known or hidden or path.is_symlink() or not path.is_file():
            continue
        name = path.relative_to(store).as_posix()
        if not extension(name) or not is_safe_name(name):
            refused.append(name)
            continue
        target = _free(out / path.relative_to(store), out)
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.move(path, target)
        except OSError as error:
            raise OutputError(f"cannot save {path.name} as {target}: {error.strerror}; free some space") from error
        moved.append(target)
    return moved, refused


def _free(path: Path, out: Path) -> Path:
    if not path.parent.resolve().is_relative_to(out.resolve()):
        raise OutputError(f"{path} leads out of {out} through a link; use another --out")
    return free_name(path)
