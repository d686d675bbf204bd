"""What the hub says of a repository: it may be any server that HF_ENDPOINT names, and nothing in it is taken as is."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

from ..errors import CheckpointError, short_repr
from .choice import choose_files
from .failures import hub_errors, odd_answer

_TIMEOUT = 10.0  # seconds without an answer to the first question; HF_HUB_DOWNLOAD_TIMEOUT rules the transfers
_COMMIT = _GIT_ID = re.compile(r"[0-9a-f]{40}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
# What huggingface_hub raises of its own when the JSON of an answer has another form, or is none.
_ODD = (ValueError, LookupError, TypeError, AttributeError, RecursionError)


@dataclass(frozen=True)
class HubFile:
    """A file of a repository, as the hub describes it.

    Attributes:
        path: Below the repository, "/" between levels; of a form that leads nowhere else.
        size: bytes.
        sha256: Of a file in large file storage, else None.
        git_id: Git's name of a small file's content, a SHA-1.
    """

    path: str
    size: int
    sha256: str | None
    git_id: str | None

    @property
    def content(self) -> str:
        """What tells its content from others, for messages."""
        kind, value = ("SHA-256", self.sha256) if self.sha256 else ("git id", self.git_id)
        return f"{self.size} bytes, {kind} {value}"


@dataclass(frozen=True)
class HubModel:
    """The files of one commit of a repository that a model needs."""

    name: str
    commit: str
    files: tuple[HubFile, ...]


def find_model(hub: Any, name: str, revision: str | None, variant: str | None = None) -> HubModel:
    """Ask the hub what the repository holds.

    Args:
        hub: The module huggingface_hub.
        name: Of the repository.
        revision: Branch, tag or commit; None is the main branch.
        variant: Of the weights, as for `choose_files`.

    Raises:
        CheckpointError: An answer that is none, files without a checksum, or no model of this family.
    """
    endpoint = hub.constants.ENDPOINT
    try:
        info = hub.HfApi().model_info(name, revision=revision, timeout=_TIMEOUT, files_metadata=True)
        found = {item.rfilename: item for item in info.siblings or ()}
    except Exception as error:
        # Where it speaks by requests, JSON that is none is an OSError too.
        if isinstance(error, json.JSONDecodeError) or (isinstance(error, _ODD) and not isinstance(error, hub_errors())):
            raise odd_answer(name, endpoint, f"{type(error).__name__}: {error}") from error
        raise
    if not isinstance(info.sha, str) or not _COMMIT.fullmatch(info.sha):
        raise odd_answer(name, endpoint, f"the commit is {short_repr(info.sha)}; expected 40 hexadecimal digits")
    wanted = choose_files(name, {path for path in found if isinstance(path, str)}, variant)
    return HubModel(name, info.sha, tuple(_described(name, endpoint, found[path]) for path in wanted))


def _described(name: str, endpoint: str, item: Any) -> HubFile:
    size, sha256, git_id = item.size, getattr(item.lfs, "sha256", None), item.blob_id
    sha256 = sha256 if isinstance(sha256, str) and _SHA256.fullmatch(sha256) else None
    git_id = git_id if isinstance(git_id, str) and _GIT_ID.fullmatch(git_id) and not item.lfs else None
    if type(size) is not int or size < 0 or not (sha256 or git_id):
        raise CheckpointError(
            f"{name}: {endpoint} names no checksum of {item.rfilename}, so nothing can be verified. Use another "
            "HF_ENDPOINT, or download the model by hand and give its path."
        )
    return HubFile(item.rfilename, size, sha256, git_id)
