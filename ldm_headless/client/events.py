"""What the host says on its WebSocket, as one small type. Imports answers and the errors."""

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import ServerError
from .answers import parse_json

# Kinds of binary frames: a preview without, and one with, a JSON header.
_PREVIEW = 1
_PREVIEW_WITH_METADATA = 4
_FORMATS = {1: "jpeg", 2: "png"}
_MAX_JSON = 8 * 2**20  # of a frame; the longest are lists of what a node shows


@dataclass(frozen=True)
class Event:
    """One message of the host.

    Attributes:
        type: The host's own name (`executing`, `progress`, `executed`, ...), or `preview`.
        data: The host's data as sent; for a preview its metadata, empty when the host sends none.
        prompt_id: Empty when the message names no prompt.
        image: The encoded preview image, otherwise None.
    """

    type: str
    data: Mapping[str, Any] = field(default_factory=dict)
    prompt_id: str = ""
    image: bytes | None = None


def parse_frame(frame: str | bytes) -> Event | None:
    """One WebSocket frame as an event; None for kinds that are not ours to read (text pop-ups, broken frames)."""
    if isinstance(frame, str):
        return _parse_text(frame)
    if len(frame) < 8:
        return None
    kind, second = struct.unpack_from(">II", frame)
    if kind == _PREVIEW:
        return Event("preview", {"image_type": f"image/{_FORMATS.get(second, 'unknown')}"}, image=frame[8:])
    if kind == _PREVIEW_WITH_METADATA:
        data = _json(frame[8 : 8 + second])
        if data is None:
            return None
        data = data if isinstance(data, dict) else {}
        return Event("preview", data, _prompt_id(data), frame[8 + second :])
    return None


def _parse_text(frame: str) -> Event | None:
    message = _json(frame)
    if not isinstance(message, dict) or not isinstance(message.get("type"), str):
        return None
    data = message.get("data")
    data = data if isinstance(data, dict) else {}
    return Event(message["type"], data, _prompt_id(data))


def _json(text: str | bytes) -> Any:
    if len(text) > _MAX_JSON:
        return None
    try:
        return parse_json(text, "the WebSocket")
    except ServerError:
        return None


def _prompt_id(data: Mapping[str, Any]) -> str:
    found = data.get("prompt_id")
    return found if isinstance(found, str) else ""
