"""Changes to a prompt: inputs by node and name, and the seed. Imports workflow and the errors."""

import copy
from collections.abc import Mapping
from typing import Any

from ..errors import JSONError, WorkflowError
from ..files.json_text import parse_json
from .workflow import Prompt, is_link

_SEEDS = ("seed", "noise_seed")
_PRIMITIVE = "value"


def set_inputs(prompt: Prompt, assignments: Mapping[str, str], object_info: Mapping[str, Any] | None = None) -> Prompt:
    """A copy of the prompt with some inputs replaced.

    Args:
        prompt: In API format.
        assignments: `node.input` -> value, where node is a node id or a title. A value is read as JSON, or taken as
            text where it is no JSON or replaces a text.
        object_info: The host's `/object_info`. With it, inputs that the node has but the prompt leaves out can be set
            too, and the host's type says what a text is.

    Raises:
        WorkflowError: No such node or input, a title that several nodes share, or an input that is set twice.
    """
    changed = copy.deepcopy(prompt)
    owners: dict[tuple[str, str], str] = {}
    for target, text in assignments.items():
        node_id, input_name = place = find_input(changed, target)
        if owners.setdefault(place, target) != target:
            raise WorkflowError(f"{owners[place]!r} and {target!r} are the same input; set it once")
        node = changed[node_id]
        inputs, known = node["inputs"], _known_inputs(node, object_info)
        if input_name not in inputs and input_name not in known:
            raise WorkflowError(
                f"node {node_id} ({node['class_type']}) has no input {input_name!r}; "
                f"it has {', '.join(sorted(inputs.keys() | known.keys())) or 'none'}"
                "; correct the name"
            )
        is_text = isinstance(inputs.get(input_name), str) or known.get(input_name) == "STRING"
        inputs[input_name] = text if is_text else _parse_value(text)
    return changed


def set_seed(prompt: Prompt, seed: int, object_info: Mapping[str, Any] | None = None) -> Prompt:
    """A copy of the prompt in which every seed is this one.

    Args:
        prompt: In API format.
        seed: Not negative.
        object_info: As for `seed_inputs`.

    Raises:
        WorkflowError: The prompt has no seed, or the number is negative.
    """
    if seed < 0:
        raise WorkflowError(f"the seed {seed} is negative; expected 0 or more")
    places = seed_inputs(prompt, object_info)
    if not places:
        raise WorkflowError(
            "the workflow has no seed to set: no input named seed or noise_seed holds a whole number; "
            "name the input with --set NODE.INPUT=VALUE"
        )
    changed = copy.deepcopy(prompt)
    for node_id, name in places:
        changed[node_id]["inputs"][name] = seed
    return changed


def seed_inputs(prompt: Prompt, object_info: Mapping[str, Any] | None = None) -> list[tuple[str, str]]:
    """Node id and input name of every seed.

    A seed is a whole number in an input named seed or noise_seed, or in one to which the host gives a control after
    generation. The `value` of a primitive is one only where it feeds an input named seed or noise_seed: other
    primitives have that control too, and hold widths.

    Args:
        prompt: In API format.
        object_info: The host's `/object_info`, which knows of seeds with other names.
    """
    seeds = [value for node in prompt.values() for name, value in node["inputs"].items() if name in _SEEDS]
    feeding = {value[0] for value in seeds if is_link(value)}
    places = []
    for node_id, node in prompt.items():
        names = {*_SEEDS, *_controlled_inputs(node, object_info)} - {_PRIMITIVE}
        names |= {_PRIMITIVE} if node_id in feeding else set()
        places += [(node_id, name) for name, value in node["inputs"].items() if name in names and type(value) is int]
    return places


def find_input(prompt: Prompt, target: str) -> tuple[str, str]:
    """The node id and the input name that a target such as `KSampler.seed` means.

    Raises:
        WorkflowError: It names no input, or no node.
    """
    name, dot, input_name = target.rpartition(".")
    if not dot:
        raise WorkflowError(f"cannot set {target!r}; expected NODE.INPUT, for example KSampler.seed")
    return find_node(prompt, name), input_name


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
    raise WorkflowError(f"no node has the id or title {name!r}; there are {known}; correct the name")


def _known_inputs(node: Mapping[str, Any], object_info: Mapping[str, Any] | None) -> dict[str, Any]:
    """The inputs that the host gives the node's type, with their types."""
    return {name: spec[0] for name, spec in _specs(node, object_info).items()}


def _controlled_inputs(node: Mapping[str, Any], object_info: Mapping[str, Any] | None) -> set[str]:
    specs = _specs(node, object_info)
    return {
        name
        for name, spec in specs.items()
        if spec[0] == "INT" and len(spec) > 1 and spec[1].get("control_after_generate")
    }


def _specs(node: Mapping[str, Any], object_info: Mapping[str, Any] | None) -> dict[str, Any]:
    groups = ((object_info or {}).get(node["class_type"]) or {}).get("input") or {}
    return {**(groups.get("required") or {}), **(groups.get("optional") or {})}


def _parse_value(text: str) -> object:
    try:
        return parse_json(text)
    except JSONError:
        return text
