"""An asynchronous ComfyUI client: submit, follow, fetch, upload, interrupt. Imports the siblings.

The host sends a prompt's progress only to the WebSocket that carries the client id of its submission, so the socket is
opened before the prompt is posted. What happened to a prompt is always read from the host's history; the socket only
says when to look there, and so neither a missed message nor a reconnection changes a result.
"""

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

from ..errors import ConnectionLostError, PromptLostError, ServerError
from .access import Access
from .answers import an_object
from .event_socket import EventSocket, Inbox
from .events import Event
from .history import FileRef, Outputs, raise_for_failure, read_outputs
from .http_client import HttpClient, object_of
from .protocol import Queue, parse_descriptions, parse_queue, parse_queue_length, parse_submission

_POLL_S = 2.0  # how long the socket may be silent before the history is asked
_FIRST_POLL_S = 0.1  # without a socket: before the history is asked again, then twice that, up to the above
_POLL_SHARE = 10  # asking takes at most a tenth of the time: the queue of a busy host can be large
_DRAIN_S = 0.5  # how long the last messages of a finished prompt may take: HTTP can overtake the socket
_ARRIVAL_S = (0.0, 0.5, 1.0)  # when to ask for a prompt whose submission broke off


class AsyncComfyClient(HttpClient):
    """One client of one ComfyUI server. Several prompts may be followed at once.

    Args:
        base_url: For example `http://127.0.0.1:8188`.
            User, password and query go along with each request and are not shown.
        timeout: Seconds that one HTTP request may be silent or drip. Prompts may run for as long as they like.
        access: How to be let in by a secured server.
    """

    def __init__(self, base_url: str, timeout: float = 30.0, access: Access | None = None) -> None:
        super().__init__(base_url, timeout, access)
        self.client_id = uuid.uuid4().hex
        self._socket = EventSocket(self._address, self.client_id, timeout, self._access)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the socket and the HTTP connections; a running prompt goes on."""
        await self._socket.close()
        await super().close()

    # Prompts

    async def submit(
        self, prompt: Mapping[str, Any], extra_data: Mapping[str, Any] | None = None, prompt_id: str | None = None
    ) -> str:
        """Queue an API-format prompt, once: the id is chosen here, so the host can be asked after a broken request.

        Args:
            prompt: Node id -> {class_type, inputs}.
            extra_data: Passed on as it is; `{"extra_pnginfo": {"workflow": ui}}` puts the UI graph into saved images.
            prompt_id: Its name on the host. Default: a new UUID.

        Returns:
            The prompt id.

        Raises:
            PromptRejectedError: The host refused the prompt, or would silently leave out some of its outputs.
            ServerError: The server cannot be reached or is no ComfyUI.
        """
        prompt_id = prompt_id or str(uuid.uuid4())
        await self._socket.open()
        self._socket.inbox(prompt_id)  # before the host begins to tell
        body = {"prompt": prompt, "prompt_id": prompt_id, "client_id": self.client_id}
        body["extra_data"] = dict(extra_data or {})
        try:
            response = await self._request("POST", "/prompt", json=body, accept=(200, 400))
        except ConnectionLostError:
            if await self._has_arrived(prompt_id):
                return prompt_id
            response = await self._request("POST", "/prompt", json=body, accept=(200, 400))
        accepted_id, rejection = parse_submission(object_of(response), self.base_url)
        if rejection is not None:
            # Half a result is no result.
            await self.cancel(accepted_id)
            raise rejection
        return accepted_id

    async def _has_arrived(self, prompt_id: str) -> bool:
        """Whether a prompt whose submission broke off is there; the host may still be reading it at first."""
        for wait in _ARRIVAL_S:
            await asyncio.sleep(wait)
            if await self.knows(prompt_id):
                return True
        return False

    async def follow(self, prompt_id: str, on_event: Callable[[Event], None] | None = None) -> None:
        """Wait until a prompt has finished, and report what the host says on the way.

        Args:
            prompt_id: From `submit`.
            on_event: Called with each event of this prompt, in order.

        Raises:
            ExecutionError: A node failed.
            PromptInterruptedError: It was interrupted.
            PromptLostError: The server knows nothing of it (any more).
            ConnectionLostError: The server went away and did not come back.
        """
        async with aclosing(self.events(prompt_id)) as events:
            async for event in events:
                if on_event is not None:
                    on_event(event)

    async def events(self, prompt_id: str) -> AsyncGenerator[Event, None]:
        """What `follow` reports, as an iterator that ends or raises as `follow` does."""
        inbox = self._socket.inbox(prompt_id)
        last: Event | None = None
        absences, pause = 0, _FIRST_POLL_S
        try:
            # One absence may fall between our two questions; a prompt absent twice is gone.
            while absences < 2:
                asked = time.monotonic()
                entry, queued = await self._whereabouts(prompt_id)
                patience = max(_POLL_S, _POLL_SHARE * (time.monotonic() - asked))
                if entry is not None:
                    drain = _DRAIN_S if self._socket.is_open else 0.0
                    while not _is_last(last) and (last := await next_event(inbox, drain)) is not None:
                        yield last
                    raise_for_failure(prompt_id, entry)
                    return
                absences = 0 if queued else absences + 1
                await self._socket.reopen()
                if not self._socket.is_open:
                    patience, pause = max(pause, patience - _POLL_S), min(2 * pause, _POLL_S)
                while (event := await next_event(inbox, patience)) is not None:
                    last = event
                    yield event
                    if _is_last(event):
                        break
        finally:
            self._socket.forget(prompt_id)
        raise PromptLostError(
            f"prompt {prompt_id} is neither in the queue nor in the history of {self.base_url}: it was removed from "
            "the queue, or the server was restarted; submit it again"
        )

    async def knows(self, prompt_id: str) -> bool:
        """Whether the prompt waits, runs or has finished there.

        Raises:
            ConnectionLostError: The server went away.
        """
        # One absence may fall between our two questions.
        for _ in range(2):
            entry, queued = await self._whereabouts(prompt_id)
            if entry is not None or queued:
                return True
        return False

    async def _whereabouts(self, prompt_id: str) -> tuple[dict[str, Any] | None, bool]:
        """The history entry if there is one, and whether the prompt waits or runs."""
        try:
            entry = await self.history(prompt_id)
            # The list of the queue holds every prompt in full: it is fetched only when it has an entry.
            queued = entry is None and await self.queue_length() > 0 and prompt_id in await self.queue()
        except ServerError as error:
            raise ConnectionLostError(f"while prompt {prompt_id} was waiting or running: {error}") from error
        return entry, queued

    async def outputs(self, prompt_id: str) -> list[FileRef]:
        """The images of a finished prompt, in the order in which the host lists its nodes; see `all_outputs`.

        Raises:
            ServerError: The prompt has not finished, or the host has forgotten it.
        """
        return [file for file in (await self.all_outputs(prompt_id)).files if file.kind == "images"]

    async def all_outputs(self, prompt_id: str) -> Outputs:
        """What a finished prompt left: files, texts, and what is neither.

        Raises:
            ServerError: The prompt has not finished, or the host has forgotten it.
        """
        entry = await self.history(prompt_id)
        if entry is None:
            raise ServerError(f"{self.base_url} has no history of prompt {prompt_id}; call follow() first")
        return read_outputs(entry)

    async def history(self, prompt_id: str) -> dict[str, Any] | None:
        """The host's record of a finished prompt, or None while it waits or runs."""
        answer = object_of(await self._request("GET", f"/history/{quote(prompt_id, safe='')}"))
        return an_object(answer[prompt_id], "the history of a prompt") if prompt_id in answer else None

    async def queue(self) -> Queue:
        """Which prompts run or wait. The host sends each of them whole: `queue_length` is cheaper."""
        return parse_queue(object_of(await self._request("GET", "/queue")))

    async def queue_length(self) -> int:
        """How many prompts run or wait."""
        return parse_queue_length(object_of(await self._request("GET", "/prompt")))

    async def interrupt(self, prompt_id: str | None = None) -> None:
        """Interrupt a running prompt, or whatever runs when no id is given."""
        await self._request("POST", "/interrupt", json={"prompt_id": prompt_id} if prompt_id else {})

    async def cancel(self, prompt_id: str) -> None:
        """Take a prompt out of the queue, and interrupt it if it runs already."""
        await self._request("POST", "/queue", json={"delete": [prompt_id]})
        await self.interrupt(prompt_id)

    # The server

    async def free(self) -> None:
        """Ask the host to unload its models and to drop its caches after the current prompt."""
        await self._request("POST", "/free", json={"unload_models": True, "free_memory": True})

    async def object_info(self) -> dict[str, Any]:
        """The host's description of all its nodes: node id -> description."""
        return parse_descriptions(object_of(await self._request("GET", "/object_info")))

    async def system_stats(self) -> dict[str, Any]:
        """The host's versions and devices.

        Raises:
            ServerError: What answers is no ComfyUI.
        """
        stats = object_of(await self._request("GET", "/system_stats"))
        if not isinstance(stats.get("system"), dict):
            raise ServerError(f"{self.base_url} is no ComfyUI: its /system_stats has no `system`; check the address")
        return stats


async def next_event(inbox: Inbox, patience: float) -> Event | None:
    """The next event; None when the socket was lost or is silent."""
    try:
        # Not `wait_for`: Python 3.11's forgets a cancellation that comes together with the event.
        async with asyncio.timeout(patience):
            return await inbox.get()
    except TimeoutError:
        return None


def _is_last(event: Event | None) -> bool:
    """Whether it ends a prompt. The host writes the history after `execution_success` and before this message."""
    return event is not None and event.type == "executing" and event.data.get("node") is None
