"""The host's output folder: numbered names, files that are whole or absent, and the texts that the host adds."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import folder_paths
from comfy.cli_args import args
from safetensors import SafetensorError

from ...ldm_backend.errors import SaveError, printable
from ...ldm_backend.whole_files import named_when_done


@dataclass(frozen=True)
class Output:
    """A file to be written; `subfolder` is relative to the output folder, as the browser wants it."""

    path: Path
    subfolder: str


def new_outputs(prefix: str, ending: str, width: int = 0, height: int = 0) -> Iterator[Output]:
    """Free numbered names below the output folder, one after the other; the folder is listed once.

    Args:
        prefix: May hold subfolders and the host's %placeholders%; the host refuses one that leaves the output folder.
        ending: For example ".png".
        width: Of the image, for placeholders.
        height: likewise.

    Raises:
        SaveError: The prefix is no name for a file, or its folder cannot be made or listed.
    """
    if any(unicodedata.category(letter) in ("Cc", "Cs") for letter in prefix):  # a NUL, half of a surrogate pair
        raise SaveError(f"filename_prefix is '{printable(prefix)}'; take a name without control characters.")
    try:
        folder, name, counter, subfolder, _ = folder_paths.get_save_image_path(
            prefix, folder_paths.get_output_directory(), width, height
        )
    except OSError as error:
        raise SaveError(_message(f"filename_prefix {printable(prefix)}", error)) from error
    except Exception as error:  # the host has no class for it
        raise SaveError(
            f"filename_prefix is '{printable(prefix)}'; expected a name below the output folder, and this leads out of "
            "it. Take another."
        ) from error
    for number in count(counter):
        path = Path(folder, f"{name}_{number:05}_{ending}")
        # The host numbers by what it finds; another writer may have been quicker.
        if not os.path.exists(path):  # False too for a name that no file can have; writing it tells why
            yield Output(path, subfolder)


def write_new(outputs: Iterator[Output], write: Callable[[Path], object]) -> Output:
    """Write a file under the next free name, whole or not at all; what another writer put there meanwhile stays.

    Args:
        outputs: From `new_outputs`.
        write: Writes the content into the file that it is given.

    Returns:
        The name that the file has.

    Raises:
        SaveError: The folder cannot be written, or the disk is full; and what `write` raises.
    """
    tried: list[Output] = []

    def paths() -> Iterator[Path]:
        for output in outputs:
            tried.append(output)
            yield output.path

    try:
        with named_when_done(paths()) as scratch:
            write(scratch)
    except (OSError, SafetensorError) as error:
        raise SaveError(_message(str(tried[-1].path), error)) from error
    return tried[-1]


def _message(what: str, error: OSError | SafetensorError) -> str:
    reason = getattr(error, "strerror", None) or str(error)
    return (
        f"{printable(what, 300)}: cannot be written ({reason}). Nothing was left there. Free some space, or choose "
        "another name or folder in filename_prefix."
    )


def extra_values(hidden: Any) -> list[Any] | None:
    """What the host itself writes into a saved image, unchecked: `prompt`, then what else came with the prompt.

    Args:
        hidden: Of the node.

    Returns:
        Values by name, or what a client sent in the place of such an object; None when the user has switched metadata
        off.
    """
    if args.disable_metadata or hidden is None:
        return None
    prompt = [] if hidden.prompt is None else [{"prompt": hidden.prompt}]
    return prompt if hidden.extra_pnginfo is None else [*prompt, hidden.extra_pnginfo]
