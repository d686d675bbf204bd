"""The host's output folder: numbered names, and the texts that the host writes into what it saves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import folder_paths
from comfy.cli_args import args


@dataclass(frozen=True)
class Output:
    """A file to be written; `subfolder` is relative to the output folder, as the browser wants it."""

    path: Path
    subfolder: str


def new_outputs(prefix: str, ending: str, width: int = 0, height: int = 0) -> Iterator[Output]:
    """Free numbered names below the output folder, one after the other; the folder is listed once.

    Args:
        prefix: may hold subfolders and the host's %placeholders%; the host refuses one that leaves the output folder.
        ending: for example ".png".
        width: of the image, for placeholders.
        height: likewise.
    """
    folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(
        prefix, folder_paths.get_output_directory(), width, height
    )
    for number in count(counter):
        path = Path(folder, f"{name}_{number:05}_{ending}")
        # The host numbers by what it finds; another writer may have been quicker.
        if not path.exists():
            yield Output(path, subfolder)


def workflow_texts(hidden: Any) -> dict[str, str]:
    """What the host itself writes into a saved image: `prompt`, `workflow` and other extra texts, each as JSON.

    Empty when the user has switched metadata off.
    """
    if args.disable_metadata or hidden is None:
        return {}
    texts = {"prompt": hidden.prompt} if hidden.prompt is not None else {}
    texts |= hidden.extra_pnginfo or {}
    return {name: json.dumps(value) for name, value in texts.items()}
