"""The WebSocket of one client: opened when needed, reopened when lost, read into one inbox for each prompt.

A server, or what stands before it, may know no WebSockets. It is then asked over HTTP alone, and the socket is tried
again from time to time. Imports websockets, access, events, protocol and the errors.
"""

import asyncio
import time
from contextlib import suppress
from typing import Any
from urllib.parse import urlencode

from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidMessage, WebSocketException

from ldm_backend.errors import printable

from ..errors import ConnectionLostError, ServerError
from .access import Access, Address
from .events import Event, parse_frame
from .protocol import HELLO

_RECONNECT_S = (0.0, 0.5, 1.0, 2.0)  # waits before each attempt to reopen a lost socket
_MAX_FRAME = 64 * 2**20  # bytes; a preview of a large image exceeds the library's 1 MiB
_REFUSED_S = 30.0  # how long a server that refused the socket is not asked for it again
_MAX_INBOX = 256  # events of a prompt that nobody follows; older ones are dropped

Inbox = asyncio.Queue[Event | None]
"""The events of one prompt; None says that the socket was lost."""


class _Connect(connect):
    """Follows no redirection: it would take our headers to somebody else."""

    def process_redirect(self, exc: Exception) -> Exception | str:
        return exc


class EventSocket:
    """One WebSocket, shared by everybody who follows a prompt of this client.

    Args:
        address: The server.
        client_id: The host sends a prompt's progress to the socket with the client id of its submission.
        timeout: Seconds that opening may take.
        access: How to be let in.
    """

    def __init__(self, address: Address, client_id: str, timeout: float, access: Access) -> None:
        self._address, self._access = address, access
        query = urlencode([("clientId", client_id), *address.query])
        self._url = f"ws{address.url.removeprefix('http')}/ws?{query}"
        self._tls = access.tls() if address.url.startswith("https") else None
        self._refused_until = 0.0
        self._timeout = timeout
        self._opening = asyncio.Lock()
        self._connection: ClientConnection | None = None
        self._reader: asyncio.Task[None] | None = None
        self._inboxes: dict[str, Inbox] = {}

    def inbox(self, prompt_id: str) -> Inbox:
        """The inbox of a prompt, made at the first call."""
        return self._inboxes.setdefault(prompt_id, asyncio.Queue(_MAX_INBOX))

    def forget(self, prompt_id: str) -> None:
        """Drop the inbox of a prompt."""
        self._inboxes.pop(prompt_id, None)

    @property
    def is_open(self) -> bool:
        """Whether the server says what happens; otherwise it has to be asked."""
        return self._connection is not None

    async def open(self) -> None:
        """Open the socket if it is not open; a server that refuses it is left in peace for a while.

        Raises:
            ServerError: The server cannot be reached.
        """
        async with self._opening:
            if self._connection is not None or time.monotonic() < self._refused_until:
                return
            try:
                self._connection = await self._connect()
                await self._connection.send(HELLO)
            except (OSError, WebSocketException, ValueError) as error:
                self._connection = None
                if isinstance(error, TimeoutError | InvalidHandshake) and not isinstance(error, InvalidMessage):
                    self._refused_until = time.monotonic() + _REFUSED_S
                    return
                detail = self._address.hide(printable(str(error), 300), self._access)
                raise ServerError(
                    f"cannot open a WebSocket at {self._address.url}: {detail}; start the server or check the address"
                ) from error
            self._reader = asyncio.create_task(self._read(self._connection))

    async def _connect(self) -> ClientConnection:
        tls: dict[str, Any] = {} if self._tls is None else {"ssl": self._tls}
        return await _Connect(
            self._url,
            open_timeout=self._timeout,
            close_timeout=0.1,  # a frozen server: what it would answer is of no use any more
            max_size=_MAX_FRAME,
            proxy=None if self._address.is_local else True,
            additional_headers=self._address.headers(self._access),
            **tls,
        )

    async def reopen(self) -> None:
        """Open the socket again, with some patience.

        Raises:
            ConnectionLostError: The server did not come back.
        """
        for wait in _RECONNECT_S:
            await asyncio.sleep(wait)
            with suppress(ServerError):
                return await self.open()
        raise ConnectionLostError(
            f"{self._address.url} went away and did not come back within {sum(_RECONNECT_S):g} s; "
            "look into the server's log"
        )

    async def close(self) -> None:
        """Close the socket."""
        if self._connection is not None:
            await self._connection.close()
        if self._reader is not None:
            await self._reader

    async def _read(self, connection: ClientConnection) -> None:
        """Always reading: an unread frame would make the host wait, which serves everybody in one loop."""
        try:
            async for frame in connection:
                event = parse_frame(frame)
                if event is not None and event.prompt_id in self._inboxes:
                    _put(self._inboxes[event.prompt_id], event)
        except ConnectionClosed:
            pass  # told to the followers below, whichever way it was closed
        finally:
            self._connection = None
            for inbox in self._inboxes.values():
                _put(inbox, None)


def _put(inbox: Inbox, event: Event | None) -> None:
    if inbox.full():
        inbox.get_nowait()
    inbox.put_nowait(event)
