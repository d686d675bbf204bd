"""A hub for one model on 127.0.0.1: as much of its protocol as huggingface_hub 1.33 and 2.4 use, and faults.

Serves plain HTTP without the headers of Xet storage, as the hub does for clients without hf_xet.
"""

from __future__ import annotations

import hashlib
import json
import re
import socket
import struct
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import constants, file_download

REPO = "someone/tiny-ldm"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
CHUNK = 10 * 2**20  # huggingface_hub writes to disk in pieces of this size, so a cut loses up to as much


def ask_here(url: str, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have huggingface_hub ask that server in this process, with that cache."""
    template = constants.HUGGINGFACE_CO_URL_TEMPLATE.removeprefix(constants.ENDPOINT)
    monkeypatch.setattr(constants, "ENDPOINT", url)
    for module in (constants, file_download):  # before 1.0 the latter had a copy
        monkeypatch.setattr(module, "HUGGINGFACE_CO_URL_TEMPLATE", url + template, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)


@dataclass(frozen=True)
class Request:
    """One request as the server saw it; `start` is the first byte asked for, None without a Range."""

    method: str
    path: str
    start: int | None


class HubServer:
    """Serves the files of a folder as `REPO`, whose one commit is also its branch main.

    Attributes:
        files: path -> content; tests change it to serve another.
        described: path -> content that the descriptions (sizes, hashes) are made of; as `files` at the start.
        requests: all so far, in order.
        cut_at: path -> number of bytes after which the next transfer of that file ends; once.
        cut_with: "close": the connection is closed; "reset": it is reset; "hang": nothing more comes.
        gated: answer as for a model with conditions.
        status: of every answer instead, with no body; 0 for the usual ones.
        headers: more of them for these answers.
        described_commit: what the description says instead of the commit.
        described_entries: path -> what its entry has in place of the truth.
        behind: bytes that follow each file, and are counted in its length.
        hanging: set when a transfer hangs.
    """

    def __init__(self, folder: Path) -> None:
        paths = [path for path in folder.rglob("*") if path.is_file()]
        self.files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}
        self.described: dict[str, bytes] = dict(self.files)
        self.requests: list[Request] = []
        self.cut_at: dict[str, int] = {}
        self.cut_with = "close"
        self.gated = False
        self.status = 0
        self.headers: dict[str, str] = {}
        self.described_commit: Any = COMMIT
        self.described_entries: dict[str, dict[str, Any]] = {}
        self.behind = b""
        self.hanging = threading.Event()
        self.released = threading.Event()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), type("Handler", (_Handler,), {"hub": self}))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> HubServer:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self.released.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(10)

    def transfers(self, path: str) -> list[int | None]:
        """First bytes of all transfers of a file, None for a whole one."""
        return [r.start for r in self.requests if r.method == "GET" and r.path.endswith(f"/{COMMIT}/{path}")]


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"
    timeout = 30

    def do_GET(self) -> None:  # noqa: N802 - the name that http.server calls
        self._answer()

    def do_HEAD(self) -> None:  # noqa: N802
        self._answer()

    def log_message(self, format: str, *args: Any) -> None:
        """Silent."""

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        span = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        start = int(span[1]) if span else None
        self.hub.requests.append(Request(self.command, path, start))
        if self.hub.status:
            self._refuse(self.hub.status, self.hub.headers)
        elif match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/(.+))?", path):
            self._describe(match[1], match[2] or "revision", match[3] or "main")
        elif match := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._serve(match[1], match[2], match[3], start)
        else:
            self._refuse(404, {"X-Error-Code": "EntryNotFound"})

    def _known(self, repo: str, revision: str) -> bool:
        if repo != REPO:
            self._refuse(401, {"X-Error-Code": "RepoNotFound"})
        elif self.hub.gated:
            self._refuse(403, {"X-Error-Code": "GatedRepo"})
        elif revision not in ("main", COMMIT):
            self._refuse(404, {"X-Error-Code": "RevisionNotFound"})
        else:
            return True
        return False

    def _describe(self, repo: str, what: str, revision: str) -> None:
        if not self._known(repo, revision):
            return
        described = self.hub.described.items()
        if what == "tree":
            self._json([{"type": "file", "path": path, **_tree_entry(path, content)} for path, content in described])
        else:
            siblings = [{"rfilename": path, **_sibling_entry(path, content)} for path, content in described]
            siblings = [entry | self.hub.described_entries.get(entry["rfilename"], {}) for entry in siblings]
            self._json({"id": repo, "sha": self.hub.described_commit, "siblings": siblings})

    def _serve(self, repo: str, revision: str, path: str, start: int | None) -> None:
        if not self._known(repo, revision):
            return
        if path not in self.hub.files:
            self._refuse(404, {"X-Error-Code": "EntryNotFound"})
            return
        content = self.hub.files[path] + self.hub.behind
        body = content[start or 0 :]
        self.send_response(200 if start is None else 206)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Content-Length", str(len(body)))
        if start is not None:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        name = _sha256(self.hub.described[path]) if _is_large(path) else _git_id(self.hub.described[path])
        self.send_header("ETag", f'"{name}"')
        if _is_large(path):
            self.send_header("X-Linked-Etag", f'"{name}"')
            self.send_header("X-Linked-Size", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            end = self.hub.cut_at.pop(path, None)
            self.wfile.write(body[:end])
            if end is not None:
                self._cut()

    def _cut(self) -> None:
        self.wfile.flush()
        self.close_connection = True
        if self.hub.cut_with == "hang":
            self.hub.hanging.set()
            self.hub.released.wait(30)
        elif self.hub.cut_with == "reset":
            # Closing a socket that lingers for 0 seconds sends RST; http.server would first say goodbye properly.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()

    def _json(self, data: object) -> None:
        body = json.dumps(data).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _refuse(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()


def _is_large(path: str) -> bool:
    return not path.endswith(".json")


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def _git_id(content: bytes) -> str:
    return hashlib.sha1(f"blob {len(content)}\0".encode() + content, usedforsecurity=False).hexdigest()


def _tree_entry(path: str, content: bytes) -> dict[str, Any]:
    lfs = {"oid": _sha256(content), "size": len(content), "pointerSize": 134}
    return {"size": len(content), "oid": _git_id(content)} | ({"lfs": lfs} if _is_large(path) else {})


def _sibling_entry(path: str, content: bytes) -> dict[str, Any]:
    lfs = {"sha256": _sha256(content), "size": len(content), "pointerSize": 134}
    return {"size": len(content), "blobId": _git_id(content)} | ({"lfs": lfs} if _is_large(path) else {})
