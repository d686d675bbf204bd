"""The texts in the metadata of SVG, GLB and safetensors files, and what gzip has packed. Imports window and files."""

import gzip
import io
import re
import struct
import zlib
from typing import Any

from ldm_backend.json_text import parse_json

from ..errors import JSONError
from .window import MOST_BYTES, DamagedCarrierError, Window

_METADATA = re.compile(rb"<metadata[^>]{0,1000}>\s{0,1000}<!\[CDATA\[")
_END = re.compile(rb"\]\]>\s{0,1000}</metadata")


def svg_texts(window: Window) -> dict[str, Any]:
    """The JSON object in the first CDATA of a `<metadata>` of an SVG, as ComfyUI writes it.

    Raises:
        DamagedCarrierError: As its name says.
    """
    data = window.head(MOST_BYTES)
    begin = _METADATA.search(data)
    end = _END.search(data, begin.end()) if begin else None
    if begin is None:
        return {}
    if end is None:
        raise DamagedCarrierError("it ends within its metadata")
    return _object(data[begin.end() : end.start()])


def glb_texts(window: Window) -> dict[str, Any]:
    """What a GLB file says of itself (`asset.extras`).

    Raises:
        DamagedCarrierError: As its name says.
    """
    length, kind = struct.unpack("<I4s", window.read(12, 8))
    if kind != b"JSON":
        raise DamagedCarrierError("its first part is no JSON")
    asset = _object(window.read(20, length)).get("asset")
    extras = asset.get("extras") if isinstance(asset, dict) else None
    return extras if isinstance(extras, dict) else {}


def safetensors_texts(window: Window) -> dict[str, Any]:
    """The `__metadata__` of a safetensors file, as `.latent` files are.

    Raises:
        DamagedCarrierError: As its name says.
    """
    length = int.from_bytes(window.read(0, 8), "little")
    texts = _object(window.read(8, length)).get("__metadata__")
    return texts if isinstance(texts, dict) else {}


def unpacked(window: Window) -> Window:
    """What is packed in a gzip file.

    Raises:
        DamagedCarrierError: As its name says; also where it has more than `MOST_BYTES` when it is unpacked.
    """
    window.stream.seek(0)
    try:
        with gzip.GzipFile(fileobj=window.stream) as packed:
            data = packed.read(MOST_BYTES + 1)
    except (OSError, EOFError, zlib.error, struct.error) as error:
        raise DamagedCarrierError(f"it cannot be unpacked ({error})") from error
    if len(data) > MOST_BYTES:
        raise DamagedCarrierError(f"it has more than {MOST_BYTES >> 20} MiB when it is unpacked")
    return Window(io.BytesIO(data))


def _object(data: bytes) -> dict[str, Any]:
    try:
        value = parse_json(data)
    except JSONError as error:
        raise DamagedCarrierError(f"its metadata are not JSON: {error}") from error
    return value if isinstance(value, dict) else {}
