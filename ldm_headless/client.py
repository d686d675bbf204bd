"""A synchronous ComfyUI client: submit, follow, fetch, interrupt. Imports httpx, websockets and the siblings.

The host sends a prompt's progress only to the WebSocket that carries the client id of its submission, so the socket is
opened before the prompt is posted. What happened to a prompt is always read from the host's history; the socket only
says when to look there, and so neither a missed message nor a reconnection changes a result.
"""

import logging
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, urlsplit

import httpx
from websockets.exceptions import ConnectionClosed, WebSocketException
from websockets.sync.client import ClientConnection, connect

from .errors import ConnectionLostError, NodeError, PromptLostError, PromptRejectedError, ServerError
from .events import Event, parse_frame
from .history import ImageRef, image_refs, raise_for_failure

__all__ = ["ComfyClient", "Event", "ImageRef"]

logger = logging.getLogger("comfyui_ldm")

_POLL_S = 2.0  # how long the socket may be silent before the history is asked
_DRAIN_S = 0.5  # how long the last messages of a finished prompt may take: HTTP can overtake the socket
_RECONNECT_S = (0.0, 0.5, 1.0, 2.0)  # waits before each attempt to reopen a lost socket
_MAX_FRAME = 64 * 2**20  # bytes; a preview of a large image exceeds the library's 1 MiB


class ComfyClient:
    """One client of one ComfyUI server.

    Args:
        base_url: For example `http://127.0.0.1:8188`.
        timeout: Seconds that one HTTP request may take. Prompts may run for as long as they like.
    """

    def __init__(self, base_url: str, timeout: float = 30.0) -> None:
        self.base_url = base_url.rstrip("/")
        parts = urlsplit(self.base_url)
        if parts.scheme not in ("http", "https") or not parts.netloc:
            raise ServerError(f"{base_url!r} is no server address; expected something like http://127.0.0.1:8188")
        self.client_id = uuid.uuid4().hex
        self._timeout = timeout
        # A proxy from the environment has no business between us and a host on this machine.
        self._local = parts.hostname in ("127.0.0.1", "localhost", "::1")
        self._http = httpx.Client(base_url=self.base_url, timeout=timeout, trust_env=not self._local)
        self._socket: ClientConnection | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket and the HTTP connections; a running prompt goes on."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._http.close()

    # Prompts

    def submit(self, prompt: Mapping[str, Any], extra_data: Mapping[str, Any] | None = None) -> str:
        """Queue an API-format prompt.

        Args:
            prompt: Node id -> {class_type, inputs}.
            extra_data: Passed on as it is; `{"extra_pnginfo": {"workflow": ui}}` puts the UI graph into saved images.

        Returns:
            The prompt id.

        Raises:
            PromptRejectedError: The host refused the prompt, or would silently leave out some of its outputs.
            ServerError: The server cannot be reached or is no ComfyUI.
        """
        if self._socket is None:
            self._socket = self._connect()
        body = {"prompt": prompt, "client_id": self.client_id, "extra_data": dict(extra_data or {})}
        response = self._request("POST", "/prompt", json=body, accept=(200, 400))
        answer = _json_object(response)
        errors = _node_errors(answer)
        if "prompt_id" not in answer:
            if not errors:
                raise ServerError(f"{self.base_url}/prompt answered {response.status_code} without a prompt id")
            raise PromptRejectedError(errors)
        prompt_id = str(answer["prompt_id"])
        if errors:
            # The host queued the valid outputs and dropped the others. Half a result is no result.
            self.cancel(prompt_id)
            raise PromptRejectedError(errors)
        return prompt_id

    def follow(self, prompt_id: str, on_event: Callable[[Event], None] | None = None) -> None:
        """Wait until a prompt has finished, and report what the host says on the way.

        Messages about other prompts of this client, and about no prompt, are dropped.

        Args:
            prompt_id: From `submit`.
            on_event: Called with each event of this prompt, in order.

        Raises:
            ExecutionError: A node failed.
            PromptInterruptedError: It was interrupted.
            PromptLostError: The server knows nothing of it (any more).
            ConnectionLostError: The server went away and did not come back.
        """
        absences = 0
        # One absence may fall between our two questions; a prompt absent twice is gone.
        while absences < 2:
            entry, queued = self._whereabouts(prompt_id)
            if entry is not None:
                self._listen(prompt_id, on_event, patience=_DRAIN_S, reconnect=False)
                raise_for_failure(prompt_id, entry)
                return
            absences = 0 if queued else absences + 1
            self._listen(prompt_id, on_event, patience=_POLL_S, reconnect=True)
        raise PromptLostError(
            f"prompt {prompt_id} is neither in the queue nor in the history of {self.base_url}: it was removed from "
            "the queue, or the server was restarted; submit it again"
        )

    def _whereabouts(self, prompt_id: str) -> tuple[dict[str, Any] | None, bool]:
        """The history entry if there is one, and whether the prompt waits or runs."""
        try:
            entry = self.history(prompt_id)
            return entry, entry is None and prompt_id in self.queue()
        except ServerError as error:
            raise ConnectionLostError(f"while prompt {prompt_id} was waiting or running: {error}") from error

    def _listen(
        self, prompt_id: str, on_event: Callable[[Event], None] | None, patience: float, reconnect: bool
    ) -> None:
        """Pass events on until the prompt's last one, or `patience` seconds without one."""
        deadline = time.monotonic() + patience
        while True:
            if self._socket is None:
                if not reconnect:
                    return
                self._socket = self._reconnect(prompt_id)
            try:
                event = parse_frame(self._socket.recv(timeout=max(0.0, deadline - time.monotonic())))
            except TimeoutError:
                return
            except ConnectionClosed:
                self._socket = None
                continue
            # Other prompts' events, and those of the server as a whole, must not keep us from asking after ours.
            if event is None or event.prompt_id != prompt_id:
                if time.monotonic() > deadline:
                    return
                continue
            deadline = time.monotonic() + patience
            if on_event is not None:
                on_event(event)
            # The host writes the history after `execution_success` and before this message.
            if event.type == "executing" and event.data.get("node") is None:
                return

    def outputs(self, prompt_id: str) -> list[ImageRef]:
        """The images of a finished prompt, in the order in which the host lists its nodes.

        Raises:
            ServerError: The prompt has not finished, or the host has forgotten it.
        """
        entry = self.history(prompt_id)
        if entry is None:
            raise ServerError(f"{self.base_url} has no history of prompt {prompt_id}; call follow() first")
        return image_refs(entry)

    def fetch(self, ref: ImageRef) -> bytes:
        """The bytes of one image file exactly as the host saved it, metadata included."""
        query = {"filename": ref.filename, "subfolder": ref.subfolder, "type": ref.type}
        return self._request("GET", "/view", params=query).content

    def history(self, prompt_id: str) -> dict[str, Any] | None:
        """The host's record of a finished prompt, or None while it waits or runs."""
        entry = _json_object(self._request("GET", f"/history/{quote(prompt_id, safe='')}")).get(prompt_id)
        return entry if isinstance(entry, dict) else None

    def queue(self) -> list[str]:
        """The ids of the prompts that run (first) or wait."""
        answer = _json_object(self._request("GET", "/queue"))
        # An item is (number, prompt id, prompt, ...); later hosts append fields.
        return [str(item[1]) for part in ("queue_running", "queue_pending") for item in answer.get(part, [])]

    def interrupt(self, prompt_id: str | None = None) -> None:
        """Interrupt a running prompt, or whatever runs when no id is given."""
        self._request("POST", "/interrupt", json={"prompt_id": prompt_id} if prompt_id else {})

    def cancel(self, prompt_id: str) -> None:
        """Take a prompt out of the queue, and interrupt it if it runs already."""
        self._request("POST", "/queue", json={"delete": [prompt_id]})
        self.interrupt(prompt_id)

    # The server

    def free(self) -> None:
        """Ask the host to unload its models and to drop its caches after the current prompt."""
        self._request("POST", "/free", json={"unload_models": True, "free_memory": True})

    def object_info(self) -> dict[str, Any]:
        """The host's description of all its nodes: node id -> description."""
        return _json_object(self._request("GET", "/object_info"))

    def system_stats(self) -> dict[str, Any]:
        """The host's versions and devices.

        Raises:
            ServerError: What answers is no ComfyUI.
        """
        stats = _json_object(self._request("GET", "/system_stats"))
        if "system" not in stats:
            raise ServerError(f"{self.base_url} is no ComfyUI: its /system_stats has no `system`; check the address")
        return stats

    def _request(self, method: str, path: str, accept: tuple[int, ...] = (200,), **kwargs: Any) -> httpx.Response:
        try:
            response = self._http.request(method, path, **kwargs)
        except httpx.ConnectError as error:
            raise ServerError(
                f"no server answers at {self.base_url} ({error}); start it or check the address"
            ) from error
        except httpx.TransportError as error:
            detail = str(error) or type(error).__name__
            raise ConnectionLostError(f"{method} {self.base_url}{path} broke off: {detail}") from error
        if response.status_code not in accept:
            raise ServerError(
                f"{method} {self.base_url}{path} answered {response.status_code} {response.reason_phrase}: "
                f"{response.text[:200].strip() or 'no text'}"
            )
        return response

    def _connect(self) -> ClientConnection:
        url = f"ws{self.base_url.removeprefix('http')}/ws?clientId={self.client_id}"
        try:
            # Entered, because newer versions of the library connect only then; close() ends it as leaving would.
            socket = connect(
                url,
                open_timeout=self._timeout,
                close_timeout=2,
                max_size=_MAX_FRAME,
                max_queue=None,  # an unread frame must not make the host wait: it serves everybody in one loop
                proxy=None if self._local else True,
            ).__enter__()
            # Without this the host sends previews that do not say which node they belong to.
            socket.send('{"type": "feature_flags", "data": {"supports_preview_metadata": true}}')
        except (OSError, WebSocketException) as error:
            raise ServerError(f"cannot open {url}: {error}; start the server or check the address") from error
        return socket

    def _reconnect(self, prompt_id: str) -> ClientConnection:
        for wait in _RECONNECT_S:
            time.sleep(wait)
            with suppress(ServerError):
                return self._connect()
        raise ConnectionLostError(
            f"{self.base_url} went away while prompt {prompt_id} was waiting or running, and did not come back "
            f"within {sum(_RECONNECT_S):g} s; look into the server's log"
        )


def _json_object(response: httpx.Response) -> dict[str, Any]:
    try:
        answer = response.json()
    except ValueError as error:
        raise ServerError(f"{response.url} did not answer JSON; is this a ComfyUI server?") from error
    if not isinstance(answer, dict):
        raise ServerError(f"{response.url} answered a JSON {type(answer).__name__}; expected an object")
    return answer


def _node_errors(answer: Mapping[str, Any]) -> tuple[NodeError, ...]:
    """Every reason in an answer of POST /prompt; the general one only if no node is to blame."""
    found = [
        NodeError(node_id, info.get("class_type", "?"), error["type"], error["message"], error.get("details", ""))
        for node_id, info in (answer.get("node_errors") or {}).items()
        for error in info.get("errors", [])
    ]
    general = answer.get("error")
    if not found and isinstance(general, dict):
        node_id = str((general.get("extra_info") or {}).get("node_id", ""))
        class_type = str((general.get("extra_info") or {}).get("class_type", "?"))
        found = [NodeError(node_id, class_type, general["type"], general["message"], general.get("details") or "")]
    return tuple(found)
