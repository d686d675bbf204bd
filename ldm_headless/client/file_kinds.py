"""Kinds of files that are taken from a server or given to one: a closed list of extensions, and what each begins with.

Standard library only. A login page, an empty answer or a script is none of them, whatever a server calls it.
"""

import struct
from collections.abc import Callable
from pathlib import PurePosixPath

HEAD = 4096
"""Bytes of a file from which its kind is told."""


def _starts(*magics: bytes, at: int = 0) -> Callable[[bytes], bool]:
    return lambda head: head[at:].startswith(magics)


def _riff(form: bytes) -> Callable[[bytes], bool]:
    return lambda head: head[:4] in (b"RIFF", b"RF64") and head[8:12] == form


def _is_text(head: bytes) -> bool:
    try:
        text = head.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:  # the last character may be cut
            return False
        text = head[: error.start].decode("utf-8-sig")
    return bool(text.strip()) and "\0" not in text and not text.lstrip().startswith("<")


def _is_json(head: bytes) -> bool:
    return _is_text(head) and head.removeprefix(b"\xef\xbb\xbf").lstrip()[:1] in (b"{", b"[")


def _is_svg(head: bytes) -> bool:
    return head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<") and b"<svg" in head and b"<html" not in head.lower()


def _is_safetensors(head: bytes) -> bool:
    return len(head) > 8 and 2 <= struct.unpack_from("<Q", head)[0] <= 100 * 2**20 and head[8:9] == b"{"


def _is_stl(head: bytes) -> bool:
    return head.startswith(b"solid") or (len(head) >= 84 and not head.lstrip().startswith(b"<"))


def _is_mp3(head: bytes) -> bool:
    return head.startswith(b"ID3") or (len(head) > 1 and head[0] == 0xFF and head[1] & 0xE0 == 0xE0)


_MP4 = _starts(b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", at=4)
_ZIP = _starts(b"PK\x03\x04", b"PK\x05\x06")
_MATROSKA = _starts(b"\x1a\x45\xdf\xa3")

PICTURES: dict[str, Callable[[bytes], bool]] = {
    ".png": _starts(b"\x89PNG\r\n\x1a\n"),
    ".apng": _starts(b"\x89PNG\r\n\x1a\n"),
    ".jpg": _starts(b"\xff\xd8\xff"),
    ".jpeg": _starts(b"\xff\xd8\xff"),
    ".webp": _riff(b"WEBP"),
    ".gif": _starts(b"GIF87a", b"GIF89a"),
    ".avif": _MP4,
    ".bmp": _starts(b"BM"),
    ".tif": _starts(b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    ".tiff": _starts(b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    ".exr": _starts(b"\x76\x2f\x31\x01"),
    ".hdr": _starts(b"#?"),
    ".jxl": _starts(b"\xff\x0a", b"\x00\x00\x00\x0cJXL "),
    ".svg": _is_svg,
}
VIDEOS = {".mp4": _MP4, ".m4v": _MP4, ".mov": _MP4, ".webm": _MATROSKA, ".mkv": _MATROSKA, ".avi": _riff(b"AVI ")}
SOUNDS = {
    ".wav": _riff(b"WAVE"),
    ".flac": _starts(b"fLaC", b"ID3"),
    ".mp3": _is_mp3,
    ".ogg": _starts(b"OggS"),
    ".opus": _starts(b"OggS"),
    ".m4a": _MP4,
    ".aac": _starts(b"\xff\xf1", b"\xff\xf9", b"ID3"),
    ".aif": _starts(b"FORM"),
    ".aiff": _starts(b"FORM"),
}
LATENTS = {".latent": _is_safetensors}
SHAPES = {
    ".glb": _starts(b"glTF"),
    ".gltf": _is_json,
    ".obj": _is_text,
    ".ply": _starts(b"ply"),
    ".stl": _is_stl,
    ".fbx": _starts(b"Kaydara FBX Binary", b";"),
    ".usdz": _ZIP,
}
_OTHERS = {
    ".safetensors": _is_safetensors,
    ".npy": _starts(b"\x93NUMPY"),
    ".npz": _ZIP,
    ".zip": _ZIP,
    ".txt": _is_text,
    ".csv": _is_text,
    ".md": _is_text,
    ".srt": _is_text,
    ".vtt": _is_text,
    ".json": _is_json,
}
KINDS: dict[str, Callable[[bytes], bool]] = PICTURES | VIDEOS | SOUNDS | LATENTS | SHAPES | _OTHERS


def extension(filename: str) -> str:
    """The extension of a name that comes from anywhere, as it stands there; empty if it is not on the list."""
    suffix = PurePosixPath(filename.replace("\\", "/")).suffix
    return suffix if suffix.lower() in KINDS else ""


def fits(filename: str, head: bytes) -> bool:
    """Whether a file of this name may begin so. False for one that is empty or whose extension is not on the list."""
    suffix = extension(filename)
    return bool(suffix) and bool(head) and KINDS[suffix.lower()](head)
