"""What the host says on its WebSocket, as one small type. Imports nothing of the project."""

import json
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

# Kinds of binary frames: a preview without, and one with, a JSON header.
_PREVIEW = 1
_PREVIEW_WITH_METADATA = 4
_FORMATS = {1: "jpeg", 2: "png"}


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
        try:
            data = json.loads(frame[8 : 8 + second])
        except ValueError:
            return None
        data = data if isinstance(data, dict) else {}
        return Event("preview", data, str(data.get("prompt_id") or ""), frame[8 + second :])
    return None


def _parse_text(frame: str) -> Event | None:
    try:
        message = json.loads(frame)
    except ValueError:
        return None
    if not isinstance(message, dict) or "type" not in message:
        return None
    data = message.get("data")
    data = data if isinstance(data, dict) else {}
    return Event(str(message["type"]), data, str(data.get("prompt_id") or ""))
