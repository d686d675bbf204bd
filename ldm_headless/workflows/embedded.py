"""Workflows inside pictures, videos, sounds and others: ComfyUI writes prompt and graph of what it saves into it.

Imports the errors, carriers and the JSON reader.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO

from ldm_backend.errors import printable
from ldm_backend.json_text import parse_json

from ..carriers.documents import glb_texts, safetensors_texts, svg_texts, unpacked
from ..carriers.pictures import PNG, exif_texts, png_texts
from ..carriers.sounds import flac_texts, mp3_texts, ogg_texts
from ..carriers.videos import matroska_texts, mp4_texts
from ..carriers.window import MOST_BYTES, DamagedCarrierError, Window
from ..errors import JSONError, WorkflowError

_KEYS = ("prompt", "workflow")
_HEAD = 4096
_GZIP = b"\x1f\x8b"
_BOXES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip")


@dataclass(frozen=True)
class _Carrier:
    """A kind of files: what it is called, how one begins, and its reader."""

    name: str
    begins: Callable[[bytes], bool]
    texts: Callable[[Window], Mapping[str, Any]]


_CARRIERS = (
    _Carrier("picture", lambda head: head.startswith(PNG), png_texts),
    _Carrier("picture", lambda head: head.startswith(b"\xff\xd8\xff"), exif_texts),
    _Carrier("picture", lambda head: head[:4] == b"RIFF" and head[8:12] == b"WEBP", exif_texts),
    _Carrier("picture", lambda head: head[4:12] in (b"ftypavif", b"ftypavis"), exif_texts),
    _Carrier("video", lambda head: head[4:8] in _BOXES, mp4_texts),
    _Carrier("video", lambda head: head.startswith(b"\x1a\x45\xdf\xa3"), matroska_texts),
    _Carrier("sound", lambda head: head.startswith(b"fLaC"), flac_texts),
    _Carrier("sound", lambda head: head.startswith(b"OggS"), ogg_texts),
    _Carrier("sound", lambda head: head.startswith(b"ID3"), mp3_texts),
    _Carrier("3D file", lambda head: head.startswith(b"glTF"), glb_texts),
    _Carrier("drawing", lambda head: head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"), svg_texts),
    _Carrier("safetensors file", lambda head: head[8:9] == b"{" and b"\0" in head[:8], safetensors_texts),
)


def read_document(stream: BinaryIO, source: str) -> tuple[bytes | None, dict[str, Any]]:
    """What a file holds: a text, or what it carries: `prompt` (API format), `workflow` (UI format), both or one.

    Only metadata are read, and no file is believed when it tells how large its parts are. A graph that nothing can read
    beside a prompt is left out, and `unreadable` says why.

    Args:
        stream: The file.
        source: Its name, for messages.

    Returns:
        The text, which is to be JSON, or None where it carries the rest.

    Raises:
        WorkflowError: It is damaged, too large or carries neither.
    """
    window, name = Window(stream), "file"
    try:
        if window.head(2) == _GZIP:
            window = unpacked(window)
        head = window.head(_HEAD)
        carrier = next((each for each in _CARRIERS if each.begins(head)), None)
        if carrier is None:
            return _whole(window), {}
        name = carrier.name
        return None, _workflows(carrier.texts(window), source, name)
    except DamagedCarrierError as error:
        raise WorkflowError(
            f"{source} is a damaged {name}: {printable(str(error), 300)}; expected one that ComfyUI saved"
        ) from error


def _whole(window: Window) -> bytes:
    if window.size > MOST_BYTES:
        raise DamagedCarrierError(f"it has {window.size:,} bytes, and a workflow at most {MOST_BYTES:,}")
    return window.read(0, window.size)


def _workflows(texts: Mapping[str, Any], source: str, name: str) -> dict[str, Any]:
    found = {key: texts[key] for key in _KEYS if key in texts} or _of_comment(texts.get("comment"))
    if not found:
        raise WorkflowError(
            f"{source} carries no workflow; expected a {name} that ComfyUI saved with its metadata, "
            "not one that another program has written again"
        )
    parsed: dict[str, Any] = {}
    for key, value in found.items():
        try:
            parsed[key] = parse_json(value) if isinstance(value, str) else value
        except JSONError as error:
            if key == "prompt" or "prompt" not in found:
                raise WorkflowError(
                    f"{source} carries a workflow that is not JSON: {error}; save it again in ComfyUI"
                ) from error
            parsed["unreadable"] = f"it is not JSON: {error}"
    return parsed


def _of_comment(comment: object) -> dict[str, Any]:
    """Both out of the JSON that Video Helper Suite writes as a comment."""
    try:
        texts = parse_json(comment) if isinstance(comment, str) and comment.startswith("{") else {}
    except JSONError:
        return {}  # a comment of somebody else
    return {key: texts[key] for key in _KEYS if key in texts}
