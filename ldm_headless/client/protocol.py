"""What the host's HTTP API and WebSocket are asked and answer, without any I/O. Imports httpx and the errors."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import httpx

from ..errors import NodeError, PromptRejectedError, ServerError

# Without this the host sends previews that do not say which node they belong to.
HELLO = '{"type": "feature_flags", "data": {"supports_preview_metadata": true}}'


@dataclass(frozen=True)
class Address:
    """Of a server: `url` without a final slash; `is_local` when it is on this machine."""

    url: str
    is_local: bool

    def socket_url(self, client_id: str) -> str:
        """Where the WebSocket of a client is."""
        return f"ws{self.url.removeprefix('http')}/ws?clientId={client_id}"


@dataclass(frozen=True)
class Queue:
    """Ids of the prompts that run, and of those that wait, the next first."""

    running: tuple[str, ...]
    pending: tuple[str, ...]

    def __contains__(self, prompt_id: object) -> bool:
        return prompt_id in self.running or prompt_id in self.pending

    def __iter__(self) -> Iterator[str]:
        yield from self.running + self.pending

    def __len__(self) -> int:
        return len(self.running) + len(self.pending)


def parse_address(base_url: str) -> Address:
    """Check a server's address.

    Raises:
        ServerError: It is none.
    """
    url = base_url.rstrip("/")
    try:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.port == 0:
            raise ValueError("no address")
    except ValueError as error:  # also a port that is no number, or too large
        raise ServerError(f"{url!r} is no server address; expected something like http://127.0.0.1:8188") from error
    return Address(url, parts.hostname in ("127.0.0.1", "localhost", "::1"))


def check_status(response: httpx.Response, accept: tuple[int, ...]) -> httpx.Response:
    """Return the response if its status is expected.

    Raises:
        ServerError: It is not.
    """
    if response.status_code not in accept:
        raise ServerError(
            f"{response.request.method} {response.url} answered {response.status_code} {response.reason_phrase}: "
            f"{response.text[:200].strip() or 'no text'}"
        )
    return response


def json_object(response: httpx.Response) -> dict[str, Any]:
    """The JSON object in a response.

    Raises:
        ServerError: There is none.
    """
    try:
        answer = response.json()
    except ValueError as error:
        raise ServerError(f"{response.url} did not answer JSON; is this a ComfyUI server?") from error
    if not isinstance(answer, dict):
        raise ServerError(f"{response.url} answered a JSON {type(answer).__name__}; expected an object")
    return answer


def parse_submission(answer: Mapping[str, Any], source: str) -> tuple[str, PromptRejectedError | None]:
    """What the host said to POST /prompt.

    Args:
        answer: Its JSON.
        source: Who answered, for messages.

    Returns:
        The id of the queued prompt, and why half of it was refused: the host queues the valid outputs and drops the
        others.

    Raises:
        PromptRejectedError: Nothing was queued.
        ServerError: This is no answer of a ComfyUI.
    """
    errors = _node_errors(answer)
    rejection = PromptRejectedError(errors) if errors else None
    if "prompt_id" in answer:
        return str(answer["prompt_id"]), rejection
    raise rejection or ServerError(f"{source}/prompt answered neither a prompt id nor a reason; is this a ComfyUI?")


def _node_errors(answer: Mapping[str, Any]) -> tuple[NodeError, ...]:
    """Every reason in an answer of POST /prompt; the general one only if no node is to blame."""
    found = [
        NodeError(node_id, info.get("class_type", "?"), error["type"], error["message"], error.get("details", ""))
        for node_id, info in (answer.get("node_errors") or {}).items()
        for error in info.get("errors", [])
    ]
    general = answer.get("error")
    if not found and isinstance(general, dict):
        extra = general.get("extra_info") or {}
        node_id, class_type = str(extra.get("node_id", "")), str(extra.get("class_type", "?"))
        found = [NodeError(node_id, class_type, general["type"], general["message"], general.get("details") or "")]
    return tuple(found)


def parse_queue(answer: Mapping[str, Any]) -> Queue:
    """The answer of GET /queue: items of (number, prompt id, prompt, ...), those that wait in the order of a heap."""
    running, pending = (answer.get(part) or [] for part in ("queue_running", "queue_pending"))
    pending = sorted(pending, key=lambda item: item[0])
    return Queue(tuple(str(item[1]) for item in running), tuple(str(item[1]) for item in pending))


def parse_queue_length(answer: Mapping[str, Any]) -> int:
    """How many prompts run or wait, from the answer of GET /prompt.

    Raises:
        ServerError: It does not say.
    """
    try:
        return int(answer["exec_info"]["queue_remaining"])
    except (KeyError, TypeError, ValueError) as error:
        raise ServerError("GET /prompt did not tell the length of the queue; is this a ComfyUI?") from error
