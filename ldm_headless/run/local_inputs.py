"""Files of this machine that a prompt names: found, checked, and given a name by their content for the upload.

An input takes a file where the host says so, or is the latent of LoadLatent. A name that the server does not have is
looked for here: a value of the command line as any path, and one of the workflow, which may be a stranger's, only below
the current folder and that of the workflow. What is sent is a file of the right kind, told by its content.
Imports the client, workflows and the errors.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from ldm_backend.errors import printable

from ..client.async_client import AsyncComfyClient
from ..client.file_kinds import HEAD, LATENTS, PICTURES, SHAPES, SOUNDS, VIDEOS, fits
from ..errors import NodeError, WorkflowError
from ..workflows.overrides import find_inputs
from ..workflows.workflow import Prompt
from .sweep import Job

_KINDS = {
    "image_upload": PICTURES,
    "animated_image_upload": PICTURES,
    "video_upload": VIDEOS | PICTURES,
    "audio_upload": SOUNDS | VIDEOS,
    "file_upload": SHAPES,
}
_WITHOUT_A_SIGN = {("LoadLatent", "latent"): LATENTS}  # the host only lists the files
_STORES = (" [input]", " [output]", " [temp]")  # what a name may end with, for a file of the host


@dataclass(frozen=True)
class LocalFile:
    """A file to upload."""

    path: Path
    name: str
    bytes: int


@dataclass(frozen=True)
class LocalInputs:
    """What the file inputs of a workflow and its jobs need beyond what the server has.

    Attributes:
        files: Value of an input -> the file of this machine that it means.
        missing: What is neither there nor here.
    """

    files: Mapping[str, LocalFile] = field(default_factory=dict)
    missing: tuple[NodeError, ...] = ()

    def replaced(self, prompt: Prompt, info: Mapping[str, Any]) -> Prompt:
        """The prompt with the names under which the files are uploaded."""
        changes: dict[str, dict[str, str]] = {}
        for node_id, name, _ in file_inputs(prompt, info) if self.files else ():
            value = prompt[node_id]["inputs"][name]
            if value in self.files:
                changes.setdefault(node_id, {})[name] = self.files[value].name
        return {
            key: {**node, "inputs": {**node["inputs"], **changes[key]}} if key in changes else node
            for key, node in prompt.items()
        }

    def of(self, prompt: Prompt, info: Mapping[str, Any]) -> list[LocalFile]:
        """The files of a prompt that `replaced` has made."""
        by_name = {file.name: file for file in self.files.values()}
        places = file_inputs(prompt, info) if by_name else ()
        values = dict.fromkeys(prompt[node_id]["inputs"][name] for node_id, name, _ in places)
        return [by_name[value] for value in values if value in by_name]


def file_inputs(prompt: Prompt, info: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Node id, input and kinds of each input that holds the name of a file of the host's input folder."""
    for node_id, node in prompt.items():
        for name, value in node["inputs"].items():
            if isinstance(value, str):
                kinds = _kinds(node["class_type"], name, info)
                if kinds:
                    yield node_id, name, kinds


async def find_local_inputs(
    client: AsyncComfyClient, source: str, prompt: Prompt, jobs: Sequence[Job], info: Mapping[str, Any]
) -> LocalInputs:
    """Look for every file that the inputs name, on the server and here.

    Args:
        client: Of the server.
        source: Path of the workflow.
        prompt: Of the workflow.
        jobs: What they set.
        info: The server's nodes.

    Raises:
        WorkflowError: A file of the command line is of another kind than the input takes.
        ServerError: The server does not tell what it has.
    """
    files: dict[str, LocalFile] = {}
    missing: list[NodeError] = []
    places = find_inputs(prompt, dict.fromkeys(target for job in jobs for target in job.assignments))
    set_places = set(places.values())
    folders = list(dict.fromkeys([Path.cwd(), Path(source).absolute().parent]))
    for node_id, name, kinds in file_inputs(prompt, info):
        value = prompt[node_id]["inputs"][name]
        if (node_id, name) in set_places or await _is_there(client, value, prompt[node_id]["class_type"], name, info):
            continue
        found = next((file for folder in folders if (file := _below(folder, value, kinds))), None)
        if found:
            files[value] = found
        else:
            missing.append(_missing(node_id, prompt[node_id]["class_type"], name, value))
    for target, value in dict.fromkeys(item for job in jobs for item in job.assignments.items()):
        node_id, name = places[target]
        class_type = prompt[node_id]["class_type"]
        kinds = _kinds(class_type, name, info)
        if not kinds or value in _choices(class_type, name, info):
            continue
        if _is_file(value):
            files[value] = _local_file(Path(value).expanduser(), kinds, target)
        elif not await _is_there(client, value, class_type, name, info):
            missing.append(_missing(node_id, class_type, name, value))
    return LocalInputs(files, tuple(missing))


def _kinds(class_type: str, name: str, info: Mapping[str, Any]) -> Mapping[str, Any] | None:
    options = _options(class_type, name, info)
    signs = [kinds for sign, kinds in _KINDS.items() if options.get(sign)]
    return signs[0] if signs else _WITHOUT_A_SIGN.get((class_type, name))


def _spec(class_type: str, name: str, info: Mapping[str, Any]) -> Sequence[Any]:
    groups = (info.get(class_type) or {}).get("input") or {}
    found = [(groups.get(group) or {}).get(name) for group in ("required", "optional")]
    return next((spec for spec in found if spec), ())


def _options(class_type: str, name: str, info: Mapping[str, Any]) -> Mapping[str, Any]:
    spec = _spec(class_type, name, info)
    return spec[1] if len(spec) > 1 else {}


def _choices(class_type: str, name: str, info: Mapping[str, Any]) -> Sequence[Any]:
    spec = _spec(class_type, name, info)
    listed = spec[0] if spec and isinstance(spec[0], list) else _options(class_type, name, info).get("options")
    return listed if isinstance(listed, list) else ()


async def _is_there(client: AsyncComfyClient, value: str, class_type: str, name: str, info: Mapping[str, Any]) -> bool:
    is_listed = value in _choices(class_type, name, info) or value.endswith(_STORES[1:])
    return is_listed or await client.has_input(value.removesuffix(_STORES[0]))


def _is_file(value: str) -> bool:
    try:
        return Path(value).expanduser().is_file()
    except (OSError, ValueError, RuntimeError):  # a name that no file can have, or no home
        return False


def _below(folder: Path, value: str, kinds: Mapping[str, Any]) -> LocalFile | None:
    """The file of this name below a folder, if it is of the right kind; links do not lead out."""
    name = PurePosixPath(value.replace("\\", "/"))
    if name.is_absolute() or ".." in name.parts or not _is_file(str(folder / name)):
        return None
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        return None
    try:
        return _local_file(path, kinds, value)
    except WorkflowError:
        return None  # told as missing: a workflow does not choose what is sent


def _local_file(path: Path, kinds: Mapping[str, Any], target: str) -> LocalFile:
    try:
        with path.open("rb") as stream:
            head = stream.read(HEAD)
            stream.seek(0)
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
            size = stream.tell()
    except OSError as error:
        raise WorkflowError(f"cannot read {path} for {printable(target)}: {error.strerror}; check the path") from error
    suffix = path.suffix.lower()
    if suffix not in kinds or not fits(path.name, head):
        raise WorkflowError(
            f"{path} cannot be used for {printable(target)}: expected a file that is one of {', '.join(kinds)} by "
            "its name and by how it begins"
        )
    return LocalFile(path.absolute(), f"ldm-{digest[:32]}{suffix}", size)


def _missing(node_id: str, class_type: str, name: str, value: str) -> NodeError:
    details = f"{name}: {printable(value)} is neither among the server's inputs nor a file of that kind here"
    return NodeError(node_id, class_type, "missing_input_file", "File not found", details)
