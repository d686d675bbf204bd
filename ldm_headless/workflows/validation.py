"""Checks a prompt against the host's description of its nodes, without running it. Imports the errors.

The host validates what it is given, but survives no cycle, and leaves the lists of newer nodes unchecked.
"""

import difflib
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

from ..errors import NodeError
from .workflow import Prompt

ObjectInfo = Mapping[str, Mapping[str, Any]]

# What a widget gives; an input of the second kind can only be linked. Other types may have a widget of their own.
_PYTHON = {"INT": int, "FLOAT": float, "STRING": str, "BOOLEAN": bool}
_LINK_ONLY = {"MODEL", "VAE", "CLIP", "LATENT", "IMAGE", "MASK", "CONDITIONING", "SAMPLER", "SIGMAS", "GUIDER", "NOISE"}
_MAX_OPTIONS = 12  # shown in a message
_MAX_COMPARED, _MAX_NAME = 20, 200  # unknown types, and their letters, that are compared with those of the host


def structural_problems(prompt: Prompt, info: ObjectInfo) -> list[NodeError]:
    """What no host could run: unknown node types, no output, a cycle."""
    problems = _unknown_types(prompt, info)
    if not problems and not any(info[node["class_type"]].get("output_node") for node in prompt.values()):
        problems.append(NodeError("", "", "prompt_no_outputs", "no node saves or shows anything", "add Save Image"))
    cycle = _find_cycle(prompt)
    if cycle:
        path = " -> ".join(f"{node_id} ({prompt[node_id]['class_type']})" for node_id in cycle)
        first = prompt[cycle[0]]["class_type"]
        problems.append(NodeError(cycle[0], first, "dependency_cycle", "the links form a cycle", path))
    return problems


def input_problems(prompt: Prompt, info: ObjectInfo) -> list[NodeError]:
    """What is wrong with the inputs of the nodes that an output needs, in a prompt without structural problems."""
    known = _Choices()
    return [
        NodeError(node_id, prompt[node_id]["class_type"], *problem)
        for node_id in _needed(prompt, info)
        for problem in _check_node(node_id, prompt, info, known)
    ]


def _unknown_types(prompt: Prompt, info: ObjectInfo) -> list[NodeError]:
    """Every node of a type that the host lacks, the first types with what may have been meant."""
    advice: dict[str, str] = {}
    problems = []
    for node_id, node in prompt.items():
        class_type = node["class_type"]
        if class_type in info:
            continue
        if class_type not in advice:
            is_compared = len(advice) < _MAX_COMPARED and len(class_type) <= _MAX_NAME
            close = difflib.get_close_matches(class_type, info, 1) if is_compared else []
            advice[class_type] = f"did you mean {close[0]}?" if close else "install the pack that provides it"
        told = advice[class_type]
        problems.append(NodeError(node_id, class_type, "missing_node_type", "the host has no node of this type", told))
    return problems


def _links(node: Mapping[str, Any]) -> Iterator[str]:
    return (value[0] for value in node["inputs"].values() if isinstance(value, list) and len(value) == 2)


def _find_cycle(prompt: Prompt) -> list[str]:
    """The nodes of one cycle in the order of the data, the first one again at the end; empty when there is none."""
    done: set[str] = set()
    for start in prompt:
        path: dict[str, None] = {}  # in its order
        stack = [(start, iter([start]))]
        while stack:
            following = next(stack[-1][1], None)
            if following is None:
                stack.pop()
                if path and stack:
                    done.add(path.popitem()[0])
            elif following in path:
                nodes = list(path)
                return [following, *reversed(nodes[nodes.index(following) :])]
            elif following in prompt and following not in done:
                path[following] = None
                stack.append((following, _links(prompt[following])))
    return []


def _needed(prompt: Prompt, info: ObjectInfo) -> list[str]:
    needed: dict[str, None] = {}
    waiting = deque(node_id for node_id, node in prompt.items() if info[node["class_type"]].get("output_node"))
    while waiting:
        node_id = waiting.popleft()
        if node_id not in needed:
            needed[node_id] = None
            waiting.extend(source for source in _links(prompt[node_id]) if source in prompt)
    return list(needed)


class _Choices:
    """Whether values are among the host's choices: each list is looked through once."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[list[Any], set[Any]]] = {}

    def has(self, choices: list[Any], value: Any) -> bool:
        if isinstance(value, list | dict):
            return value in choices
        if id(choices) not in self._known:
            plain = {choice for choice in choices if not isinstance(choice, list | dict)}
            self._known[id(choices)] = (choices, plain)
        return value in self._known[id(choices)][1]


def _check_node(node_id: str, prompt: Prompt, info: ObjectInfo, known: _Choices) -> Iterator[tuple[str, str, str]]:
    """Type, message and details of each problem."""
    inputs = prompt[node_id]["inputs"]
    declared = info[prompt[node_id]["class_type"]].get("input") or {}
    for name in declared.get("required") or {}:
        if name not in inputs:
            yield "required_input_missing", "Required input is missing", name
    for part in ("required", "optional"):
        for name, spec in (declared.get(part) or {}).items():
            if name in inputs:
                options = spec[1] if len(spec) > 1 and isinstance(spec[1], dict) else {}
                value = inputs[name]
                if isinstance(value, list):
                    yield from _check_link(name, value, spec[0], prompt, info)
                else:
                    yield from _check_constant(name, value, spec[0], options, known)


def _check_link(
    name: str, link: list[Any], kind: Any, prompt: Prompt, info: ObjectInfo
) -> Iterator[tuple[str, str, str]]:
    if len(link) != 2 or link[0] not in prompt or not isinstance(link[1], int):
        yield "bad_linked_input", "expected a link [node id, output number] to a node of this prompt", f"{name}: {link}"
        return
    source = prompt[link[0]]["class_type"]
    outputs = info[source].get("output") or []
    if not 0 <= link[1] < len(outputs):
        yield "bad_linked_input", f"node {link[0]} ({source}) has {len(outputs)} output(s)", f"{name}: output {link[1]}"
    elif not _fits(outputs[link[1]], kind):
        details = f"{name} takes {kind}, output {link[1]} of node {link[0]} ({source}) is {outputs[link[1]]}"
        yield "return_type_mismatch", "Return type mismatch between linked nodes", details


def _fits(given: Any, wanted: Any) -> bool:
    if not isinstance(given, str) or not isinstance(wanted, str) or given.startswith("COMFY_"):
        return True  # lists of values, and types that the host works out itself
    given_kinds, wanted_kinds = ({kind.strip() for kind in text.split(",")} for text in (given, wanted))
    return "*" in given_kinds | wanted_kinds or wanted.startswith("COMFY_") or bool(given_kinds & wanted_kinds)


def _check_constant(
    name: str, value: Any, kind: Any, options: Mapping[str, Any], known: _Choices
) -> Iterator[tuple[str, str, str]]:
    choices = kind if isinstance(kind, list) else options.get("options")
    if isinstance(choices, list):
        # Uploads and remote lists hold more than the host could list.
        open_list = any("upload" in key or key == "remote" for key in options)
        if not known.has(choices, value) and not open_list and not options.get("multiselect"):
            shown = ", ".join(str(choice) for choice in choices[:_MAX_OPTIONS]) or "nothing"
            more = f" and {len(choices) - _MAX_OPTIONS} more" if len(choices) > _MAX_OPTIONS else ""
            yield "value_not_in_list", "Value not in list", f"{name}: {value!r} is not among {shown}{more}"
    elif kind in _PYTHON:
        yield from _check_number_or_text(name, value, kind, options)
    elif kind in _LINK_ONLY:
        yield "invalid_input_type", f"expected a link to a node that gives {kind}", f"{name}: {value!r}"


def _check_number_or_text(
    name: str, value: Any, kind: str, options: Mapping[str, Any]
) -> Iterator[tuple[str, str, str]]:
    try:
        number = _PYTHON[kind](value)
    except (TypeError, ValueError):
        yield "invalid_input_type", f"expected {kind}", f"{name}: {value!r}"
        return
    if kind in ("INT", "FLOAT"):
        if "min" in options and number < options["min"]:
            yield "value_smaller_than_min", f"Value {value} smaller than min of {options['min']}", name
        if "max" in options and number > options["max"]:
            yield "value_bigger_than_max", f"Value {value} bigger than max of {options['max']}", name
