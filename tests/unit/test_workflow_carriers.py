"""Where workflows come from besides plain JSON: pictures, videos, sounds and others, requests and histories."""

from __future__ import annotations

import gzip
import json
import random
import re
import struct
import time
import zlib
from collections.abc import Callable, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import save_file

from ldm_backend.errors import LDMError
from ldm_headless.errors import WorkflowError
from ldm_headless.workflows.workflow import load_workflow

PROMPT: dict[str, Any] = {"1": {"class_type": "A", "inputs": {"name": "café 肖像"}}}
UI: dict[str, Any] = {"nodes": [], "links": [], "version": 0.4}


def chunk(kind: bytes, content: bytes, crc: int | None = None) -> bytes:
    crc = zlib.crc32(kind + content) if crc is None else crc
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)


def plain_png(tmp_path: Path) -> bytes:
    Image.new("RGB", (8, 8)).save(tmp_path / "plain.png")
    return (tmp_path / "plain.png").read_bytes()


def texts(encoding: str = "utf-8", **values: Any) -> bytes:
    return b"".join(
        chunk(b"tEXt", key.encode() + b"\0" + json.dumps(value, ensure_ascii=False).encode(encoding, "replace"))
        for key, value in values.items()
    )


def test_texts_in_utf8_are_read_as_that(tmp_path):
    """PNG says Latin-1 for tEXt, programs write UTF-8, and another reading is another prompt."""
    data = plain_png(tmp_path)
    (tmp_path / "a.png").write_bytes(data[:33] + texts(prompt=PROMPT) + data[33:])
    assert load_workflow(tmp_path / "a.png").prompt == PROMPT


def test_texts_in_latin1_are_read_as_that(tmp_path):
    data, prompt = plain_png(tmp_path), {"1": {"class_type": "A", "inputs": {"name": "café"}}}
    (tmp_path / "a.png").write_bytes(data[:33] + texts("latin-1", prompt=prompt) + data[33:])
    assert load_workflow(tmp_path / "a.png").prompt == prompt


@pytest.mark.parametrize("kind", ["webp", "jpeg"])
def test_exif_in_utf8_is_read_as_that(tmp_path, kind):
    exif = Image.Exif()
    exif[0x0110] = f"prompt:{json.dumps(PROMPT, ensure_ascii=False)}".encode()
    Image.new("RGB", (8, 8)).save(tmp_path / "a", kind, exif=exif)
    assert load_workflow(tmp_path / "a").prompt == PROMPT


@pytest.mark.parametrize("place", ["before the pixels", "behind the pixels", "behind the end", "wrong checksum"])
def test_texts_are_found_wherever_they_are(tmp_path, place):
    data, text = plain_png(tmp_path), texts(prompt=PROMPT, workflow=UI)
    end = data.index(b"IEND") - 4
    (tmp_path / "a.png").write_bytes(
        {
            "before the pixels": data[:33] + text + data[33:],
            "behind the pixels": data[:end] + text + data[end:],
            "behind the end": data + text,
            "wrong checksum": data[:33] + text[:-4] + b"\0\0\0\0" + data[33:],
        }[place]
    )
    workflow = load_workflow(tmp_path / "a.png")
    assert (workflow.prompt, workflow.ui) == (PROMPT, UI)


def test_what_follows_a_picture_does_not_matter(tmp_path):
    data = plain_png(tmp_path)
    rest = b"\xff\xff\xff\xffrest of a disk block"
    (tmp_path / "a.png").write_bytes(data[:33] + texts(prompt=PROMPT) + data[33:] + rest)
    assert load_workflow(tmp_path / "a.png").prompt == PROMPT


def test_a_text_that_grows_without_end_is_refused(tmp_path):
    data, bomb = plain_png(tmp_path), zlib.compress(bytes(200 * 2**20), 9)
    (tmp_path / "a.png").write_bytes(data[:33] + chunk(b"zTXt", b"prompt\0\0" + bomb) + data[33:])
    with pytest.raises(WorkflowError, match="64 MiB when it is unpacked"):
        load_workflow(tmp_path / "a.png")


def test_an_empty_graph_beside_a_good_prompt_is_none(tmp_path):
    info = PngInfo()
    info.add_text("prompt", json.dumps(PROMPT))
    info.add_text("workflow", "{}")
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png", pnginfo=info)
    workflow = load_workflow(tmp_path / "a.png")
    assert (workflow.prompt, workflow.ui) == (PROMPT, None)


@pytest.mark.parametrize(
    ("graph", "words"),
    [
        ('{"nodes": [{"properties": {"x": NaN}}], "links": []}', r"nodes\.0\.properties\.x is NaN or infinite"),
        ('{"nodes": [], "links": [-Infinity]}', r"links\.0 is NaN or infinite"),
        ('{"nodes": [', "it is not JSON"),
        ('{"nodes": [], "nodes": []}', "has the key 'nodes' twice"),
        ("[" * 200_000, "lists and objects lie in each other"),
        ("[1, 2]", "a JSON list, no graph in UI format"),
        ('"text"', "a JSON str, no graph in UI format"),
    ],
)
def test_a_graph_that_cannot_be_read_is_left_out_beside_a_good_prompt(tmp_path, graph, words):
    data = plain_png(tmp_path)
    text = chunk(b"tEXt", b"workflow\0" + graph.encode())
    (tmp_path / "a.png").write_bytes(data[:33] + texts(prompt=PROMPT) + text + data[33:])
    workflow = load_workflow(tmp_path / "a.png")
    assert (workflow.prompt, workflow.ui) == (PROMPT, None)
    assert re.search(rf"a\.png: .*{words}.*the prompt beside it is used", workflow.note)
    (tmp_path / "b.png").write_bytes(data[:33] + text + data[33:])
    with pytest.raises(WorkflowError, match=r"b\.png"):
        load_workflow(tmp_path / "b.png")
    (tmp_path / "c.png").write_bytes(data[:33] + texts(prompt=PROMPT, workflow=UI) + data[33:])
    assert load_workflow(tmp_path / "c.png").note == ""


def test_a_latent_carries_them_in_its_header(tmp_path):
    metadata = {"prompt": json.dumps(PROMPT), "workflow": json.dumps(UI)}
    save_file({"latent_tensor": torch.zeros(1, 4, 2, 2)}, tmp_path / "a.latent", metadata=metadata)
    workflow = load_workflow(tmp_path / "a.latent")
    assert (workflow.prompt, workflow.ui) == (PROMPT, UI)
    save_file({"latent_tensor": torch.zeros(1)}, tmp_path / "b.latent")
    with pytest.raises(WorkflowError, match=r"b\.latent carries no workflow"):
        load_workflow(tmp_path / "b.latent")


WRAPPED: dict[str, Any] = {
    "request": {"prompt": PROMPT, "client_id": "x", "extra_data": {"extra_pnginfo": {"workflow": UI}}},
    "history": {"some-id": {"prompt": [3, "some-id", PROMPT, {}, ["1"]], "outputs": {}, "status": {}}},
    "entry": {"prompt": [3, "some-id", PROMPT, {}, ["1"]], "outputs": {}, "status": {}},
}


@pytest.mark.parametrize("name", WRAPPED)
def test_requests_and_histories_hold_a_prompt(tmp_path, name):
    (tmp_path / "a.json").write_text(json.dumps(WRAPPED[name]))
    assert load_workflow(tmp_path / "a.json").prompt == PROMPT


def test_a_node_that_is_called_prompt_is_a_node(tmp_path):
    prompt = {"prompt": {"class_type": "A", "inputs": {}}}
    (tmp_path / "a.json").write_text(json.dumps(prompt))
    assert load_workflow(tmp_path / "a.json").prompt == prompt


# Files as the nodes write them: the same library, calls and places of the texts.

TEXTS = {"prompt": json.dumps(PROMPT, ensure_ascii=False), "workflow": json.dumps(UI)}
COMMENT = {"comment": json.dumps({"prompt": json.dumps(PROMPT), "workflow": UI, "CreationTime": "2025-01-01"})}
TAGS = {"movflags": "use_metadata_tags"}
Writer = Callable[[Path], None]


def video(codec: str, kind: str, texts: Mapping[str, str], options: dict[str, str] | None = None) -> Writer:
    def write(path: Path) -> None:
        av: Any = pytest.importorskip("av")  # ComfyUI requires it
        with av.open(str(path), "w", format=kind, options=options or {}) as container:
            container.metadata.update(texts)
            stream: Any = container.add_stream(codec, rate=Fraction(8))
            stream.width = stream.height = 32
            stream.pix_fmt = "yuv420p"
            for level in (0, 100, 200):
                picture = av.VideoFrame.from_ndarray(np.full((32, 32, 3), level, np.uint8))
                container.mux(stream.encode(picture.reformat(format="yuv420p")))
            container.mux(stream.encode(None))

    return write


def sound(codec: str, kind: str, texts: Mapping[str, str], options: dict[str, str] | None = None) -> Writer:
    def write(path: Path) -> None:
        av: Any = pytest.importorskip("av")  # ComfyUI requires it
        with av.open(str(path), "w", format=kind, options=options or {}) as container:
            container.metadata.update(texts)
            stream: Any = container.add_stream(codec, rate=48000, layout="mono")
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 9600), np.float32), format="flt", layout="mono")
            frame.sample_rate, frame.pts = 48000, 0
            container.mux(stream.encode(frame))
            container.mux(stream.encode(None))

    return write


def drawing(path: Path) -> None:
    text = json.dumps({"prompt": PROMPT, "workflow": UI}, indent=2, ensure_ascii=False)
    metadata = f"  <metadata>\n      <![CDATA[\n  {text}\n      ]]>\n  </metadata>"
    path.write_text(f'<?xml version="1.0"?>\n<svg xmlns="x" width="8">\n{metadata}\n<path d="M0 0"/></svg>', "utf-8")


def glb(path: Path) -> None:
    text = json.dumps({"asset": {"version": "2.0", "extras": TEXTS}}).encode()
    text += b" " * (-len(text) % 4)
    path.write_bytes(struct.pack("<4sIIII", b"glTF", 2, 20 + len(text), len(text), 0x4E4F534A) + text)


def exif(kind: str) -> Writer:
    def write(path: Path) -> None:
        tags = Image.Exif()
        tags[0x0110], tags[0x010F] = (f"{key}:{json.dumps(json.loads(text))}" for key, text in TEXTS.items())
        Image.new("RGB", (32, 32)).save(path, kind, exif=tags)

    return write


def animation(path: Path) -> None:
    info = PngInfo()
    for key, text in TEXTS.items():
        info.add(b"comf", key.encode() + b"\0" + json.dumps(json.loads(text)).encode("latin-1"), after_idat=True)
    frames = [Image.new("RGB", (8, 8), (level, 0, 0)) for level in (0, 100)]
    frames[0].save(path, "PNG", pnginfo=info, save_all=True, append_images=frames[1:])


def latent(path: Path) -> None:
    save_file({"latent_tensor": torch.zeros(1, 4, 2, 2)}, path, metadata=TEXTS)


CARRIERS: dict[str, Writer] = {
    "SaveVideo.mp4": video("h264", "mp4", TEXTS, TAGS),
    "SaveVideo.mov": video("h264", "mov", TEXTS, TAGS),
    "fragments.mp4": video("h264", "mp4", TEXTS, {"movflags": "use_metadata_tags+frag_keyframe+empty_moov"}),
    "faststart.mp4": video("h264", "mp4", TEXTS, {"movflags": "use_metadata_tags+faststart"}),
    "SaveWEBM.webm": video("libvpx-vp9", "webm", TEXTS),
    "a.mkv": video("h264", "matroska", TEXTS),
    "live.mkv": video("h264", "matroska", TEXTS, {"live": "1"}),
    "VideoCombine.mp4": video("h264", "mp4", COMMENT),
    "VideoCombine_tags.mp4": video("h264", "mp4", COMMENT, TAGS),
    "VideoCombine.mov": video("h264", "mov", COMMENT),
    "VideoCombine.webm": video("libvpx-vp9", "webm", COMMENT),
    "VideoCombine.mkv": video("h264", "matroska", COMMENT),
    "SaveAudio.flac": sound("flac", "flac", TEXTS),
    "SaveAudioOpus.opus": sound("libopus", "opus", TEXTS),
    "a.ogg": sound("libopus", "ogg", TEXTS),
    "flac.ogg": sound("flac", "ogg", TEXTS),
    "a.m4a": sound("aac", "mp4", TEXTS, TAGS),
    "SaveAudioMP3.mp3": sound("libmp3lame", "mp3", TEXTS),
    "id3v23.mp3": sound("libmp3lame", "mp3", TEXTS, {"id3v2_version": "3"}),
    "comment.mp3": sound("libmp3lame", "mp3", COMMENT),
    "SaveSVG.svg": drawing,
    "SaveGLB.glb": glb,
    "SaveLatent.latent": latent,
    "SaveAnimatedPNG.png": animation,
    "SaveAnimatedWEBP.webp": exif("webp"),
    "a.jpg": exif("jpeg"),
    "a.avif": exif("avif"),
}


@pytest.mark.parametrize("name", CARRIERS)
def test_every_file_that_nodes_write_gives_its_workflow(tmp_path: Path, name: str) -> None:
    CARRIERS[name](tmp_path / name)
    workflow = load_workflow(tmp_path / name)
    assert (workflow.prompt, workflow.ui) == (PROMPT, UI)


@pytest.mark.parametrize("name", ["SaveVideo.mp4", "SaveWEBM.webm", "SaveAudio.flac", "SaveAudioOpus.opus", "a.mkv"])
def test_a_workflow_larger_than_a_page_or_a_cluster_is_whole(tmp_path: Path, name: str) -> None:
    prompt = {"1": {"class_type": "A", "inputs": {"text": "".join(random.Random(0).choices("abcé", k=300_000))}}}
    texts = {"prompt": json.dumps(prompt, ensure_ascii=False)}
    writers = {
        ".mp4": video("h264", "mp4", texts, TAGS),
        ".webm": video("libvpx-vp9", "webm", texts),
        ".mkv": video("h264", "matroska", texts),
        ".flac": sound("flac", "flac", texts),
        ".opus": sound("libopus", "opus", texts),
    }
    writers[Path(name).suffix](tmp_path / name)
    assert load_workflow(tmp_path / name).prompt == prompt


@pytest.mark.parametrize(
    "writer",
    [
        video("h264", "mp4", {}), video("libvpx-vp9", "webm", {}), sound("flac", "flac", {}),
        sound("libopus", "opus", {"title": "x"}), sound("libmp3lame", "mp3", {"comment": "{no JSON"}),
        video("h264", "mp4", {"comment": "just words"}),
    ],
)  # fmt: skip
def test_what_carries_none_is_told(tmp_path: Path, writer: Writer) -> None:
    writer(tmp_path / "a")
    with pytest.raises(WorkflowError, match=r"a carries no workflow; expected a (video|sound)"):
        load_workflow(tmp_path / "a")


@pytest.mark.parametrize("content", [json.dumps(PROMPT), json.dumps(UI)])
def test_a_packed_workflow_is_read(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.json.gz").write_bytes(gzip.compress(content.encode()))
    workflow = load_workflow(tmp_path / "a.json.gz")
    assert json.loads(content) in (workflow.prompt, workflow.ui)


def test_a_packed_drawing_is_read(tmp_path: Path) -> None:
    drawing(tmp_path / "a.svg")
    (tmp_path / "a.svgz").write_bytes(gzip.compress((tmp_path / "a.svg").read_bytes()))
    assert load_workflow(tmp_path / "a.svgz").prompt == PROMPT


BOMBS: dict[str, tuple[Callable[[], bytes], str]] = {
    "gzip": (lambda: gzip.compress(bytes(100 * 2**20)), "64 MiB when it is unpacked"),
    "gzip in gzip": (lambda: gzip.compress(gzip.compress(b"{}")), "not JSON"),
    "gzip cut": (lambda: gzip.compress(json.dumps(PROMPT).encode())[:-6], "cannot be unpacked"),
    "gzip of many": (lambda: gzip.compress(b"") * 100_000, "not JSON"),
    "values": (lambda: b"[" + b"0," * 4_100_000 + b"0]", "more than 4,000,000 values"),
    "text": (lambda: b" " * (65 * 2**20), "a workflow at most"),
    "boxes": (lambda: struct.pack(">I4s", 8, b"free") * 1_000_000, "more than 100,000 parts"),
    "deep boxes": (
        lambda: b"".join(struct.pack(">I4s", 8 * (200_000 - n), b"moov") for n in range(200_000)), "more than 100,000"
    ),
    "a box of nothing": (lambda: struct.pack(">I4s", 8, b"free") + bytes(8) * 9, "carries no workflow"),
    "a box that is too short": (lambda: struct.pack(">I4sI4s", 8, b"free", 3, b"free"), "a length that cannot be"),
    "elements": (lambda: b"\x1a\x45\xdf\xa3\x80" + b"\xec\x80" * 1_000_000, "more than 100,000 parts"),
    "an element without end": (lambda: b"\x1a\x45\xdf\xa3\x80\xec\xff", "has no length"),
    "pages": (lambda: b"OggS" + bytes(22) + (b"\0" + b"OggS" + bytes(22)) * 200_000 + b"\0", "more than 100,000 parts"),
    "blocks": (lambda: b"fLaC" + b"\x01\0\0\0" * 1_000_000, "more than 100,000 parts"),
    "frames": (lambda: b"ID3\4\0\0\0\x7f\x7f\x7f" + b"APIC\0\0\0\0\0\0" * 209_716, "more than 100,000 parts"),
    "comments": (
        lambda: b"fLaC\x84\0\0\x0c" + struct.pack("<III", 0, 2**32 - 1, 0), "ends within its comments"
    ),
    "chunks": (lambda: b"\x89PNG\r\n\x1a\n" + chunk(b"IEND", b"") * 1_000_000, "more than 100,000 parts"),
    "a header of 4 GB": (lambda: struct.pack("<Q", 2**32) + b"{" + bytes(99), "ends within"),
    "tags without end": (lambda: b"<svg><metadata><![CDATA[" * 500_000, "ends within its metadata"),
    "spaces": (lambda: b"<svg>" + (b"<metadata>" + b" " * 900) * 50_000, "carries no workflow"),
}  # fmt: skip


@pytest.mark.parametrize("name", BOMBS)
def test_files_that_grow_or_never_end_cost_little(tmp_path: Path, name: str) -> None:
    make, message = BOMBS[name]
    (tmp_path / "a").write_bytes(make())
    start = time.process_time()
    with pytest.raises(WorkflowError, match=message):
        load_workflow(tmp_path / "a")
    assert time.process_time() - start < 5


def test_a_video_of_many_gigabytes_is_not_read(tmp_path: Path) -> None:
    CARRIERS["SaveVideo.mp4"](tmp_path / "a.mp4")
    data = (tmp_path / "a.mp4").read_bytes()
    with (tmp_path / "b.mp4").open("wb") as stream:  # a hole between the head and what describes it
        stream.write(struct.pack(">I4sQ", 1, b"mdat", 2**36))
        stream.seek(2**36)
        stream.write(data)
    start = time.process_time()
    assert load_workflow(tmp_path / "b.mp4").prompt == PROMPT
    assert time.process_time() - start < 1


MUTATIONS = 60  # of each kind of file


@pytest.mark.parametrize("name", CARRIERS)
def test_damaged_files_end_in_a_message(tmp_path: Path, name: str) -> None:
    CARRIERS[name](tmp_path / "whole")
    data, chance = (tmp_path / "whole").read_bytes(), random.Random(name)
    texts = [place for place in (data.find(b"prompt"), data.find(b"PROMPT"), data.find(b"comment"), 0) if place >= 0]
    start, messages = time.process_time(), []
    for _ in range(MUTATIONS):
        damaged = bytearray(data)
        for _ in range(chance.choice((1, 1, 3, 20))):
            near = chance.choice((chance.randrange(len(data)), chance.choice(texts) + chance.randrange(-60, 60)))
            place = max(0, min(near, len(damaged) - 1))
            match chance.randrange(4):
                case 0:
                    damaged[place] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
                case 1:
                    damaged[place : place + 4] = struct.pack(">I", chance.choice((0, 1, 7, 8, 2**31, 2**32 - 1)))
                case 2:
                    del damaged[place : place + chance.choice((1, 4, 1000))]
                case _:
                    damaged[place:place] = damaged[place : place + chance.choice((1, 8, 100))]
            damaged = damaged or bytearray(1)
        (tmp_path / "a").write_bytes(damaged)
        try:
            load_workflow(tmp_path / "a")
        except LDMError as error:
            messages.append(str(error))
    assert messages
    assert [each for each in messages if str(tmp_path / "a") not in each or not each.isprintable()] == []
    assert time.process_time() - start < 5
