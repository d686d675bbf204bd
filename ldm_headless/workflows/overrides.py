"""Changes to a prompt: inputs by node and name, and the seed. Imports targets, workflow and the errors."""

from collections.abc import Iterable, Mapping
from functools import cached_property
from typing import Any

from ldm_backend.errors import first_names, printable
from ldm_backend.json_text import parse_json

from ..errors import JSONError, WorkflowError
from .targets import parse_target
from .workflow import Prompt, is_link

_SEEDS = ("seed", "noise_seed")
_PRIMITIVE = "value"


def set_inputs(prompt: Prompt, assignments: Mapping[str, str], object_info: Mapping[str, Any] | None = None) -> Prompt:
    """A copy of the prompt with some inputs replaced. It shares with the prompt what is not replaced.

    Args:
        prompt: In API format.
        assignments: `node.input` -> value, where node is a node id or a title, in quotes where it holds an equal sign
            (see `targets`). A value is read as JSON, or taken as text where it is no JSON or replaces a text.
        object_info: The host's `/object_info`. With it, inputs that the node has but the prompt leaves out can be set
            too, and the host's type says what a text is.

    Raises:
        WorkflowError: No such node or input, a title that several nodes share, or an input that is set twice.
    """
    changed, titles = dict(prompt), _Titles(prompt)
    owners: dict[tuple[str, str], str] = {}
    for target, text in assignments.items():
        name, input_name = parse_target(target)
        node_id, _ = place = titles.find(name), input_name
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
        changed[node_id] = _with_input(prompt, changed, node_id, input_name, text if is_text else _parse_value(text))
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
    changed = dict(prompt)
    for node_id, name in places:
        changed[node_id] = _with_input(prompt, changed, node_id, name, seed)
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
        numbers = [name for name, value in node["inputs"].items() if type(value) is int]
        if not numbers:  # as in most nodes: thousands of jobs ask
            continue
        names = {*_SEEDS, *_controlled_inputs(node, object_info)} - {_PRIMITIVE}
        names |= {_PRIMITIVE} if node_id in feeding else set()
        places += [(node_id, name) for name in numbers if name in names]
    return places


def find_inputs(prompt: Prompt, targets: Iterable[str]) -> dict[str, tuple[str, str]]:
    """The node ids and input names that targets such as `KSampler.seed` mean.

    Raises:
        WorkflowError: One names no input, no node, or a title that several nodes share.
    """
    titles, parsed = _Titles(prompt), {target: parse_target(target) for target in targets}
    return {target: (titles.find(name), input_name) for target, (name, input_name) in parsed.items()}


def nodes_by_title(prompt: Prompt) -> dict[str, list[str]]:
    """The ids of the nodes with each title."""
    found: dict[str, list[str]] = {}
    for node_id, node in prompt.items():
        found.setdefault(_title_of(node), []).append(node_id)
    return found


class _Titles:
    """The nodes of a prompt by their titles, looked through once."""

    def __init__(self, prompt: Prompt) -> None:
        self._prompt = prompt

    def find(self, name: str) -> str:
        """The id of the node with this id or, if there is none, with this title."""
        if name in self._prompt:
            return name
        matches = self._by_title.get(name, [])
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise WorkflowError(
                f"the title {printable(name)!r} belongs to the nodes {first_names(matches)}; use one of these ids"
            )
        known = first_names([f"{node_id} ({_title_of(node)})" for node_id, node in self._prompt.items()], 50)
        raise WorkflowError(f"no node has the id or title {printable(name)!r}; there are {known}; correct the name")

    @cached_property
    def _by_title(self) -> dict[str, list[str]]:
        return nodes_by_title(self._prompt)


def _title_of(node: Mapping[str, Any]) -> str:
    """The title of a node in a prompt; empty without one."""
    meta = node.get("_meta")
    return str(meta.get("title", "")) if isinstance(meta, dict) else ""


def _with_input(prompt: Prompt, changed: Prompt, node_id: str, name: str, value: object) -> dict[str, Any]:
    """A node with an input replaced. What the prompt itself holds is copied before, once."""
    node = changed[node_id]
    if node is prompt[node_id]:
        node = {**node, "inputs": dict(node["inputs"])}
    node["inputs"][name] = value
    return node


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
