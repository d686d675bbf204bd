"""One workflow on one server: submit, follow, save the images. Imports the client, workflow and the errors."""

import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .client import ComfyClient, Event, ImageRef
from .errors import HeadlessError
from .workflow import Prompt


def run_workflow(
    client: ComfyClient,
    prompt: Prompt,
    out_dir: Path,
    ui_workflow: Mapping[str, Any] | None = None,
    on_event: Callable[[Event], None] | None = None,
) -> list[Path]:
    """Run a prompt and save its images as the host wrote them.

    Args:
        client: Connected to the server.
        prompt: In API format.
        out_dir: Made if missing. No file in it is overwritten: a taken name gets a number.
        ui_workflow: The same graph in UI format, which the host then writes into the images.
        on_event: Told about progress.

    Returns:
        The new files. Previews count only where a workflow saves nothing.

    Raises:
        HeadlessError: What `ComfyClient.submit`, `follow` and `fetch` raise, or the workflow made no image. The prompt
            is cancelled when this call is interrupted.
    """
    extra_data = {"extra_pnginfo": {"workflow": ui_workflow}} if ui_workflow is not None else None
    prompt_id = client.submit(prompt, extra_data)
    try:
        client.follow(prompt_id, on_event)
    except KeyboardInterrupt:
        client.cancel(prompt_id)
        raise
    refs = client.outputs(prompt_id)
    refs = [ref for ref in refs if ref.type == "output"] or refs
    if not refs:
        raise HeadlessError("the workflow ran but left no image; give it a SaveImage or PreviewImage node")
    out_dir.mkdir(parents=True, exist_ok=True)
    return [_save(client.fetch(ref), out_dir, ref) for ref in refs]


def _save(data: bytes, out_dir: Path, ref: ImageRef) -> Path:
    """Write under the host's file name, or the next free one, whole or not at all."""
    # The name comes from a server: it must not lead out of the folder.
    name = Path(ref.filename.replace("\\", "/")).name
    name = "image" if name in ("", "..") else name
    handle, scratch = tempfile.mkstemp(dir=out_dir, prefix=".partial-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        os.chmod(scratch, 0o644)
        target = _free_name(out_dir / name)
        os.replace(scratch, target)
    finally:
        Path(scratch).unlink(missing_ok=True)
    return target


def _free_name(path: Path) -> Path:
    number, candidate = 1, path
    while candidate.exists():
        number += 1
        candidate = path.with_stem(f"{path.stem}-{number}")
    return candidate
