"""One HTTP exchange, with a limit on size and on silence. Imports httpx, answers and the errors.

Bodies are read piece by piece: neither a packed bomb nor an endless or a dripping body takes memory or time beyond what
the caller allows.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import httpx

from ..errors import ServerError

PACE = 64 * 2**10
"""Bytes that a body has to bring, or be given, in the time of one request: one that drips is given up."""

_ENCODINGS = ("", "identity", "gzip")  # one layer that unpacks a piece of 64 kB to 64 MB at most
_MAX_ERROR = 2000  # bytes that are read of a refusal


@dataclass(frozen=True)
class Answer:
    """What a server answered.

    Attributes:
        where: Method and address, without secrets.
        status: Of HTTP.
        reason: Of HTTP.
        body: Empty where it went into a file.
    """

    where: str
    status: int
    reason: str
    body: bytes


@dataclass(frozen=True)
class Call:
    """A request.

    Attributes:
        method: Of HTTP.
        base_url: Of the server, for messages.
        path: Below it.
        timeout: Seconds until the answer begins, and in which its body has to bring `PACE`.
        limit: Bytes of its body.
        sending: Bytes of the request, which prolong the time until the answer begins.
    """

    method: str
    base_url: str
    path: str
    timeout: float
    limit: int
    sending: int = 0

    @property
    def where(self) -> str:
        """Method and address."""
        return f"{self.method} {self.base_url}{self.path}"


async def exchange(
    http: httpx.AsyncClient, call: Call, write: Callable[[bytes], object] | None = None, **kwargs: Any
) -> Answer:
    """Send a request and receive its answer.

    Args:
        http: Whose headers and query go along.
        call: What to ask.
        write: Takes the pieces of the body of a success; without it they are returned.
        kwargs: Of httpx: `json`, `params`, `files`.

    Raises:
        httpx.TransportError: The connection failed or was too slow.
        ServerError: The body is larger than the limit, or packed in a way that was not asked for.
    """
    patience = call.timeout * (1 + call.sending / PACE)
    try:
        async with asyncio.timeout(patience) as begin:
            async with http.stream(call.method, call.path, **kwargs) as response:
                begin.reschedule(None)
                return await _receive(response, call, write)
    except TimeoutError as error:
        raise httpx.ReadTimeout(f"no answer within {patience:g} s") from error


async def _receive(response: httpx.Response, call: Call, write: Callable[[bytes], object] | None) -> Answer:
    is_refusal = not response.is_success
    kept = bytearray()
    take = kept.extend if write is None or is_refusal else write
    encoding = response.headers.get("content-encoding", "").strip().lower()
    if encoding not in _ENCODINGS:
        raise ServerError(
            f"{call.where} answered in the encoding {encoding[:40]!r}; expected none, or gzip"
            "; check what is between you and the server"
        )
    limit = _MAX_ERROR if is_refusal else call.limit
    size, mark, marked = 0, 0, time.monotonic()
    try:
        async for piece in response.aiter_bytes():
            size += len(piece)
            if size > limit and is_refusal:
                kept.extend(piece[:limit])
                break
            if size > limit:
                raise ServerError(
                    f"{call.where} answers with more than {limit:,} bytes, the most that is taken; check the address"
                )
            take(piece)
            if (now := time.monotonic()) - marked >= call.timeout:
                if size - mark < PACE:
                    raise httpx.ReadTimeout(f"only {size - mark} bytes came in {now - marked:.0f} s")
                mark, marked = size, now
    except httpx.DecodingError as error:
        raise ServerError(
            f"{call.where} says that its answer is gzip, and it is not; check what is between you and the server"
        ) from error
    return Answer(call.where, response.status_code, response.reason_phrase, bytes(kept))
