"""UI format to API format, giving the prompt that the editor's own export gives.

The rules are those of the frontend's graphToPrompt (compared in a real browser by tests/browser). They are spread over
three steps: `Unfolding` opens subgraphs, `apply_primitives` and `push_inwards` carry values, and this module follows
links through everything that exists in the editor only. Imports the three, and the errors.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, TypeVar

from ..errors import WorkflowError
from .graph import BYPASSED, MUTED, SUBGRAPH_INPUT, parse_ui
from .instances import Instance, Scope, Widget
from .primitives import apply_primitives, push_inwards
from .text_widgets import MISSING, fill_placeholders, plain_prompt
from .unfolding import Unfolding
from .widget_types import IN_BROWSER_ONLY, UNSET

_SILENT = (MUTED, BYPASSED)
_ALIAS = "Node name for S&R"  # the property by which placeholders name a node


_Slot = TypeVar("_Slot")


@dataclass(frozen=True)
class _Constant:
    """What an input resolves to when a widget on a subgraph's node feeds it."""

    value: Any


_Origin = list[Any] | _Constant | None
_Fill = Callable[[str], str]
_Visited = set[tuple[str, str, int]]


def export_prompt(
    document: Mapping[str, Any], object_info: Mapping[str, Any], source: str
) -> dict[str, dict[str, Any]]:
    """Convert a UI-format graph.

    Args:
        document: The parsed file.
        object_info: The host's description of all its nodes.
        source: Where the graph comes from, for messages.

    Returns:
        The prompt in API format, with the order of nodes and inputs of the editor's export.

    Raises:
        MissingNodesError: The host lacks node types.
        WorkflowError: The file is damaged, links run in a circle, a value comes into being in a browser only (a
            choice in braces, a camera), or a node has inputs of a kind that is not known or values that do not suit it.
    """
    root = Unfolding(parse_ui(document, source), object_info, source).root
    fill = partial(fill_placeholders, lookup=partial(_lookup, root), now=datetime.now())
    apply_primitives(root, fill)
    push_inwards(root)
    prompt = {
        instance.path: {
            "inputs": _inputs(instance, fill),
            "class_type": instance.kind.name,
            "_meta": {"title": instance.title},
        }
        for instance in root.walk()
        if instance.kind is not None and _is_sent(instance)
    }
    for node in prompt.values():
        inputs = node["inputs"].items()
        node["inputs"] = {name: value for name, value in inputs if not isinstance(value, list) or value[0] in prompt}
    # As JavaScript orders the keys of an object: numbers first, by size.
    numbers = sorted((key for key in prompt if key.isdecimal()), key=int)
    return {key: prompt[key] for key in [*numbers, *(key for key in prompt if not key.isdecimal())]}


def _is_sent(instance: Instance) -> bool:
    """Whether a node of the host is in the prompt."""
    if instance.node.mode in _SILENT:
        return False
    outermost = instance
    while outermost.scope.owner is not None:
        outermost = outermost.scope.owner
    return instance.scope.editor.sees_muted or outermost.node.mode not in _SILENT


def _inputs(instance: Instance, fill: _Fill) -> dict[str, Any]:
    """Widgets in their order, each with what is linked to it if anything is; then the other links."""
    origins = ((slot.name, _origin_of_input(instance, index, set())) for index, slot in enumerate(instance.inputs))
    linked = {name: _wrapped(origin.value) if isinstance(origin, _Constant) else origin for name, origin in origins}
    linked = {name: origin for name, origin in linked.items() if origin is not None}
    widgets = [widget for widget in instance.widgets.values() if widget.type.sent and widget.value is not UNSET]
    own = {
        widget.type.name: None if widget.type.name in linked else _own_value(instance, widget, fill)
        for widget in widgets
    }
    return own | linked


def _own_value(instance: Instance, widget: Widget, fill: _Fill) -> Any:
    value = _wrapped(_sent_value(instance, widget, fill))
    is_curve = widget.type.kind == "CURVE" and isinstance(widget.value, list)  # as older files have them
    return {"__type__": "CURVE", **value} if is_curve else value


def _sent_value(instance: Instance, widget: Widget, fill: _Fill) -> Any:
    """The value of a widget as the editor sends it."""
    kind, value = widget.type, widget.value
    if kind.kind in IN_BROWSER_ONLY:
        raise WorkflowError(
            f"{instance}: input {kind.name!r} takes {IN_BROWSER_ONLY[kind.kind]}, which only a browser makes; "
            "replace the node by one that loads a file"
        )
    if isinstance(value, str) and kind.options.get("dynamicPrompts") is True:
        try:
            return plain_prompt(value)
        except WorkflowError as error:
            raise WorkflowError(f"{instance}: input {kind.name!r}: {error}") from error
    is_name = kind.name == "filename_prefix" and instance.node.type in instance.scope.editor.saving
    return fill(value) if is_name and isinstance(value, str) else value


def _wrapped(value: Any) -> Any:
    """A list as a value; a bare list would be a link."""
    return {"__value__": value} if isinstance(value, list) else value


def _origin_of_input(instance: Instance, index: int, visited: _Visited, kind: str | None = None) -> _Origin:
    """The output of a real node that feeds an input, as `[id, output]`; None when nothing does."""
    _visit(instance, "input", index, visited)
    slot = instance.inputs[index]
    if slot.link is None:
        return None
    link = instance.scope.graph.links.get(slot.link)
    if link is None:
        raise WorkflowError(
            f"{instance}: input {slot.name!r} has link {slot.link}, which is not in the file; link it again"
        )
    owner = instance.scope.owner
    if owner is not None and link.origin_id == SUBGRAPH_INPUT:
        outer = _at(owner.inputs, link.origin_slot, owner, "input")
        if outer.link is None:
            widget = owner.widget(outer)
            return _Constant(widget.value) if widget is not None and widget.value is not UNSET else None
        return _origin_of_input(owner, link.origin_slot, visited)
    origin = instance.scope.instances.get(link.origin_id)
    if origin is None:
        raise WorkflowError(
            f"{instance}: input {slot.name!r} is linked to node {link.origin_id}, which is missing; link it again"
        )
    return _origin_of_output(origin, link.origin_slot, kind or slot.type, visited)


def _origin_of_output(instance: Instance, index: int, kind: str, visited: _Visited) -> _Origin:
    """The real output that an output stands for. `kind` is the type that the far end takes."""
    _visit(instance, "output", index, visited)
    if instance.node.mode == MUTED and not instance.scope.editor.sees_muted:
        return None
    if instance.node.mode == BYPASSED:
        passed = _bypass(instance, index, kind)
        return None if passed is None else _origin_of_input(instance, passed, visited)
    if instance.inner is not None:
        port = _at(instance.inner.graph.outputs, index, instance, "output")
        links = (instance.inner.graph.links.get(number) for number in port.links)
        link = next((link for link in links if link is not None), None)
        if link is None:
            return None
        if link.origin_id == SUBGRAPH_INPUT:
            return _origin_of_input(instance, link.origin_slot, visited)
        inside = instance.inner.instances.get(link.origin_id)
        if inside is None:
            raise WorkflowError(
                f"{instance}: output {port.name!r} comes from node {link.origin_id}, which is missing; link it again"
            )
        return _origin_of_output(inside, link.origin_slot, kind, visited)
    if instance.is_virtual:
        linked = index < len(instance.inputs) and instance.inputs[index].link is not None
        return _origin_of_input(instance, index, visited, kind) if linked else None
    return [instance.path, index]


def _bypass(instance: Instance, index: int, kind: str) -> int | None:
    """The input that a bypassed node passes on: the one at the same place if it fits, else the first that does."""
    inputs = instance.inputs
    if kind == "*":
        return index if index < len(inputs) else 0 if inputs else None
    output = _at(instance.output_types, index, instance, "output")
    fits = [_fit(slot.type, output) and _fit(slot.type, kind) for slot in inputs]
    if index < len(inputs) and fits[index]:
        return index
    exact = (number for number, slot in enumerate(inputs) if slot.type == kind)
    return next(exact, next((number for number, fitting in enumerate(fits) if fitting), None))


def _fit(first: str, second: str) -> bool:
    """Whether slots of these types may be linked: one is `*`, or they share a name of their comma-separated lists."""
    if "*" in (first, second):
        return True
    return not set(first.lower().split(",")).isdisjoint(second.lower().split(","))


def _visit(instance: Instance, side: str, index: int, visited: _Visited) -> None:
    step = (instance.path, side, index)
    if step in visited:
        raise WorkflowError(f"{instance}: its links run in a circle; remove one of them")
    visited.add(step)


def _at(slots: tuple[_Slot, ...], index: int, instance: Instance, side: str) -> _Slot:
    if index < len(slots):
        return slots[index]
    raise WorkflowError(f"{instance} is linked at its {side} {index}, but has {len(slots)}; link it again")


def _lookup(root: Scope, name: str, widget: str) -> Any:
    """The value of a widget of the node with this alias or, if there is none, with this title."""
    instances = list(root.walk())
    named = [instance for instance in instances if _alias(instance) == name]
    named = named or [instance for instance in instances if instance.title == name]
    found = named[0].widgets.get(widget) if named else None
    if found is None:
        return MISSING
    return None if found.value is UNSET else found.value


def _alias(instance: Instance) -> Any:
    has_none = instance.kind is None or instance.node.type in instance.scope.editor.saving
    return instance.node.properties.get(_ALIAS, None if has_none else instance.node.type)
