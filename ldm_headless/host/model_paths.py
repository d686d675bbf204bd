"""The folders of a private host: its models as ComfyUI's file of more paths, and paths that it cannot be in.

Imports the check of texts and the errors only.
"""

from collections.abc import Iterable
from pathlib import Path

from ldm_backend.errors import is_text, printable

from ..errors import HostError

_SETTINGS = (
    "base_path",
    "is_default",
)  # what ComfyUI takes for settings among the kinds of models: no kind has the name


def check_paths(checkout: Path, base_directory: Path) -> None:
    """Refuse paths that ComfyUI does not get on with, before anything starts.

    Raises:
        HostError: A line break, or bytes that are no text, in the path of the checkout or of the host's own folder.
    """
    for path, way_out in ((checkout, "move ComfyUI elsewhere"), (base_directory, "set TMPDIR to another folder")):
        if not _is_plain(str(path)):
            raise HostError(
                f"no private ComfyUI can work in {printable(str(path))!r}, which holds a line break or bytes that are "
                f"no UTF-8 text; {way_out}"
            )


def write_model_paths(models: Path, file: Path) -> None:
    """Name every folder of the checkout's models after its kind.

    Whole paths, as ComfyUI would take `$NAME` in a common one for a variable.
    """
    folders = sorted(path for path in models.iterdir() if path.is_dir()) if models.is_dir() else []
    kinds = [path for path in folders if path.name not in _SETTINGS and _is_plain(path.name)]
    file.write_text("checkout:\n" + "".join(_lines(kinds)) if kinds else "{}", encoding="ascii")


def _lines(folders: Iterable[Path]) -> Iterable[str]:
    for path in folders:
        yield f"  ? {_yaml(path.name)}\n  : {_yaml(str(path))}\n"  # so that a key may be longer than 1024 characters


def _yaml(text: str) -> str:
    """A text as YAML in ASCII. JSON's escapes are other ones: two for a character beyond U+FFFF."""
    plain = (char if char.isalnum() and char.isascii() or char in " ./-_" else f"\\U{ord(char):08X}" for char in text)
    return f'"{"".join(plain)}"'


def _is_plain(text: str) -> bool:
    return is_text(text) and "\n" not in text
