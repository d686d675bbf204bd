"""Reading the host's history of one prompt: how it ended, and what it left. Imports answers, file_kinds, the errors."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ldm_backend.errors import printable

from ..errors import ExecutionError, NoImageError, PromptInterruptedError
from .answers import a_list, a_text, an_object
from .file_kinds import SHAPES, extension

_STORES = ("output", "temp")
_DISPLAY = ("animated", "camera_info")  # how the editor shows what else is there
_MAX_NAME = 1000


@dataclass(frozen=True)
class FileRef:
    """Where the host keeps one file: `type` is `output` (saved) or `temp` (previewed), `kind` the host's word for it.

    Kinds are `images`, `audio`, `gifs`, `latents`, `3d` and whatever a pack calls its own.
    """

    filename: str
    subfolder: str
    type: str
    node_id: str
    kind: str = "images"


ImageRef = FileRef  # what it was called when it was images alone


@dataclass(frozen=True)
class TextOutput:
    """A text or number that a node shows."""

    node_id: str
    text: str


@dataclass(frozen=True)
class Outputs:
    """What a prompt left.

    Attributes:
        files: All, in the order in which the host lists its nodes.
        texts: All.
        left: In words, what is neither.
        cached: Whether the host took nodes of it from its cache.
    """

    files: tuple[FileRef, ...] = ()
    texts: tuple[TextOutput, ...] = ()
    left: tuple[str, ...] = ()
    cached: bool = False


def raise_for_failure(prompt_id: str, entry: Mapping[str, Any]) -> None:
    """Return if the prompt of this history entry succeeded.

    Judged by the messages: `status_str` can be left over from the prompt before when nothing had to be executed.

    Raises:
        ExecutionError: A node failed.
        PromptInterruptedError: The prompt was interrupted.
        ServerError: This is no entry of a ComfyUI.
    """
    for kind, data in _messages(entry):
        if kind == "execution_error":
            fields = ("node_id", "node_type", "exception_type", "exception_message")
            raise ExecutionError(*(a_text(data.get(field, "?"), f"the history's {field}") for field in fields))
        if kind == "execution_interrupted":
            node, node_type = (printable(str(data.get(field))) for field in ("node_id", "node_type"))
            raise PromptInterruptedError(
                f"prompt {prompt_id} was interrupted at node {node} ({node_type}); run it again"
            )


def read_outputs(entry: Mapping[str, Any]) -> Outputs:
    """What a history entry says that the prompt left.

    Raises:
        ServerError: This is no entry of a ComfyUI.
    """
    files: dict[tuple[str, str, str], FileRef] = {}
    texts: list[TextOutput] = []
    left: list[str] = []
    for node_id, output in an_object(entry.get("outputs"), "the history's outputs").items():
        for kind, values in an_object(output, f"the history's output of node {printable(node_id)}").items():
            for found in _read_values(node_id, kind, values if isinstance(values, list) else [values]):
                if isinstance(found, FileRef):
                    files.setdefault((found.filename, found.subfolder, found.type), found)
                elif isinstance(found, TextOutput):
                    texts.append(found)
                else:
                    left.append(found)
    cached = any(kind == "execution_cached" and data.get("nodes") for kind, data in _messages(entry))
    return Outputs(tuple(files.values()), tuple(dict.fromkeys(texts)), tuple(dict.fromkeys(left)), cached)


def result_of(outputs: Outputs) -> Outputs:
    """That part of the outputs which is the result: of each kind what was saved, or what was previewed if nothing was.

    Files whose extension is not on the list of `file_kinds` are left.

    Raises:
        NoImageError: There is neither a file nor a text.
    """
    saved = {ref.kind for ref in outputs.files if ref.type == "output"}
    wanted = [ref for ref in outputs.files if ref.type == "output" or ref.kind not in saved]
    files = tuple(ref for ref in wanted if extension(ref.filename))
    left = (*outputs.left, *(f"{_place(ref)}, whose kind is not taken" for ref in wanted if ref not in files))
    if not files and not outputs.texts:
        raise NoImageError(_nothing(outputs.cached, left))
    return Outputs(files, outputs.texts, left, outputs.cached)


def _nothing(cached: bool, left: Sequence[str]) -> str:
    text = "the workflow ran but left no image, no other file and no text"
    if left:
        return f"{text} that is taken, only {', '.join(left[:5])}; see docs/headless.md for the kinds of files"
    if cached:
        return (
            f"{text}: the server answered from its cache, and no longer tells what it had made. Change a seed or "
            'another value, or empty its cache (POST /free with {"free_memory": true}) and run it again'
        )
    return f"{text}; give it a SaveImage or PreviewImage node, or another one that saves"


def _place(ref: FileRef) -> str:
    return f"{printable(ref.filename)} of node {printable(ref.node_id)}"


def _messages(entry: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    status = an_object(entry.get("status"), "the history's status")
    for message in a_list(status.get("messages"), "the history's messages"):
        pair = a_list(message, "a message of the history")
        if len(pair) == 2 and isinstance(pair[1], dict):  # others tell nothing that decides
            yield str(pair[0])[:100], pair[1]


def _read_values(node_id: str, kind: str, values: Sequence[Any]) -> Iterator[FileRef | TextOutput | str]:
    if kind in _DISPLAY:
        return
    node = a_text(node_id, "a node id", _MAX_NAME)
    for value in values:
        if isinstance(value, dict) and isinstance(value.get("filename"), str):
            yield _file(node, kind, value)
        elif kind == "result" and isinstance(value, str) and extension(value).lower() in SHAPES:
            folder, _, name = value.replace("\\", "/").rpartition("/")  # a 3D view names its file only
            yield _file(node, "3d", {"filename": name, "subfolder": folder})
        elif isinstance(value, str | int | float) and value != "":
            yield TextOutput(node, a_text(str(value) if isinstance(value, bool) else value, "a text", 2**20))
        elif value is not None and value != "" and kind != "result":
            yield f"what node {printable(node)} shows as {printable(kind)}"


def _file(node: str, kind: str, value: Mapping[str, Any]) -> FileRef | str:
    where = f"a file of node {printable(node)}"
    name = a_text(value["filename"], where, _MAX_NAME)
    folder = a_text(value.get("subfolder") or "", f"the folder of {where}", _MAX_NAME)
    store = a_text(value.get("type") or "output", f"the type of {where}", _MAX_NAME)
    if store not in _STORES:
        return f"{printable(name)} of node {printable(node)}, a file of {printable(store)}"
    return FileRef(name, folder, store, node, a_text(kind, where, _MAX_NAME))
