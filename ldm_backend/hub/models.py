"""The Hugging Face hub: names of models as paths on this machine, and whole, verified downloads.

huggingface_hub, imported when a name needs it, speaks the protocol. Files are brought here: it compares sizes, not
hashes, forgets a file that is not complete, and makes paths of what a server says.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, printable
from ..locations import check_free
from ..whole_files import complete, give_names, write_whole
from .choice import is_whole
from .failures import explained
from .releases import check_on_hub
from .repository import HubModel, find_model
from .transfer import check_nothing_else, fetch, locked, matches

DEFAULT_REPO = "CompVis/ldm-celebahq-256"
DEFAULT_REVISION = "03978f22272a3c2502da709c3940e227c9714bdd"  # the last upload of its weights, 28 July 2022

_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
# What git takes as the name of a branch or tag, without what another system would read as something else.
_REVISION = re.compile(r"(?!.*(?:\.\.|//))[\w][\w./+@=-]*")


def local_path(path: str | Path, revision: str | None = None) -> Path:
    """`path` if it exists or cannot be a hub name; otherwise the model's folder in the hub's local cache.

    A model that is whole in the cache, with plain weights, is taken without asking the hub. What is missing is
    downloaded, with progress on standard error; all files are verified then, and each is before it has its name. If the
    repository has no plain weights but one variant, that is taken. HF_HOME, HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE
    work as everywhere.

    Args:
        path: A path, or a name like "CompVis/ldm-celebahq-256".
        revision: Branch, tag or commit; None is the main branch.

    Raises:
        CheckpointError: The model is not in the cache and cannot be downloaded, or what came is not what the hub
            describes (it is removed).
    """
    name = os.fspath(path)
    if Path(name).exists() or not _REPO_ID.fullmatch(name):
        return Path(name)
    _check_revision(name, revision)
    hub = _huggingface_hub(name)
    with explained(name, revision):
        snapshot = _cached_snapshot(hub, name, revision)
        return snapshot or _into_cache(hub, find_model(hub, name, revision), revision)


def check_name(name: str) -> None:
    """Raise CheckpointError unless this can be the name of a model on the hub."""
    check_on_hub(name)
    if not _REPO_ID.fullmatch(name):
        raise CheckpointError(
            f"{printable(name)}: not the name of a model on the hub; expected OWNER/NAME. Give one, like "
            f"{DEFAULT_REPO}."
        )


def download(name: str, out: Path, revision: str | None = None, variant: str | None = None) -> None:
    """Download a model into a folder of its own: whole and verified, or not at all.

    Until then the files are in a hidden folder beside `out`, from which the next call continues, within a file too.
    Every file is compared with the hash that the hub tells, also those that were there.

    Args:
        name: Like "CompVis/ldm-celebahq-256".
        out: The folder, which must not exist.
        revision: Branch, tag or commit; None is the main branch.
        variant: Of the weights, like "fp16", where the repository has it; None is the plain ones, or the only ones.

    Raises:
        CheckpointError: `out` exists or cannot be written, the hub cannot be used, or a file is not what the hub
            describes (it is removed).
    """
    check_name(name)
    _check_revision(name, revision)
    check_free(out)
    hub = _huggingface_hub(name)
    with explained(name, revision):
        model = find_model(hub, name, revision, variant)
    mark = f"-{variant}" if variant else ""
    partial = out.parent / f".{out.name}-{model.commit[:12]}{mark}.partial"
    with (
        explained(name, revision, f" What has arrived is kept in {partial}: the same call continues."),
        locked(partial, private=True),
    ):
        _fill(hub, model, partial, out)


def _fill(hub: Any, model: HubModel, partial: Path, out: Path) -> None:
    """All files, and then the name."""
    if out.exists():  # by another process that was waited for
        partial.rmdir()
        check_free(out)
    check_nothing_else(partial, model, parts=True)
    for file in model.files:
        if not matches(partial / file.path, file):
            fetch(hub, model, file, partial)
    check_nothing_else(partial, model, parts=False)
    try:
        complete(partial)
        give_names([(partial, out)])
    except OSError as error:
        raise CheckpointError(
            f"{out}: cannot be made ({error.strerror}); the model is in {partial}: move it."
        ) from error


def _check_revision(name: str, revision: str | None) -> None:
    """It becomes a path in the cache."""
    if revision is not None and not _REVISION.fullmatch(revision):
        raise CheckpointError(
            f"{name}: {printable(revision)!r} is no revision. Take a branch, a tag or a whole commit id."
        )


def _huggingface_hub(name: str) -> Any:
    try:
        import huggingface_hub.constants
        import huggingface_hub.file_download
    except ImportError as error:
        raise CheckpointError(
            f"{name}: nothing is there, and huggingface_hub, which would fetch a model of that name, is not installed. "
            "Check the path, or `pip install huggingface_hub`."
        ) from error
    return huggingface_hub


def _cached_snapshot(hub: Any, name: str, revision: str | None) -> Path | None:
    """The model in the hub's cache, if all that it needs is there; asks nobody."""
    config = hub.try_to_load_from_cache(name, "unet/config.json", revision=revision)
    if not isinstance(config, str):
        return None
    snapshot = Path(config).parents[1]
    names = {file.relative_to(snapshot).as_posix() for file in snapshot.glob("**/*") if file.is_file()}
    return snapshot if is_whole(names) else None


def _into_cache(hub: Any, model: HubModel, revision: str | None) -> Path:
    """The model's folder in the hub's cache, where every program finds the files under the name that was given."""
    root = Path(hub.constants.HF_HUB_CACHE) / hub.file_download.repo_folder_name(repo_id=model.name, repo_type="model")
    snapshot = root / "snapshots" / model.commit
    with locked(snapshot):
        for file in model.files:
            if not matches(snapshot / file.path, file):
                _forget(snapshot / file.path, root)
                fetch(hub, model, file, snapshot)
        if revision != model.commit:
            ref = root / "refs" / (revision or "main")
            ref.parent.mkdir(parents=True, exist_ok=True)
            write_whole(ref, model.commit.encode())
    return snapshot


def _forget(file: Path, root: Path) -> None:
    """Remove a damaged file of the cache: its name, and the content to which that leads where it is the cache's."""
    content = file.resolve()
    file.unlink(missing_ok=True)
    if content.parent == (root / "blobs").resolve():
        content.unlink(missing_ok=True)
