"""Workflows inside pictures and latents: ComfyUI writes prompt and graph of what it saves into its metadata.

Imports the errors, picture_texts and the JSON reader.
"""

from typing import Any

from ..errors import JSONError, WorkflowError
from ..files.json_text import parse_json
from .picture_texts import PNG, DamagedPictureError, exif_texts, png_texts

_KEYS = ("prompt", "workflow")
_SIGNATURES = (PNG, b"RIFF", b"\xff\xd8\xff")


def is_carrier(data: bytes) -> bool:
    """Whether a file is a PNG, WEBP or JPEG, or safetensors as `.latent` files are, by its first bytes."""
    return data.startswith(_SIGNATURES) or data[8:9] == b"{"


def read_embedded(data: bytes, source: str) -> dict[str, Any]:
    """What such a file carries: `prompt` (API format), `workflow` (UI format), both or one.

    Only metadata are read.

    Args:
        data: The file.
        source: Its name, for messages.

    Raises:
        WorkflowError: It is damaged or carries neither.
    """
    try:
        if data.startswith(_SIGNATURES):
            texts = png_texts(data) if data.startswith(PNG) else exif_texts(data)
        else:
            texts = _safetensors_texts(data)
    except DamagedPictureError as error:
        raise WorkflowError(f"{source} is a damaged picture: {error}; expected one that ComfyUI saved") from error
    except JSONError as error:
        raise WorkflowError(f"{source} has a damaged header ({error}); expected one that ComfyUI saved") from error
    found = {key: texts[key] for key in _KEYS if key in texts}
    if not found:
        raise WorkflowError(
            f"{source} carries no workflow; expected a picture that ComfyUI saved with its metadata, "
            "not one that another program has written again"
        )
    try:
        return {key: parse_json(text) for key, text in found.items()}
    except JSONError as error:
        raise WorkflowError(
            f"{source} carries a workflow that is not JSON: {error}; save it again in ComfyUI"
        ) from error


def _safetensors_texts(data: bytes) -> dict[str, str]:
    length = int.from_bytes(data[:8], "little")
    if length > len(data) - 8:
        raise JSONError("it ends within its header")
    header = parse_json(data[8 : 8 + length])
    texts = header.get("__metadata__") if isinstance(header, dict) else None
    return {key: text for key, text in texts.items() if isinstance(text, str)} if isinstance(texts, dict) else {}
