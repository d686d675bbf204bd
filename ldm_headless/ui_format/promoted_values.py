"""The values that stand on a subgraph's node: those of its inputs, and those of views of widgets inside.

Files keep them by place: in the order of the inputs that have a widget or, where the node has the property
`proxyWidgets`, in the order of its entries. An entry names a node inside and a widget of it, or "-1" and an input.
Editors differ in what a view is. In the older one it shows the widget inside and has no value of its own. Today's makes
an input of it when it opens the file, and the value is that on the node. Imports the graph, the instances, the
saved values and the errors.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from ldm_backend.json_text import parse_json

from ..errors import JSONError, WorkflowError
from .graph import Node
from .instances import PRIMITIVE, Instance, Widget
from .saved_values import surplus_of_list

_OF_INPUT = "-1"
_SET_ASIDE = "proxyWidgetErrorQuarantine"  # values that the editor could not place once, as entries
_PREFIX = re.compile(r"\s*\d+\s*:\s*(?=.)")  # of names of older files: the node further inside


def has_views(node: Node) -> bool:
    """Whether a subgraph's node has views of widgets inside."""
    return any(place != _OF_INPUT for place, *_ in _entries(node.properties.get("proxyWidgets")))


def views(instance: Instance) -> list[tuple[Instance, str]]:
    """The views on a subgraph's node: of which node inside, and of which of its widgets."""
    inside = instance.inner.instances if instance.inner else {}
    entries = [entry for entry in _entries(instance.node.properties.get("proxyWidgets")) if len(entry) > 1]
    named = {place: _named(inside[place]) for place in {place for place, *_ in entries if place in inside}}
    return [
        (inside[place], _plain_name(named[place], name))
        for place, name, *_ in entries
        if place != _OF_INPUT and place in inside
    ]


def load_promoted(instance: Instance, is_viewed: bool) -> None:
    """Give the widgets on a subgraph's node their own saved values.

    Args:
        instance: The subgraph's node; its inside is complete. Changed.
        is_viewed: Nodes of the same subgraph inside other subgraphs have views.

    Raises:
        WorkflowError: The values cannot be told apart.
    """
    values = instance.node.values
    if isinstance(values, dict):
        values = [values.get(name) for name in instance.widgets]
    entries = _entries(instance.node.properties.get("proxyWidgets"))
    own = [widget.type for widget in instance.widgets.values()]
    instance.surplus = surplus_of_list("", False, own, values) if len(values) > len(entries) else ""
    if instance.scope.editor.gives_views:
        if is_viewed and len(values) > len(instance.widgets):
            raise WorkflowError(
                f"{instance}: it was saved with {len(values)} values, more than its inputs have; the editor gives them "
                "to views that the subgraph has elsewhere; open the file there, correct the values, and save it"
            )
        _load_today(instance, values, entries)
    elif not entries:
        _load_by_place(instance, values)
    else:
        for (place, name, *_), value in zip(entries, values, strict=False):
            if place == _OF_INPUT and value is not None and name in instance.widgets:
                instance.widgets[name].value = value


def _entries(saved: Any) -> list[list[str]]:
    try:
        entries = parse_json(saved) if isinstance(saved, str) else saved
    except JSONError as error:
        raise WorkflowError(
            f"the property proxyWidgets of a subgraph's node is not JSON: {error}; open the file in ComfyUI and save it"
        ) from error
    return [[str(part) for part in entry] for entry in entries or []]


def _load_by_place(instance: Instance, values: Sequence[Any]) -> None:
    for widget, value in zip(instance.widgets.values(), values, strict=False):
        widget.value = value


def _load_today(instance: Instance, values: Sequence[Any], entries: Sequence[Sequence[str]]) -> None:
    """By place, but values that were set aside by name; then those of the views, which say to whom they belong."""
    inside = {name: widget.value for name, widget in instance.widgets.items()}
    _load_by_place(instance, values)
    set_aside = instance.node.properties.get(_SET_ASIDE) or []
    for entry in reversed(set_aside):
        (place, name, *_), value = _entries([entry["originalEntry"]])[0], entry.get("hostValue")
        if place == _OF_INPUT and value is not None and name in instance.widgets:
            instance.widgets[name].value = value
    if not entries:
        return
    settled: set[str | None] = {slot.name for slot in instance.inputs if slot.link is not None}
    owners = {source: port for port, source in reversed(_sources(instance).items())}
    by_name: dict[str, Mapping[str, Widget]] = {}
    for index, (place, name, *_) in enumerate(entries):
        inner = instance.inner.instances.get(place) if instance.inner else None
        if inner is not None and place not in by_name:
            by_name[place] = _named(inner)
        value = values[index] if index < len(values) else None
        settled.add(_settle(instance, inner, (place, name), value, owners, by_name.get(place, {})))
    for name, widget in instance.widgets.items():
        if name not in settled and widget.value != inside[name] and not set_aside:
            raise WorkflowError(
                f"{instance}: its {len(values)} saved values belong to {len(entries)} other widgets than its input "
                f"{name!r}, which the editor gives one of them; open the file there, correct the values, and save it"
            )


def _settle(
    instance: Instance,
    inner: Instance | None,
    entry: tuple[str, str],
    value: Any,
    owners: Mapping[tuple[str, str], str],
    widgets: Mapping[str, Widget],
) -> str | None:
    """Give a value to what an entry names. None leaves the value that is there. Returns the input that it is of.

    Args:
        instance: The subgraph's node.
        inner: The node inside that the entry names, if it is there.
        entry: The node and the widget.
        value: Of the entry.
        owners: The inputs by the node and widget inside that they are of.
        widgets: Those of the node inside.
    """
    place, name = entry
    if place == _OF_INPUT:
        if value is not None and name in instance.widgets:
            instance.widgets[name].value = value
        return name
    if inner is None:
        return None
    if inner.node.type == PRIMITIVE:
        _replace_primitive(inner, value)
        return None
    name = _plain_name(widgets, name)
    own = owners.get((place, name))
    widget = instance.widgets[own] if own is not None else widgets.get(name)
    if widget is not None and value is not None:
        widget.value = value
    return own


def _plain_name(widgets: Mapping[str, Widget], name: str) -> str:
    while name not in widgets and _PREFIX.match(name):
        name = _PREFIX.sub("", name, count=1)
    return name


def _named(inner: Instance) -> Mapping[str, Widget]:
    """The widgets of a node; those of a subgraph's node also by the names that they have inside it."""
    inside = {name: inner.widgets[port] for port, (_, name) in _sources(inner).items()}
    return {**inside, **inner.widgets}


def _sources(instance: Instance) -> dict[str, tuple[str, str]]:
    """For each input with a widget, the node inside that the widget is of, and its name there."""
    found: dict[str, tuple[str, str]] = {}
    for port in instance.inner.graph.inputs if instance.inner else ():
        for target, slot in instance.inner.targets(port.links) if instance.inner else ():
            if slot.widget is not None and target.widget(slot) is not None:
                found.setdefault(port.name, (target.node.id, slot.widget))
    return found


def _replace_primitive(primitive: Instance, value: Any) -> None:
    """A primitive with a view becomes an input, with the value of the view or else that of its first target."""
    links = [link for slot in primitive.node.outputs[:1] for link in slot.links]
    widgets = [widget for target, slot in primitive.scope.targets(links) if (widget := target.widget(slot)) is not None]
    if widgets:
        primitive.node = replace(primitive.node, values=[widgets[0].value if value is None else value])
