"""A synchronous ComfyUI client: the asynchronous one, run in a thread of its own. Imports the siblings."""

import asyncio
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Mapping
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from .access import Access
from .async_client import AsyncComfyClient
from .events import Event
from .history import FileRef, Outputs
from .protocol import Queue
from .received import MAX_FILE

_Result = TypeVar("_Result")


class ComfyClient:
    """One client of one ComfyUI server, for code that is not asynchronous.

    Its methods are those of `AsyncComfyClient` and raise what they raise. Event handlers are called in the thread that
    called `follow`.

    Args:
        base_url: For example `http://127.0.0.1:8188`.
        timeout: Seconds that one HTTP request may be silent or drip. Prompts may run for as long as they like.
        access: How to be let in by a secured server.
    """

    def __init__(self, base_url: str, timeout: float = 30.0, access: Access | None = None) -> None:
        self._client = AsyncComfyClient(base_url, timeout, access)
        self.base_url = self._client.base_url
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="comfy-client", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the socket and the HTTP connections; a running prompt goes on."""
        if self._loop.is_closed():
            return
        self._wait(self._client.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def submit(
        self, prompt: Mapping[str, Any], extra_data: Mapping[str, Any] | None = None, prompt_id: str | None = None
    ) -> str:
        """Queue an API-format prompt, once, and return its id; see `AsyncComfyClient.submit`."""
        return self._wait(self._client.submit(prompt, extra_data, prompt_id))

    def follow(self, prompt_id: str, on_event: Callable[[Event], None] | None = None) -> None:
        """Wait until a prompt has finished, and report its events; see `AsyncComfyClient.follow`."""
        events = self._client.events(prompt_id)
        try:
            # One at a time, so that the handler runs here and may use this client itself.
            while (event := self._wait(_next_or_none(events))) is not None:
                if on_event is not None:
                    on_event(event)
        finally:
            self._wait(_close(events))

    def knows(self, prompt_id: str) -> bool:
        """Whether the prompt waits, runs or has finished there."""
        return self._wait(self._client.knows(prompt_id))

    def outputs(self, prompt_id: str) -> list[FileRef]:
        """The images of a finished prompt, in the order in which the host lists its nodes; see `all_outputs`."""
        return self._wait(self._client.outputs(prompt_id))

    def all_outputs(self, prompt_id: str) -> Outputs:
        """What a finished prompt left: files, texts, and what is neither."""
        return self._wait(self._client.all_outputs(prompt_id))

    def fetch(self, ref: FileRef, limit: int = MAX_FILE) -> bytes:
        """The bytes of one file exactly as the host saved it, metadata included; see `AsyncComfyClient.download`."""
        return self._wait(self._client.fetch(ref, limit))

    def download(self, ref: FileRef, path: Path, limit: int = MAX_FILE) -> None:
        """Write one file to a path that nobody uses; see `AsyncComfyClient.download`."""
        self._wait(self._client.download(ref, path, limit))

    def has_input(self, name: str) -> bool:
        """Whether the host has a file of this name, maybe with folders, among its inputs."""
        return self._wait(self._client.has_input(name))

    def upload(self, name: str, data: bytes) -> None:
        """Put a file among the host's inputs, unless one of this name is there; see `AsyncComfyClient.upload`."""
        self._wait(self._client.upload(name, data))

    def history(self, prompt_id: str) -> dict[str, Any] | None:
        """The host's record of a finished prompt, or None while it waits or runs."""
        return self._wait(self._client.history(prompt_id))

    def queue(self) -> Queue:
        """Which prompts run or wait. The host sends each of them whole: `queue_length` is cheaper."""
        return self._wait(self._client.queue())

    def queue_length(self) -> int:
        """How many prompts run or wait."""
        return self._wait(self._client.queue_length())

    def interrupt(self, prompt_id: str | None = None) -> None:
        """Interrupt a running prompt, or whatever runs when no id is given."""
        self._wait(self._client.interrupt(prompt_id))

    def cancel(self, prompt_id: str) -> None:
        """Take a prompt out of the queue, and interrupt it if it runs already."""
        self._wait(self._client.cancel(prompt_id))

    def free(self) -> None:
        """Ask the host to unload its models and to drop its caches after the current prompt."""
        self._wait(self._client.free())

    def object_info(self) -> dict[str, Any]:
        """The host's description of all its nodes: node id -> description."""
        return self._wait(self._client.object_info())

    def system_stats(self) -> dict[str, Any]:
        """The host's versions and devices."""
        return self._wait(self._client.system_stats())

    def _wait(self, work: Coroutine[Any, Any, _Result]) -> _Result:
        future: Future[_Result] = asyncio.run_coroutine_threadsafe(work, self._loop)
        try:
            return future.result()
        except BaseException:
            future.cancel()  # an interruption of this thread; nothing when the work itself raised
            raise


async def _next_or_none(events: AsyncGenerator[Event, None]) -> Event | None:
    return await anext(events, None)


async def _close(events: AsyncGenerator[Event, None]) -> None:
    await events.aclose()
