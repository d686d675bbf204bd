"""What goes wrong with the hub, as one error that tells the way out. For every huggingface_hub since 0.34."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import CheckpointError, printable

_REFUSED, _TOO_MANY, _SERVER_FAULT = (401, 403), 429, 500


def hub_errors() -> tuple[type[Exception], ...]:
    """What huggingface_hub was seen to raise where network, server, name or disk are at fault.

    It speaks HTTP by requests, by httpx since 1.0, by httpx2 since 2.0; its own errors are of that library's family.
    """
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError

    kinds: list[type[Exception]] = [OSError, HFValidationError]
    for base in HfHubHTTPError.__mro__:
        library = sys.modules.get(base.__module__.partition(".")[0])
        kinds += [kind for kind in (getattr(library, name, None) for name in ("HTTPError", "InvalidURL")) if kind]
    return tuple(kinds)


@contextmanager
def explained(name: str, revision: str | None, afterwards: str = "") -> Iterator[None]:
    """Errors of huggingface_hub as one of ours.

    Args:
        name: Of the model.
        revision: That was asked for.
        afterwards: What else to say.

    Raises:
        CheckpointError: In the place of those.
    """
    try:
        yield
    except (*hub_errors(), RuntimeError) as error:  # RuntimeError: streams of httpx that were closed, and the like
        raise CheckpointError(_explanation(error, name, revision) + afterwards) from error


def wrong_content(name: str, path: str, expected: str) -> CheckpointError:
    """The error for a file that is not what the hub tells."""
    return CheckpointError(
        f"{name}: {path} came with other content than the hub describes (expected {expected}). It was removed; try "
        "again, and if it happens again do not trust the network or HF_ENDPOINT."
    )


def odd_answer(name: str, endpoint: str, what: str) -> CheckpointError:
    """The error for an answer that no hub gives."""
    return CheckpointError(
        f"{name}: {endpoint} answers, but not as the hub does ({printable(what, 200)}). Check HF_ENDPOINT and the "
        "network; a page that asks for a login may stand in between."
    )


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
    reason = printable((str(error).strip().splitlines() or [type(error).__name__])[0], 400)
    response: Any = getattr(error, "response", None)
    status = getattr(response, "status_code", 0)
    if status in _REFUSED:
        return (
            f"{name}: {endpoint} does not let you have it ({reason}). Log in again with `hf auth login`, or set or "
            "unset HF_TOKEN."
        )
    if status == _TOO_MANY or status >= _SERVER_FAULT:
        return f"{name}: {endpoint} cannot serve it now ({reason}). Try again later."
    return (
        f"{name}: not whole on this machine, and the download from {endpoint} failed ({reason}). Check the name, the "
        "network, HF_ENDPOINT and the free space, or give the path of a downloaded folder."
    )
