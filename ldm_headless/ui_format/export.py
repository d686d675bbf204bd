"""UI format to API format, giving the prompt that the editor's own export gives.

The rules are those of the frontend's graphToPrompt (compared in a real browser by tests/browser). They are spread over
three steps: `Unfolding` opens subgraphs, `apply_primitives` and `push_inwards` carry values, and this module follows
links through everything that exists in the editor only. Imports the three, and the errors.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property, partial
from typing import Any, NamedTuple, TypeVar

from ..errors import WorkflowError
from .graph import BYPASSED, MUTED, SUBGRAPH_INPUT, parse_ui
from .instances import Instance, Scope, Widget, is_getter
from .pack_widgets import FILLS_NAMES
from .primitives import apply_primitives, push_inwards
from .text_widgets import MISSING, fill_placeholders, plain_prompt
from .unfolding import Unfolding, damage_told
from .widget_types import IN_BROWSER_ONLY, UNSET

_ALIAS = "Node name for S&R"  # the property by which placeholders name a node


_Slot = TypeVar("_Slot")


@dataclass(frozen=True)
class _Constant:
    """What an input resolves to when a widget on a subgraph's node feeds it."""

    value: Any


class _Step(NamedTuple):
    """An input or output on the way to the node that feeds an input. `kind` is the type that the far end takes."""

    instance: Instance
    side: str
    slot: int
    kind: str | None


_Origin = list[Any] | _Constant | None
_Fill = Callable[[str], str]


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
    with damage_told(source):
        return _prompt(Unfolding(parse_ui(document, source), object_info, source).root)


def _prompt(root: Scope) -> dict[str, dict[str, Any]]:
    fill = partial(fill_placeholders, lookup=_Names(root), now=datetime.now())
    apply_primitives(root, fill)
    push_inwards(root)
    sent, origins = [instance for instance in root.walk() if instance.is_sent], _Origins()
    for instance in sent:
        if instance.surplus:
            raise WorkflowError(f"{instance}: {instance.surplus}")
    prompt = {
        instance.path: {
            "inputs": _inputs(instance, fill, origins),
            "class_type": instance.kind.name,
            "_meta": {"title": instance.title},
        }
        for instance in sent
        if instance.kind is not None
    }
    for node in prompt.values():
        inputs = node["inputs"].items()
        node["inputs"] = {name: value for name, value in inputs if not isinstance(value, list) or value[0] in prompt}
    # As JavaScript orders the keys of an object: numbers first, by size.
    numbers = sorted((key for key in prompt if key.isdecimal()), key=int)
    return {key: prompt[key] for key in [*numbers, *(key for key in prompt if not key.isdecimal())]}


def _inputs(instance: Instance, fill: _Fill, origins: "_Origins") -> dict[str, Any]:
    """Widgets in their order, each with what is linked to it if anything is; then the other links."""
    found = ((slot.name, origins.of_input(instance, index)) for index, slot in enumerate(instance.inputs))
    linked = {name: _wrapped(origin.value) if isinstance(origin, _Constant) else origin for name, origin in found}
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
    is_name = kind.name == "filename_prefix" and instance.node.type in instance.scope.editor.saving | FILLS_NAMES
    return fill(value) if is_name and isinstance(value, str) else value


def _wrapped(value: Any) -> Any:
    """A list as a value; a bare list would be a link."""
    return {"__value__": value} if isinstance(value, list) else value


class _Origins:
    """Follows links to the outputs of real nodes, and keeps what it found for all that lie on the way."""

    def __init__(self) -> None:
        self._known: dict[tuple[str, str, int, str | None], _Origin] = {}

    def of_input(self, instance: Instance, index: int) -> _Origin:
        """The output of a real node that feeds an input, as `[id, output]`; None when nothing does."""
        found: _Step | _Origin = _Step(instance, "input", index, None)
        way: list[tuple[str, str, int, str | None]] = []
        places: set[tuple[str, str, int]] = set()
        while isinstance(found, _Step):
            place = (found.instance.path, found.side, found.slot)
            key = (*place, found.kind)
            if key in self._known:
                found = self._known[key]
                break
            if place in places:
                raise WorkflowError(f"{found.instance}: its links run in a circle; remove one of them")
            places.add(place)
            way.append(key)
            found = _behind_input(found) if found.side == "input" else _behind_output(found)
        for key in way:
            self._known[key] = found
        return found


def _behind_input(step: _Step) -> _Step | _Origin:
    instance, slot = step.instance, step.instance.inputs[step.slot]
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
        return _Step(owner, "input", link.origin_slot, None)
    origin = instance.scope.instances.get(link.origin_id)
    if origin is None:
        raise WorkflowError(
            f"{instance}: input {slot.name!r} is linked to node {link.origin_id}, which is missing; link it again"
        )
    return _Step(origin, "output", link.origin_slot, step.kind or slot.type)


def _behind_output(step: _Step) -> _Step | _Origin:
    """What an output stands for."""
    instance, index = step.instance, step.slot
    if instance.node.mode == MUTED and not instance.scope.editor.sees_muted:
        return None
    if instance.node.mode == BYPASSED:
        passed = _bypass(instance, index, step.kind or "*")
        return None if passed is None else _Step(instance, "input", passed, None)
    if instance.inner is not None:
        return _behind_subgraph(instance, instance.inner, step)
    if is_getter(instance):
        setter = instance.scope.setter(instance)
        if setter is None:
            raise WorkflowError(
                f"{instance}: nothing sets what it gets; name a node that sets it, or link its targets themselves"
            )
        return _Step(setter, "input", 0, step.kind) if setter.inputs else None
    if instance.is_virtual:
        linked = index < len(instance.inputs) and instance.inputs[index].link is not None
        return _Step(instance, "input", index, step.kind) if linked else None
    return [instance.path, index]


def _behind_subgraph(instance: Instance, inner: Scope, step: _Step) -> _Step | _Origin:
    port = _at(inner.graph.outputs, step.slot, instance, "output")
    links = (inner.graph.links.get(number) for number in port.links)
    link = next((link for link in links if link is not None), None)
    if link is None:
        return None
    if link.origin_id == SUBGRAPH_INPUT:
        return _Step(instance, "input", link.origin_slot, None)
    inside = inner.instances.get(link.origin_id)
    if inside is None:
        raise WorkflowError(
            f"{instance}: output {port.name!r} comes from node {link.origin_id}, which is missing; link it again"
        )
    return _Step(inside, "output", link.origin_slot, step.kind)


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


def _at(slots: tuple[_Slot, ...], index: int, instance: Instance, side: str) -> _Slot:
    if index < len(slots):
        return slots[index]
    raise WorkflowError(f"{instance} is linked at its {side} {index}, but has {len(slots)}; link it again")


class _Names:
    """The value of a widget of the node with an alias or, if there is none, with a title. All are looked at once."""

    def __init__(self, root: Scope) -> None:
        self._root = root

    def __call__(self, name: str, widget: str) -> Any:
        aliases, titles = self._instances
        instance = aliases.get(name) or titles.get(name)
        found = instance.widgets.get(widget) if instance else None
        if found is None:
            return MISSING
        return None if found.value is UNSET else found.value

    @cached_property
    def _instances(self) -> tuple[dict[Any, Instance], dict[str, Instance]]:
        aliases: dict[Any, Instance] = {}
        titles: dict[str, Instance] = {}
        for instance in self._root.walk():
            alias = _alias(instance)
            if isinstance(alias, str):
                aliases.setdefault(alias, instance)
            titles.setdefault(instance.title, instance)
        return aliases, titles


def _alias(instance: Instance) -> Any:
    has_none = instance.kind is None or instance.node.type in instance.scope.editor.saving
    return instance.node.properties.get(_ALIAS, None if has_none else instance.node.type)
