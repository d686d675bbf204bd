"""Workflow files: read API format, UI format and files that carry either, and give the prompt to send.

An API-format prompt maps node ids to `{"class_type": ..., "inputs": {...}, "_meta": {"title": ...}}`; an input is a
constant or a link `[node id, output index]`. What a file holds is told by its content, never by its name. Imports
embedded, ui_format.graph, ui_format.export and the errors.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ldm_backend.errors import printable
from ldm_backend.json_text import not_finite, parse_json

from ..errors import JSONError, WorkflowError
from ..ui_format.export import export_prompt
from ..ui_format.graph import is_ui_format
from .embedded import read_document

Prompt = dict[str, dict[str, Any]]

_NODE_KEYS = ("class_type", "inputs", "_meta")


@dataclass(frozen=True)
class Workflow:
    """A workflow as read from a file. A picture may hold both forms; at least one is there.

    Args:
        source: Where it comes from, for messages.
        ui: The graph in UI format, which the host can embed into saved images.
        prompt: In API format.
        note: What the user should know of how it was read; empty where all is well.
    """

    source: str
    ui: dict[str, Any] | None
    prompt: Prompt | None
    note: str = ""


def load_workflow(path: str | Path) -> Workflow:
    """Read and check a workflow file: JSON in API or UI format, or what ComfyUI saved with either inside.

    Raises:
        WorkflowError: The file is missing or holds something else.
    """
    source = str(path)
    try:
        with Path(path).open("rb") as stream:
            text, found = read_document(stream, source)
    except OSError as error:
        raise WorkflowError(f"cannot read the workflow {path}: {error.strerror}; check the path") from error
    if text is None:
        return _carried(found, source)
    try:
        document = parse_json(text)
    except JSONError as error:
        raise WorkflowError(f"{path} is not JSON: {error}; expected a workflow or a file saved by ComfyUI") from error
    document = _unwrapped(document)
    if is_ui_format(document):
        _check_finite(document, source)
        return Workflow(source, document, None)
    return Workflow(source, None, check_prompt(document, source))


def _carried(found: Mapping[str, Any], source: str) -> Workflow:
    """What a picture carries. The prompt is what runs: beside a good one, a graph that is none is left out and told."""
    graph, prompt = found.get("workflow"), found.get("prompt")
    if prompt is None:
        if not is_ui_format(graph):
            raise WorkflowError(
                f"{source} carries a `workflow` that is no UI-format graph: {_kind(graph)}; save it again in ComfyUI"
            )
        _check_finite(graph, source)
        return Workflow(source, graph, None)
    prompt, reason = check_prompt(prompt, source), found.get("unreadable", "")
    if graph == {}:  # what programs write that have no editor
        return Workflow(source, None, prompt)
    if graph is not None and not is_ui_format(graph):
        reason = f"it is {_kind(graph)}, no graph in UI format"
    elif (place := not_finite(graph)) is not None:
        reason = f"{place} is NaN or infinite"
    if not reason:
        return Workflow(source, graph, prompt)
    return Workflow(
        source,
        None,
        prompt,
        f"{source}: the editor's graph in it cannot be read ({reason}); the prompt beside it is used, and the new "
        "images carry no graph of the editor",
    )


def _unwrapped(document: Any) -> Any:
    """The prompt in what is sent to `/prompt`, or in one entry of `/history`; anything else as it is."""
    if isinstance(document, dict) and len(document) == 1:
        (entry,) = document.values()  # by the id of the prompt
        if isinstance(entry, dict) and isinstance(entry.get("prompt"), list) and "outputs" in entry:
            document = entry
    inner = document.get("prompt") if isinstance(document, dict) else None
    if isinstance(inner, list) and len(inner) > 2:  # number, id, prompt, what was sent with it, nodes that were asked
        return inner[2]
    return inner if isinstance(inner, dict) and "class_type" not in inner else document


def to_prompt(workflow: Workflow, object_info: Mapping[str, Any]) -> Prompt:
    """The prompt of a workflow: the one that it holds, else its UI graph converted as the editor exports it.

    Args:
        workflow: From `load_workflow`.
        object_info: The host's `/object_info`; looked at only for a conversion.

    Raises:
        WorkflowError: The graph cannot be converted; see `export_prompt`. Or nothing in it would run.
    """
    if workflow.prompt is not None:
        return workflow.prompt
    if workflow.ui is None:
        raise WorkflowError(f"{workflow.source} holds neither a prompt nor a graph; save it again in ComfyUI")
    try:
        prompt = export_prompt(workflow.ui, object_info, workflow.source)
    except WorkflowError as error:
        if type(error) is not WorkflowError or workflow.source in str(error):
            raise
        raise WorkflowError(f"{workflow.source}: {printable(str(error), 1000)}") from error
    if not prompt:
        raise WorkflowError(f"{workflow.source} has no node that would run: add one, or unmute the ones there")
    return prompt


def ui_twin(path: str | Path) -> Path | None:
    """The UI-format file of `NAME/api/X.json`, which is `NAME/X.json`; None when there is none."""
    path = Path(path)
    twin = path.parent.parent / path.name
    return twin if path.parent.name == "api" and twin.is_file() else None


def check_prompt(prompt: object, source: str) -> Prompt:
    """Return the prompt if it has the shape of the API format and all its links lead somewhere.

    What a host noted into the nodes while it ran them (pictures carry it) is left out: sent back, it would be believed.

    Args:
        prompt: A parsed JSON document.
        source: Where it comes from, for messages.

    Raises:
        WorkflowError: It has not.
    """
    if not isinstance(prompt, dict) or not prompt:
        raise WorkflowError(f"{source} holds {_kind(prompt)}; expected a JSON object of nodes, in API or UI format")
    for node_id, node in prompt.items():
        if not isinstance(node, dict) or not isinstance(node.get("class_type"), str):
            raise WorkflowError(f"{source}: node {node_id!r} has no text `class_type`; use ComfyUI's Export (API)")
        if not isinstance(node.get("inputs"), dict):
            raise WorkflowError(
                f"{source}: node {node_id!r} ({node['class_type']}) has no object `inputs`; use ComfyUI's Export (API)"
            )
        for name, value in node["inputs"].items():
            if is_link(value) and value[0] not in prompt:
                raise WorkflowError(
                    f"{source}: input {node_id}.{name} is linked to node {value[0]!r}, which is missing; link it again"
                )
    kept = {node_id: {key: node[key] for key in _NODE_KEYS if key in node} for node_id, node in prompt.items()}
    _check_finite(kept, source)
    return kept


def _check_finite(document: object, source: str) -> None:
    """No host can be sent a NaN or an infinity. What a host noted into nodes may be one, and is left out before."""
    place = not_finite(document)
    if place is not None:
        raise WorkflowError(f"{source}: {place} is NaN or infinite; expected a finite number: correct it in the file")


def is_link(value: object) -> bool:
    """Whether an input's value is a link to an output of another node."""
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], int)


def _kind(value: object) -> str:
    return "an empty object" if value == {} else f"a JSON {type(value).__name__}"
