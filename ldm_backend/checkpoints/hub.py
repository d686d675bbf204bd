"""The Hugging Face hub: names of models as paths on this machine, and whole, verified downloads. Imports only errors.

huggingface_hub, imported when a name needs it, speaks the protocol and owns the cache. Two things that it leaves out
are done here: hashes are compared (it compares sizes), and an interrupted `download` is continued by the next process
(it forgets a file that is not complete).
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from .locations import WEIGHT_NAMES

DEFAULT_REPO = "CompVis/ldm-celebahq-256"
DEFAULT_REVISION = "03978f22272a3c2502da709c3940e227c9714bdd"  # the last upload of its weights, 28 July 2022

_REPO_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_TIMEOUT = 10.0  # seconds without an answer to the first question; HF_HUB_DOWNLOAD_TIMEOUT rules the transfers
_ATTEMPTS = 5  # connections in a row that each bring something and are cut


@dataclass(frozen=True)
class HubFile:
    """A file of a repository, as the hub describes it.

    Attributes:
        path: Below the repository, "/" between levels.
        size: bytes.
        sha256: Of a file in large file storage, else None.
        git_id: Git's name of a small file's content, a SHA-1.
    """

    path: str
    size: int
    sha256: str | None
    git_id: str


@dataclass(frozen=True)
class HubModel:
    """The files of one commit of a repository that a model needs."""

    name: str
    commit: str
    files: tuple[HubFile, ...]


def local_path(path: str | Path, revision: str | None = None) -> Path:
    """`path` if it exists or cannot be a hub name; otherwise the model's folder in the hub's local cache.

    A model that is whole in the cache is taken without asking the hub. What is missing is downloaded, with progress on
    standard error, and verified. HF_HOME, HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE work as everywhere.

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
    hub = _huggingface_hub(name)
    with _explained(name, revision):
        snapshot = _cached_snapshot(hub, name, revision)
        if snapshot is not None:
            return snapshot
        model = _find_model(hub, name, revision)
        wanted = [file.path for file in model.files]
        # By the name that was given, not by commit: the cache then finds it under that name.
        snapshot = Path(hub.snapshot_download(name, revision=revision, allow_patterns=wanted))
        for file in model.files:
            _verify_cached(name, snapshot / file.path, file)
    return snapshot


def download(name: str, out: Path, revision: str | None = None) -> None:
    """Download a model into a folder of its own: whole and verified, or not at all.

    Until then the files are in a hidden folder beside `out`, from which the next call continues, within a file too.

    Args:
        name: Like "CompVis/ldm-celebahq-256".
        out: The folder, which must not exist.
        revision: Branch, tag or commit; None is the main branch.

    Raises:
        CheckpointError: `out` exists or cannot be written, the hub cannot be used, or a file is not what the hub
            describes (it is removed).
    """
    if not _REPO_ID.fullmatch(name):
        raise CheckpointError(
            f"{name}: not the name of a model on the hub; expected OWNER/NAME. Give one, like {DEFAULT_REPO}."
        )
    if out.exists():
        raise CheckpointError(f"{out}: exists already, and nothing is overwritten. Choose another name, or remove it.")
    hub = _huggingface_hub(name)
    with _explained(name, revision):
        model = _find_model(hub, name, revision)
    partial = out.parent / f".{out.name}-{model.commit[:12]}.partial"
    with _explained(name, revision, f" What has arrived is kept in {partial}: the same call continues."):
        for file in model.files:
            _fetch(hub, model, file, partial)
    try:
        partial.rename(out)
    except OSError as error:
        raise CheckpointError(
            f"{out}: cannot be made ({error.strerror}); the model is in {partial}: move it."
        ) from error


def _huggingface_hub(name: str) -> Any:
    try:
        import huggingface_hub
    except ImportError as error:
        raise CheckpointError(
            f"{name}: nothing is there, and huggingface_hub, which would fetch a model of that name, is not installed. "
            "Check the path, or `pip install huggingface_hub`."
        ) from error
    return huggingface_hub


def _choose(names: Collection[str]) -> tuple[list[str], list[str]]:
    """(files to take, files that are missing): of each part its configuration and one file of weights."""
    stage = "vae" if "vae/config.json" in names and "vqvae/config.json" not in names else "vqvae"
    needs = [("scheduler/scheduler_config.json",)]
    for part in ("unet", stage):
        needs += [(f"{part}/config.json",), tuple(f"{part}/{weights}" for weights in WEIGHT_NAMES)]
    taken = [next((name for name in need if name in names), None) for need in needs]
    missing = [" or ".join(need) for need, name in zip(needs, taken, strict=True) if name is None]
    index = [name for name in ("model_index.json",) if name in names]  # not for us, but diffusers needs it
    return index + [name for name in taken if name is not None], missing


def _cached_snapshot(hub: Any, name: str, revision: str | None) -> Path | None:
    """The model in the hub's cache, if all that it needs is there; asks nobody."""
    config = hub.try_to_load_from_cache(name, "unet/config.json", revision=revision)
    if not isinstance(config, str):
        return None
    snapshot = Path(config).parents[1]
    names = {file.relative_to(snapshot).as_posix() for file in snapshot.glob("**/*") if file.is_file()}
    return None if _choose(names)[1] else snapshot


def _find_model(hub: Any, name: str, revision: str | None) -> HubModel:
    """Ask the hub what the repository holds.

    Raises:
        CheckpointError: An answer that is none, files without a checksum, or no model of this family.
    """
    try:
        info = hub.HfApi().model_info(name, revision=revision, timeout=_TIMEOUT, files_metadata=True)
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{name}: {hub.constants.ENDPOINT} answers, but not as the hub does ({type(error).__name__}: {error}). "
            "Check HF_ENDPOINT and the network; a page that asks for a login may stand in between."
        ) from error
    found = {item.rfilename: item for item in info.siblings or ()}
    wanted, missing = _choose(found.keys())
    if missing:
        raise CheckpointError(
            f"{name}: holds no {', no '.join(missing)}; expected the folders unet, vqvae and scheduler of the Hugging "
            "Face layout. If it has another layout, download it by hand and give its path."
        )
    files = []
    for item in (found[path] for path in wanted):
        sha256 = item.lfs.sha256 if item.lfs else None
        if info.sha is None or item.size is None or not (sha256 or item.blob_id):
            raise CheckpointError(
                f"{name}: {hub.constants.ENDPOINT} names no checksum of {item.rfilename}, so nothing can be verified. "
                "Use another HF_ENDPOINT, or download the model by hand and give its path."
            )
        files.append(HubFile(item.rfilename, item.size, sha256, item.blob_id or ""))
    return HubModel(name, info.sha, tuple(files))


def _verify_cached(name: str, file: Path, expected: HubFile) -> None:
    if not _matches(file, expected):
        for damaged in (file.resolve(), file):  # the content, and the link to it
            damaged.unlink(missing_ok=True)
        raise CheckpointError(_wrong_content(name, expected))


def _fetch(hub: Any, model: HubModel, file: HubFile, folder: Path) -> None:
    """Bring one verified file into the folder, unless it is there."""
    target = folder / file.path
    if target.is_file():
        return
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    cached = hub.try_to_load_from_cache(model.name, file.path, revision=model.commit)
    if isinstance(cached, str) and _matches(Path(cached), file):
        shutil.copyfile(cached, part)
    else:
        _receive(hub.hf_hub_url(model.name, file.path, revision=model.commit), part, file)
        if not _matches(part, file):
            part.unlink()
            raise CheckpointError(_wrong_content(model.name, file))
    part.replace(target)


def _receive(url: str, part: Path, file: HubFile) -> None:
    """Append to `part` what it lacks of the file."""
    from huggingface_hub.file_download import http_get
    from huggingface_hub.utils import build_hf_headers

    headers = build_hf_headers() | {"Accept-Encoding": "identity"}  # a place in a compressed stream cannot be asked for
    for attempt in range(1, _ATTEMPTS + 1):
        with part.open("ab") as stream:
            if stream.tell() > file.size:
                stream.truncate(0)
            start = stream.tell()
            try:
                http_get(
                    url,
                    stream,
                    resume_size=start,
                    headers=headers,
                    expected_size=file.size,
                    displayed_filename=file.path,
                )
                return
            except _hub_errors():  # http_get itself takes up most of the connections that are cut, not all
                if attempt == _ATTEMPTS or stream.tell() <= start:
                    raise


def _matches(file: Path, expected: HubFile) -> bool:
    if file.stat().st_size != expected.size:
        return False
    if expected.sha256:
        digest = hashlib.sha256()
    else:  # git's name of a file: SHA-1 of its content behind a header
        digest = hashlib.sha1(f"blob {expected.size}\0".encode(), usedforsecurity=False)
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: digest).hexdigest() == (expected.sha256 or expected.git_id)


def _wrong_content(name: str, file: HubFile) -> str:
    kind, value = ("SHA-256", file.sha256) if file.sha256 else ("git id", file.git_id)
    return (
        f"{name}: {file.path} came with other content than the hub describes (expected {file.size} bytes, {kind} "
        f"{value}). It was removed; try again, and if it happens again do not trust the network or HF_ENDPOINT."
    )


def _hub_errors() -> tuple[type[Exception], ...]:
    """What huggingface_hub was seen to raise where network, server, name or disk are at fault."""
    from huggingface_hub.errors import HFValidationError

    kinds = (OSError, HFValidationError)
    try:
        import httpx
    except ImportError:  # before its release 1.0, when all errors were OSErrors
        return kinds
    return (*kinds, httpx.HTTPError, httpx.InvalidURL)


@contextmanager
def _explained(name: str, revision: str | None, afterwards: str = "") -> Iterator[None]:
    """Errors of huggingface_hub as one of ours that tells the way out."""
    try:
        yield
    except (*_hub_errors(), RuntimeError) as error:  # RuntimeError: hf_xet, for all that is not an OSError
        raise CheckpointError(_explanation(error, name, revision) + afterwards) from error


def _explanation(error: Exception, name: str, revision: str | None) -> str:
    from huggingface_hub import constants, errors

    endpoint = constants.ENDPOINT
    if isinstance(error, errors.GatedRepoError):
        return (
            f"{name}: access is restricted. Accept its conditions on {endpoint}/{name}, then log in with "
            "`hf auth login` or set HF_TOKEN."
        )
    if isinstance(error, errors.RepositoryNotFoundError):
        return (
            f"{name}: not on this machine, and {endpoint} has no public model of that name. Check the name or the "
            "path; for a private model log in with `hf auth login` or set HF_TOKEN."
        )
    if isinstance(error, errors.RevisionNotFoundError):
        return f"{name}: {endpoint} has no revision {revision!r} of it. Take a branch, a tag or a whole commit id."
    if isinstance(error, errors.OfflineModeIsEnabled):
        return (
            f"{name}: not whole on this machine, and HF_HUB_OFFLINE forbids asking {endpoint}. Unset it, or give the "
            "path of a downloaded folder."
        )
    origin = error.__cause__ if isinstance(error, errors.LocalEntryNotFoundError) and error.__cause__ else error
    reason = (str(origin).strip().splitlines() or [type(origin).__name__])[0]
    return (
        f"{name}: not whole on this machine, and the download from {endpoint} failed ({reason}). Check the name, the "
        "network, HF_ENDPOINT and the free space, or give the path of a downloaded folder."
    )
