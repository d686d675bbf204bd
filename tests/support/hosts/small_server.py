"""As much of a ComfyUI as `ldm run` asks for, without WebSockets, on 127.0.0.1; each answer can be replaced."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import parse_qs, urlsplit

PNG = b"\x89PNG\r\n\x1a\n" + bytes(32)
INFO = {
    "LoadImage": {"input": {"required": {"image": [["there.png"], {"image_upload": True}]}}, "output": ["IMAGE"]},
    "SaveImage": {"input": {"required": {"images": ["IMAGE"]}}, "output": [], "output_node": True},
}
PROMPT = {
    "1": {"class_type": "LoadImage", "inputs": {"image": "there.png"}},
    "2": {"class_type": "SaveImage", "inputs": {"images": ["1", 0]}, "_meta": {"title": "Save"}},
}


class SmallServer:
    """A context manager.

    Attributes:
        outputs: Of every prompt in its history.
        files: name -> content of `/view`; those of the type input too.
        answers: path (its first part) -> content, instead of the right one; bytes, or what JSON is made of.
        headers: More of each answer.
        token: What `Authorization` or the query has to hold.
        requests: Method, path with query, headers and body of all so far.
        holds: Prompts run for ever: they are in the queue, and in no history.
        silent: Method and path (its first part) of what gets no answer.
        leaves: Whether it goes away, for good, when it was given a prompt.
        drip: Of `/view`: one byte in this many seconds, for ever.
    """

    def __init__(self) -> None:
        self.outputs: Any = {"2": {"images": [{"filename": "a_1_.png", "subfolder": "", "type": "output"}]}}
        self.files: dict[str, bytes] = {"a_1_.png": PNG, "there.png": PNG}
        self.answers: dict[str, Any] = {}
        self.headers: dict[str, str] = {}
        self.token = ""
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        self.holds = False
        self.silent: tuple[str, ...] = ()
        self.leaves = False
        self.drip = 0.0
        self.closing = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"server_of_ours": self}))
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> SmallServer:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self.close()

    def close(self) -> None:
        """End, once or again."""
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()

    def _held(self) -> list[Any]:
        sent = self.requests if self.holds else ()
        bodies = [json.loads(body) for method, path, _, body in sent if (method, path) == ("POST", "/prompt")]
        return [[number, body["prompt_id"], body["prompt"], {}, []] for number, body in enumerate(bodies)]

    def right_answer(self, path: str, body: bytes) -> Any:
        """What a ComfyUI would say."""
        head, _, rest = path.lstrip("/").partition("/")
        answers: dict[str, Callable[[], Any]] = {
            "system_stats": lambda: {"system": {"comfyui_version": "0"}},
            "object_info": lambda: INFO,
            "queue": lambda: {"queue_running": self._held(), "queue_pending": []},
            "history": lambda: {} if self.holds else {rest: {"outputs": self.outputs, "status": {"messages": []}}},
            "prompt": lambda: (
                {"prompt_id": json.loads(body)["prompt_id"]}
                if body
                else {"exec_info": {"queue_remaining": len(self._held())}}
            ),
            "upload": lambda: {"name": body.partition(b'filename="')[2].partition(b'"')[0].decode()},
        }
        return answers[head]() if head in answers else None


class _Handler(BaseHTTPRequestHandler):
    server_of_ours: SmallServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:  # noqa: N802 - the name that http.server calls
        ours = self.server_of_ours
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        ours.requests.append((self.command, self.path, dict(self.headers), body))
        parts = urlsplit(self.path)
        head = parts.path.split("/")[1]
        given = [self.headers.get("Authorization", ""), *parse_qs(parts.query).get("token", [])]
        if f"{self.command} {head}" in ours.silent:
            ours.closing.wait()
            self.close_connection = True
        elif ours.token and not any(ours.token in text for text in given):
            self._send(401, f"who is {given}?".encode())
        elif head in ours.answers:
            content = ours.answers[head]
            self._send(200, content if isinstance(content, bytes) else json.dumps(content).encode())
        elif head == "view":
            name = parse_qs(parts.query)["filename"][0]
            self._send(200, ours.files[name]) if name in ours.files else self._send(404, b"")
        else:
            answer = ours.right_answer(parts.path, body)
            self._send(404 if answer is None else 200, json.dumps(answer).encode())
        if ours.leaves and self.command == "POST":
            ours.close()
        self.close_connection |= ours.closing.is_set()

    do_POST = do_HEAD = do_GET  # noqa: N815

    def log_message(self, format: str, *args: Any) -> None:
        """Silent."""

    def _send(self, status: int, body: bytes) -> None:
        ours = self.server_of_ours
        self.send_response(status)
        drips = ours.drip and self.path.startswith("/view")
        for name, value in ours.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", "1000000" if drips else str(len(body)))
        self.end_headers()
        try:
            while drips and not ours.closing.is_set():
                self.wfile.write(b"x")
                time.sleep(ours.drip)
            if self.command != "HEAD":
                self.wfile.write(body)
        except OSError:
            self.close_connection = True
