"""Where workflows come from besides plain JSON: pictures of all kinds, latents, requests and histories."""

from __future__ import annotations

import json
import re
import struct
import zlib
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from safetensors.torch import save_file

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
