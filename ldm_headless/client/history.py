"""Reading the host's history of one prompt: how it ended, and which images it left. Imports the errors only."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import ExecutionError, NoImageError, PromptInterruptedError


@dataclass(frozen=True)
class ImageRef:
    """Where the host keeps one image: `type` is `output` (saved) or `temp` (previewed)."""

    filename: str
    subfolder: str
    type: str
    node_id: str


def raise_for_failure(prompt_id: str, entry: Mapping[str, Any]) -> None:
    """Return if the prompt of this history entry succeeded.

    Judged by the messages: `status_str` can be left over from the prompt before when nothing had to be executed.

    Raises:
        ExecutionError: A node failed.
        PromptInterruptedError: The prompt was interrupted.
    """
    for kind, data in (entry.get("status") or {}).get("messages", []):
        if kind == "execution_error":
            raise ExecutionError(
                str(data.get("node_id")),
                str(data.get("node_type")),
                str(data.get("exception_type")),
                str(data.get("exception_message")),
            )
        if kind == "execution_interrupted":
            raise PromptInterruptedError(
                f"prompt {prompt_id} was interrupted at node {data.get('node_id')} ({data.get('node_type')})"
            )


def image_refs(entry: Mapping[str, Any]) -> list[ImageRef]:
    """The images of a history entry."""
    return [
        ImageRef(str(image["filename"]), str(image.get("subfolder", "")), str(image.get("type", "output")), node_id)
        for node_id, output in entry.get("outputs", {}).items()
        for image in output.get("images") or []
        if isinstance(image, dict) and "filename" in image
    ]


def result_images(refs: Sequence[ImageRef]) -> list[ImageRef]:
    """Those images of a prompt that are its result: what it saved, or what it previewed if it saved nothing.

    Raises:
        NoImageError: There are none.
    """
    saved = [ref for ref in refs if ref.type == "output"] or list(refs)
    if not saved:
        raise NoImageError("the workflow ran but left no image; give it a SaveImage or PreviewImage node")
    return saved
