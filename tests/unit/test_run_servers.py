"""`ldm run` with small servers: what they leave, what they answer wrongly, secrets, uploads.

`LDM_SERVER_ANSWERS=2000` makes the random test that long.
"""

from __future__ import annotations

import asyncio
import errno
import gzip
import json
import os
import random
import struct
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from small_server import PNG, PROMPT, SmallServer

from ldm_headless import cli
from ldm_headless.client import async_client
from ldm_headless.client.async_client import AsyncComfyClient
from ldm_headless.client.events import parse_frame
from ldm_headless.client.file_kinds import KINDS, fits
from ldm_headless.client.history import FileRef, Outputs, read_outputs, result_of
from ldm_headless.errors import ConnectionLostError, HeadlessError, NoImageError, OutputFileError, ServerError
from ldm_headless.terminal import block, cleaned

Ldm = Callable[..., tuple[int, str, str]]
ANSWERS = int(os.environ.get("LDM_SERVER_ANSWERS", "150"))


@pytest.fixture
def server() -> Iterator[SmallServer]:
    with SmallServer() as running:
        yield running


@pytest.fixture
def ldm(
    in_process: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    server: SmallServer,
) -> Ldm:
    """`ldm run` of the small prompt in this process: exit code, standard output, standard error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(async_client, "_FIRST_POLL_S", 0.01)
    (tmp_path / "p.json").write_text(json.dumps(PROMPT))

    def run(*more: str, url: str = server.url) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["ldm", "run", "p.json", "--out", "out", "--server", url, *more])
        with pytest.raises(SystemExit) as end:
            cli.main()
        out, err = capsys.readouterr()
        return int(end.value.code or 0), out, err

    return run


def ref(name: str, **more: str) -> dict[str, str]:
    return {"filename": name, "subfolder": "", "type": "output", **more}


# What is left


def test_every_file_output_is_fetched_and_texts_are_printed(ldm: Ldm, server: SmallServer, tmp_path: Path) -> None:
    server.files |= {"s.flac": b"fLaC1", "v.mp4": b"\0\0\0\x18ftypmp42", "m.glb": b"glTF\2"}
    server.files["x.latent"] = struct.pack("<Q", 2) + b"{}"
    server.outputs = {
        "2": {"audio": [ref("s.flac")], "gifs": [ref("v.mp4", format="video/h264")]},
        "5": {"latents": [ref("x.latent")], "3d": [ref("m.glb")], "text": ["hello\x1b]0;title\x07"]},
        "6": {"odd": [{"camera": 1}], "animated": [True], "images": [ref("conftest.py")]},
    }
    status, out, err = ldm()
    assert status == 0, err
    assert sorted(Path(line).name for line in out.splitlines()) == ["m.glb", "s.flac", "v.mp4", "x.latent"]
    assert "node 5: hello\\x1b]0;title\\x07" in err
    assert "not fetched: what node 6 shows as odd" in err
    assert "not fetched: conftest.py of node 6" in err
    assert not list(tmp_path.rglob("*conftest*"))
    submissions = [method for method, *_ in server.requests].count("POST")
    assert ldm()[:2] == (0, out)  # and the repeat runs nothing
    assert [method for method, *_ in server.requests].count("POST") == submissions


def test_a_text_alone_is_the_result(ldm: Ldm, server: SmallServer) -> None:
    server.outputs = {"2": {"text": ["a cat"]}}
    assert ldm()[:2] == (0, "a cat\n")
    assert ldm()[:2] == (0, "a cat\n")


def test_previews_count_where_nothing_of_their_kind_was_saved() -> None:
    files = (FileRef("a.png", "", "temp", "1"), FileRef("b.png", "", "output", "2"))
    sound = FileRef("s.flac", "", "temp", "3", "audio")
    assert result_of(Outputs((*files, sound))).files == (files[1], sound)
    with pytest.raises(NoImageError, match=r"answered from its cache.*/free"):
        result_of(Outputs(cached=True))
    entry = {"outputs": {"3": {"result": ["3d/m.glb", {"camera": 1}]}}}
    assert read_outputs(entry).files == (FileRef("m.glb", "3d", "output", "3", "3d"),)


def test_a_picture_that_is_gone_is_told_as_that(ldm: Ldm, server: SmallServer) -> None:
    server.files.clear()
    server.files["there.png"] = PNG
    status, out, err = ldm()
    assert (status, out) == (1, "")
    assert "no longer has its file a_1_.png (node 2)" in err
    assert "Change a seed" in err
    server.files["a_1_.png"] = PNG
    assert ldm()[0] == 0


# What is no such file


@pytest.mark.parametrize("content", [b"", b"<!DOCTYPE html><html>log in</html>", b"\xff\xd8\xff", b"#!/bin/sh"])
def test_what_is_no_such_file_is_not_saved(ldm: Ldm, server: SmallServer, content: bytes, tmp_path: Path) -> None:
    server.files["a_1_.png"] = content
    status, out, err = ldm()
    assert (status, out) == (1, ""), err
    assert "a_1_.png (node 2)" in err
    assert not list(tmp_path.rglob("*.png"))
    assert [path.name for path in (tmp_path / "out").glob(".ldm-partial*")] == []
    server.files["a_1_.png"] = PNG
    assert ldm()[0] == 0


def test_no_kind_takes_a_page_or_nothing() -> None:
    for suffix in KINDS:
        for content in (b"", b"<!DOCTYPE html>\n<html><body>log in</body></html>" + bytes(100), b"<html>" + b"x" * 200):
            assert not fits(f"x{suffix}", content), suffix


def test_a_file_above_the_limit_is_refused(ldm: Ldm, server: SmallServer, tmp_path: Path) -> None:
    server.files["a_1_.png"] = PNG + bytes(5000)
    status, _, err = ldm("--max-file", "0.000001")
    assert (status, "larger than 1,000 bytes; allow that with --max-file" in err) == (1, True)
    assert not list(tmp_path.rglob("*.png"))


def test_a_packed_bomb_costs_little(server: SmallServer) -> None:
    server.headers["Content-Encoding"] = "gzip"
    server.answers["system_stats"] = gzip.compress(bytes(200 * 2**20), 1)

    async def ask() -> None:
        async with AsyncComfyClient(server.url) as client:
            await client.system_stats()

    with pytest.raises(ServerError, match="answers with more than"):
        asyncio.run(ask())
    server.headers["Content-Encoding"] = "gzip, gzip"
    with pytest.raises(ServerError, match="in the encoding 'gzip, gzip'"):
        asyncio.run(ask())


def test_a_dripping_body_is_given_up(server: SmallServer) -> None:
    server.drip = 0.05

    async def fetch() -> None:
        async with AsyncComfyClient(server.url, timeout=0.4) as client:
            await client.fetch(FileRef("a_1_.png", "", "output", "2"))

    started = time.monotonic()
    with pytest.raises(ConnectionLostError, match="bytes came in"):
        asyncio.run(fetch())
    assert time.monotonic() - started < 3


# A report that the disk refuses


@pytest.mark.parametrize(("broken", "status"), [(False, 2), (True, 1)])
def test_a_report_on_a_full_disk_costs_nothing_else(
    monkeypatch: pytest.MonkeyPatch, ldm: Ldm, server: SmallServer, tmp_path: Path, broken: bool, status: int
) -> None:
    """The paths of what was made are printed, and a job that failed is told first."""

    def full(path: Path, data: bytes) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("ldm_headless.run.report.write_whole", full)
    if broken:
        server.files["a_1_.png"] = b"<html>"
    code, out, err = ldm("--report", "r.json")
    assert code == status
    assert "cannot write the report r.json: No space left on device; what was made is saved" in err
    assert out.split() == ([] if broken else [str(tmp_path / "out" / "a_1_.png")])
    assert ("a_1_.png" in err) == broken
    assert err.rstrip().endswith("check its rights") != broken


# Secrets


@pytest.mark.parametrize("way", ["environment", "file", "query", "user"])
def test_secrets_are_sent_and_never_shown(
    ldm: Ldm, server: SmallServer, way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = server.token = "s3cret-token"  # noqa: S105
    status, _, err = ldm()
    assert (status, "LDM_SERVER_TOKEN" in err) == (4, True)
    url, more = server.url, ["--report", "r.json"]
    if way == "environment":
        monkeypatch.setenv("LDM_SERVER_TOKEN", secret)
    elif way == "file":
        (tmp_path / "headers").write_text(f"# mine\nAuthorization: Bearer {secret}\n")
        more += ["--header-file", "headers"]
    elif way == "query":
        url += f"/?token={secret}"
    else:
        server.token = "dTpzM2NyZXQtdG9rZW4="  # noqa: S105 - u and the secret in Base64
        url = url.replace("//", f"//u:{secret}@")
    texts = [ldm(*more, url=url)]
    assert texts[0][0] == 0, texts
    server.token = "another"  # noqa: S105 - refused now, and the refusal repeats ours
    texts.append(ldm("--fresh", *more, url=url))
    assert texts[1][0] == 4
    kept = "".join(path.read_text(errors="replace") for path in tmp_path.rglob("*") if path.is_file())
    shown = "".join(part for _, *parts in texts for part in parts)
    assert secret not in shown + kept.replace(f"Bearer {secret}", "")
    assert "dTpzM2NyZXQtdG9rZW4=" not in shown + kept


def test_a_bad_header_file_is_told_without_its_values(ldm: Ldm, tmp_path: Path) -> None:
    (tmp_path / "headers").write_text("s3cret-token\n")
    status, _, err = ldm("--header-file", "headers")
    assert (status, "line 1: expected" in err, "s3cret" in err) == (2, True, False)
    status, _, err = ldm("--ca-file", "headers")
    assert (status, "cannot read certificates" in err) == (2, True)


# Uploads


def test_a_local_picture_is_uploaded_once_under_its_hash(ldm: Ldm, server: SmallServer, tmp_path: Path) -> None:
    (tmp_path / "mine.png").write_bytes(PNG + b"mine")
    status, _, err = ldm("--dry-run", "--set", "1.image=mine.png")
    assert (status, "would be uploaded" in err) == (0, True), err
    assert not any(path.startswith("/upload") for _, path, *_ in server.requests)
    status, _, err = ldm("--set", "1.image=mine.png")
    assert status == 0, err
    (upload,) = [body for _, path, _, body in server.requests if path.startswith("/upload")]
    name = upload.partition(b'filename="')[2].partition(b'"')[0].decode()
    assert name.startswith("ldm-")
    assert PNG + b"mine" in upload
    submitted = [
        json.loads(body) for method, path, _, body in server.requests if method == "POST" and "/prompt" in path
    ]
    assert submitted[-1]["prompt"]["1"]["inputs"]["image"] == name
    server.files[name] = PNG + b"mine"
    assert ldm("--fresh", "--set", "1.image=mine.png")[0] == 0
    assert sum(path.startswith("/upload") for _, path, *_ in server.requests) == 1


def test_a_workflow_does_not_choose_what_is_sent(ldm: Ldm, server: SmallServer, tmp_path: Path) -> None:
    """Only pictures below its folder; others are told as missing."""
    outside = tmp_path.parent / f"{tmp_path.name}-outside.png"
    outside.write_bytes(PNG)
    (tmp_path / "secret.png").write_text("a key")
    (tmp_path / "beside.png").write_bytes(PNG)
    for value, there in (
        (str(outside), False),
        (f"../{outside.name}", False),
        ("secret.png", False),
        ("beside.png", True),
    ):
        prompt = {**PROMPT, "1": {"class_type": "LoadImage", "inputs": {"image": value}}}
        (tmp_path / "p.json").write_text(json.dumps(prompt))
        status, _, err = ldm("--dry-run")
        assert (status, "is neither among the server's inputs" in err) == ((0, False) if there else (3, True)), err
    outside.unlink()
    status, _, err = ldm("--set", "1.image=secret.png")
    assert (status, "expected a file that is one of .png" in err) == (2, True)


# The terminal


def test_nothing_steers_the_terminal_or_speaks_for_us(ldm: Ldm, server: SmallServer) -> None:
    evil = "bad\x1b]0;t\x07\x9b2J\u202e\r\nldm: all is well"
    server.answers["prompt"] = {"error": {"type": "t", "message": evil}, "node_errors": {}}
    status, _, err = ldm()
    assert status == 3
    assert not set(err) & set("\x1b\x07\x9b\u202e\r")
    assert [line for line in err.splitlines() if line.startswith("ldm:")] == [err.splitlines()[0]]
    assert cleaned("é 肖像 👩\u200d🎨 \ud800") == "é 肖像 👩\u200d🎨 \\ud800"
    assert block("a\nldm: b") == "a\n  ldm: b"


# Answers of any shape

_ODD = [None, True, 0, -1, 1e400, float("nan"), 10**300, "", "x" * 5000, "\x1b[2J\nldm: hi", "\ud800", "../../x.png"]
_ODD += [[], {}, [[]], [{}], {"": []}, [None], {"a": {"b": [1, "c"]}}, "conftest.py", {"filename": ["x"]}]
_RAW = [b"", b"<html>log in</html>", b"{", b"[" * 200_000, b'{"a":' * 900 + b"1" + b"}" * 900, b"9" * 5000, b"\xff\xfe"]


def changed(value: Any, random_: random.Random) -> Any:
    """The same with one part of it replaced or removed."""
    if isinstance(value, dict) and value and random_.random() < 0.85:
        key = random_.choice(list(value))
        if random_.random() < 0.1:
            return {name: part for name, part in value.items() if name != key}
        return {**value, key: changed(value[key], random_)}
    if isinstance(value, list) and value and random_.random() < 0.85:
        index = random_.randrange(len(value))
        return [*value[:index], changed(value[index], random_), *value[index + 1 :]]
    return random_.choice(_ODD)


@pytest.mark.slow
def test_random_answers_end_in_a_message(monkeypatch: pytest.MonkeyPatch, ldm: Ldm, tmp_path: Path) -> None:
    monkeypatch.setattr("ldm_headless.run.server_runner._MAX_ATTEMPTS", 1)
    outputs = {"2": {"images": [ref("a_1_.png")], "text": ["t"], "audio": [ref("a_1_.png", type="temp")]}}
    messages = [["execution_start", {}], ["execution_cached", {"nodes": ["1"]}], ["execution_success", {}]]
    for seed in range(ANSWERS):
        random_ = random.Random(seed)
        with SmallServer() as server:
            head = random_.choice(["system_stats", "object_info", "prompt", "history", "queue", "view", "upload"])
            right = server.right_answer(f"/{head}/", b'{"prompt_id": "p"}')
            if head == "history":
                server.outputs = changed(outputs, random_)
                entry = changed({"outputs": server.outputs, "status": {"messages": messages}}, random_)
                right_answer = server.right_answer
                server.right_answer = lambda path, body, entry=entry, old=right_answer: (  # type: ignore[method-assign]
                    {path.rpartition("/")[2]: entry} if path.startswith("/history") else old(path, body)
                )
            else:
                server.answers[head] = random_.choice(_RAW) if random_.random() < 0.2 else changed(right, random_)
            started = time.monotonic()
            status, _, err = ldm("--fresh", url=server.url)
            assert time.monotonic() - started < 5, (seed, head)
        assert status in (0, 1, 3, 4, 130), (seed, head, err)
        assert not set(err) & set("\x1b\x07\r"), (seed, head)
    kinds = {path.suffix for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert kinds <= {".png", ".jsonl", ".lock"}
    assert {path.name for path in tmp_path.iterdir()} == {"p.json", "out"}


def test_random_frames_are_passed_over_or_read() -> None:
    random_ = random.Random(0)
    message = {"type": "progress", "data": {"value": 1, "max": 2, "prompt_id": "p"}}
    for _ in range(2000):
        text = json.dumps(changed(message, random_))
        parse_frame(text)
        parse_frame(struct.pack(">II", random_.choice([1, 3, 4]), random_.choice([0, 5, 2**32 - 1])) + text.encode())
        parse_frame(random_.randbytes(random_.randrange(20)))
    for raw in _RAW:
        parse_frame(raw.decode("latin-1"))
        parse_frame(struct.pack(">II", 4, len(raw)) + raw)


def test_errors_of_files_are_of_the_family() -> None:
    assert issubclass(OutputFileError, HeadlessError)
    assert OutputFileError.exit_code == 1
