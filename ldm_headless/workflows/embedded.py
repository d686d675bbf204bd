"""Workflows inside pictures: ComfyUI writes the prompt and the graph of a picture into its metadata.

Imports the errors, and Pillow when a picture is read.
"""

import io
from typing import Any

from ..errors import JSONError, WorkflowError
from ..files.json_text import parse_json

_KEYS = ("prompt", "workflow")
_SIGNATURES = (b"\x89PNG\r\n\x1a\n", b"RIFF", b"\xff\xd8\xff")


def is_picture(data: bytes) -> bool:
    """Whether a file is a PNG, WEBP or JPEG, by its first bytes."""
    return data.startswith(_SIGNATURES)


def read_embedded(data: bytes, source: str) -> dict[str, Any]:
    """What a picture carries: `prompt` (API format), `workflow` (UI format), both or one.

    Only metadata are read, not pixels.

    Args:
        data: The file.
        source: Its name, for messages.

    Raises:
        WorkflowError: It is damaged or carries neither.
    """
    from PIL import Image

    try:
        with Image.open(io.BytesIO(data)) as image:
            texts = {str(key): value for key, value in image.info.items() if isinstance(value, str)}
            # WEBP and JPEG: EXIF texts such as "workflow:{...}", whatever their tag.
            for value in image.getexif().values():
                key, colon, text = value.partition(":") if isinstance(value, str) else ("", "", "")
                if colon:
                    texts.setdefault(key.lower(), text)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise WorkflowError(f"{source} is a damaged picture: {error}; expected one that ComfyUI saved") from error
    found = {key: texts[key] for key in _KEYS if key in texts}
    if not found:
        raise WorkflowError(
            f"{source} carries no workflow; expected a picture that ComfyUI saved with its metadata, "
            "not one that another program has written again"
        )
    try:
        return {key: parse_json(text) for key, text in found.items()}
    except JSONError as error:
        raise WorkflowError(f"{source} carries a workflow that is not JSON: {error}") from error
