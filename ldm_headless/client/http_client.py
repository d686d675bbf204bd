"""One server over HTTP: requests with what lets us in, and files in both directions. Imports httpx and the siblings."""

import asyncio
from pathlib import Path
from typing import Any

import httpx

from ldm_backend.errors import printable

from ..errors import ConnectionLostError, OutputGoneError, ServerError
from .access import Access, parse_address
from .answers import MAX_ANSWER, a_text, parse_object
from .history import FileRef
from .protocol import check_status
from .received import MAX_FILE, ReceivedFile
from .transport import Answer, Call, exchange

_NO_LIMIT = 2**63  # of a body that is counted by who takes it
_RETRIES_S = (0.0, 0.2, 1.0)  # waits before each attempt of a request that changes nothing


class HttpClient:
    """What `AsyncComfyClient` does over HTTP alone; its arguments are described there."""

    def __init__(self, base_url: str, timeout: float = 30.0, access: Access | None = None) -> None:
        self._access, self._address = access or Access(), parse_address(base_url)
        self.base_url = self._address.url
        self._timeout = timeout
        tls = self._access.tls()
        self._http = httpx.AsyncClient(
            base_url=self.base_url,
            timeout=timeout,
            # A proxy from the environment has no business between us and a host on this machine.
            trust_env=not self._address.is_local,
            headers={**self._address.headers(self._access), "Accept-Encoding": "gzip"},
            params=list(self._address.query),
            verify=True if tls is None else tls,
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def fetch(self, ref: FileRef, limit: int = MAX_FILE) -> bytes:
        """The bytes of one file exactly as the host saved it, metadata included; see `download`."""
        with ReceivedFile(ref, None, limit) as received:
            await self._receive(ref, received)
            return received.content()

    async def download(self, ref: FileRef, path: Path, limit: int = MAX_FILE) -> None:
        """Write one file, exactly as the host saved it, to a path that nobody uses.

        Args:
            ref: From `outputs`.
            path: Of the new file; broken off, a part of it is left there.
            limit: Bytes that are taken at most.

        Raises:
            OutputGoneError: The host no longer has it.
            OutputFileError: It is empty, larger than the limit, or no file of the kind that its name says.
            ServerError: The host does not answer, or refuses.
        """
        with ReceivedFile(ref, path, limit) as received:
            await self._receive(ref, received)

    async def _receive(self, ref: FileRef, received: ReceivedFile) -> None:
        query = {"filename": ref.filename, "subfolder": ref.subfolder, "type": ref.type}
        answer = await self._request("GET", "/view", accept=(200, 404), limit=_NO_LIMIT, sink=received, params=query)
        if answer.status == 404:
            raise OutputGoneError(
                f"{self.base_url} ran the prompt but no longer has its file {printable(ref.filename)} (node "
                f"{printable(ref.node_id)}): it was deleted or moved there, or the server took the node from its "
                'cache. Change a seed or another value, or empty its cache (POST /free with {"free_memory": true}) and '
                "run it again"
            )
        received.check(self.base_url)

    # Inputs

    async def has_input(self, name: str) -> bool:
        """Whether the host has a file of this name, maybe with folders, among its inputs."""
        folder, _, filename = name.rpartition("/")
        query = {"filename": filename, "subfolder": folder, "type": "input"}
        answer = await self._request("HEAD", "/view", accept=(200, 400, 403, 404, 405), params=query)
        return answer.status == 200

    async def upload(self, name: str, data: bytes) -> None:
        """Put a file among the host's inputs, unless one of this name is there.

        Args:
            name: One that tells the content, as by its hash: what is there is taken for the same.
            data: Its content.

        Raises:
            ServerError: The host does not take it, or gives it another name.
        """
        if await self.has_input(name):
            return
        files = {"image": (name, data, "application/octet-stream")}
        answer = await self._request(
            "POST", "/upload/image", sending=len(data), files=files, data={"type": "input", "overwrite": "false"}
        )
        given = a_text(object_of(answer).get("name"), "the name of the uploaded file", 1000)
        if given != name:
            raise ServerError(
                f"{self.base_url} has another file named {name} among its inputs, and saved ours as "
                f"{printable(given)}; "
                "remove both there and run it again"
            )

    async def _request(
        self,
        method: str,
        path: str,
        accept: tuple[int, ...] = (200,),
        limit: int = MAX_ANSWER,
        sending: int = 0,
        sink: ReceivedFile | None = None,
        **kwargs: Any,
    ) -> Answer:
        # Asking again changes nothing; a second submission might.
        waits = list(_RETRIES_S if method in ("GET", "HEAD") else _RETRIES_S[:1])
        call = Call(method, self.base_url, path, self._timeout, limit, sending)
        while True:
            await asyncio.sleep(waits.pop(0))
            try:
                answer = await exchange(self._http, call, sink.begin() if sink else None, **kwargs)
                return check_status(answer, accept, self._hide(answer.body.decode("utf-8", "replace")))
            except httpx.ConnectError as error:
                detail = self._hide(str(error))
                raise ServerError(f"no server answers at {self.base_url} ({detail}); {_way_out(detail)}") from error
            except httpx.TransportError as error:
                if waits and not isinstance(error, httpx.TimeoutException):  # waiting once is enough
                    continue
                detail = self._hide(printable(str(error), 300)) or type(error).__name__
                raise ConnectionLostError(f"{call.where} broke off: {detail}; look into the server's log") from error

    def _hide(self, text: str) -> str:
        return self._address.hide(text, self._access)


def object_of(answer: Answer) -> dict[str, Any]:
    """The JSON object in an answer; raises ServerError where there is none."""
    return parse_object(answer.body, answer.where)


def _way_out(detail: str) -> str:
    if "CERTIFICATE_VERIFY_FAILED" in detail:
        return "for a self-signed certificate, name its file by --ca-file"
    return "start it or check the address"
