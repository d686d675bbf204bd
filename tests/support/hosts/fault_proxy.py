"""A TCP proxy between a client and a real ComfyUI, with faults on request."""

from __future__ import annotations

import socket
import threading
import time
from contextlib import suppress
from types import TracebackType
from urllib.parse import urlsplit


class FaultProxy:
    """Passes connections on to a host.

    Attributes:
        url: Of the proxy; stays the same when the target changes.
        target: Address of the host; None refuses every connection.
        swallow_submissions: So many next POST /prompt reach the host, and their answers do not reach the client.
        delay: Seconds that each piece of an answer is held back.
    """

    def __init__(self, target: str | None) -> None:
        self.target = target
        self.swallow_submissions = 0
        self.delay = 0.0
        self._sockets: set[tuple[socket.socket, socket.socket]] = set()
        self._web_sockets: set[socket.socket] = set()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._server.getsockname()[1]}"

    def __enter__(self) -> FaultProxy:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self._server.close()
        self.cut()

    def cut(self) -> None:
        """Cut every connection."""
        for pair in list(self._sockets):
            for end in pair:
                _shut(end)

    def cut_web_sockets(self) -> int:
        """Cut every WebSocket, and tell how many there were."""
        cut = [end for end in list(self._web_sockets) if _shut(end)]
        self._web_sockets.clear()
        return len(cut)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._server.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        try:
            address = urlsplit(self.target or "http://127.0.0.1:1")
            host = socket.create_connection((address.hostname, address.port), 10)
            host.settimeout(None)
        except OSError:
            client.close()
            return
        state = {"swallow": False}
        self._sockets.add((client, host))
        back = threading.Thread(target=self._answers, args=(host, client, state), daemon=True)
        back.start()
        with suppress(OSError):
            while data := client.recv(65536):
                if data.startswith(b"GET /ws"):
                    self._web_sockets.add(client)
                if data.startswith(b"POST /prompt ") and self.swallow_submissions:
                    self.swallow_submissions -= 1
                    state["swallow"] = True
                host.sendall(data)
        _shut(host)
        back.join()
        self._sockets.discard((client, host))
        for end in (client, host):
            end.close()

    def _answers(self, host: socket.socket, client: socket.socket, state: dict[str, bool]) -> None:
        with suppress(OSError):
            while data := host.recv(65536):
                if state["swallow"]:
                    break
                time.sleep(self.delay)
                client.sendall(data)
        _shut(client)


def _shut(end: socket.socket) -> bool:
    try:
        end.shutdown(socket.SHUT_RDWR)
    except OSError:
        return False
    return True
