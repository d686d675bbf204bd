"""Workflow files in ComfyUI's API format: load, check, set inputs. Imports the errors only.

An API-format prompt maps node ids to `{"class_type": ..., "inputs": {...}, "_meta": {"title": ...}}`; an input is a
constant or a link `[node id, output index]`.
"""

import copy
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .errors import WorkflowError

Prompt = dict[str, dict[str, Any]]


def load_workflow(path: str | Path) -> Prompt:
    """Read and check an API-format workflow file.

    Raises:
        WorkflowError: The file is missing, is not JSON, or holds something else (such as a UI-format graph).
    """
    return check_prompt(_read_json(Path(path)), str(path))


def load_ui_workflow(path: str | Path) -> dict[str, Any]:
    """Read a UI-format graph, to be embedded into saved images beside the prompt.

    Raises:
        WorkflowError: The file is missing, is not JSON, or is no UI-format graph.
    """
    graph = _read_json(Path(path))
    if not isinstance(graph, dict) or not isinstance(graph.get("nodes"), list):
        raise WorkflowError(f"{path} is no UI-format workflow: it has no list `nodes`; save it with the menu's Save")
    return graph


def ui_twin(path: str | Path) -> Path | None:
    """The UI-format file of `NAME/api/X.json`, which is `NAME/X.json`; None when there is none."""
    path = Path(path)
    twin = path.parent.parent / path.name
    return twin if path.parent.name == "api" and twin.is_file() else None


def check_prompt(prompt: object, source: str) -> Prompt:
    """Return the prompt if it has the shape of the API format and all its links lead somewhere.

    Args:
        prompt: A parsed JSON document.
        source: Where it comes from, for messages.

    Raises:
        WorkflowError: It has not.
    """
    if not isinstance(prompt, dict) or not prompt:
        raise WorkflowError(f"{source} holds {_kind(prompt)}; expected a JSON object of nodes in API format")
    if isinstance(prompt.get("nodes"), list):
        raise WorkflowError(
            f"{source} is a UI-format workflow; expected API format: open it in ComfyUI and use Export (API)"
        )
    for node_id, node in prompt.items():
        if not isinstance(node, dict) or not isinstance(node.get("class_type"), str):
            raise WorkflowError(f"{source}: node {node_id!r} has no text `class_type`; use ComfyUI's Export (API)")
        if not isinstance(node.get("inputs"), dict):
            raise WorkflowError(f"{source}: node {node_id!r} ({node['class_type']}) has no object `inputs`")
        for name, value in node["inputs"].items():
            if _is_link(value) and value[0] not in prompt:
                raise WorkflowError(
                    f"{source}: input {node_id}.{name} is linked to node {value[0]!r}, which is missing"
                )
    return prompt


def set_inputs(prompt: Prompt, assignments: Mapping[str, str]) -> Prompt:
    """A copy of the prompt with some inputs replaced.

    Args:
        prompt: In API format.
        assignments: `node.input` -> value, where node is a node id or a title. A value is read as JSON, or taken as
            text where it is no JSON or replaces a text.

    Raises:
        WorkflowError: No such node or input, or a title that several nodes share.
    """
    changed = copy.deepcopy(prompt)
    for target, text in assignments.items():
        name, dot, input_name = target.rpartition(".")
        if not dot:
            raise WorkflowError(f"cannot set {target!r}; expected NODE.INPUT, for example KSampler.seed")
        node_id = find_node(changed, name)
        inputs = changed[node_id]["inputs"]
        if input_name not in inputs:
            raise WorkflowError(
                f"node {node_id} ({changed[node_id]['class_type']}) has no input {input_name!r}; "
                f"it has {', '.join(sorted(inputs)) or 'none'}"
            )
        inputs[input_name] = text if isinstance(inputs[input_name], str) else _parse_value(text)
    return changed


def find_node(prompt: Prompt, name: str) -> str:
    """The id of the node with this id or, if there is none, with this title.

    Raises:
        WorkflowError: None, or more than one.
    """
    if name in prompt:
        return name
    titles = {node_id: str((node.get("_meta") or {}).get("title", "")) for node_id, node in prompt.items()}
    matches = [node_id for node_id, title in titles.items() if title == name]
    if len(matches) == 1:
        return matches[0]
    if matches:
        raise WorkflowError(f"the title {name!r} belongs to the nodes {', '.join(matches)}; use one of these ids")
    known = ", ".join(f"{node_id} ({title})" for node_id, title in titles.items())
    raise WorkflowError(f"no node has the id or title {name!r}; there are {known}")


def _read_json(path: Path) -> object:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise WorkflowError(f"cannot read the workflow {path}: {error.strerror}") from error
    except ValueError as error:
        raise WorkflowError(f"{path} is not JSON: {error}; expected a workflow saved by ComfyUI") from error


def _is_link(value: object) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], int)


def _parse_value(text: str) -> object:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _kind(value: object) -> str:
    return "an empty object" if value == {} else f"a JSON {type(value).__name__}"
