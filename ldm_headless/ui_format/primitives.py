"""Values that travel through the editor alone: from primitive nodes to widgets, and from subgraph nodes inwards.

Imports the graph, the instances, the widget types and the errors.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from ..errors import WorkflowError
from .graph import InputSlot
from .instances import PRIMITIVE, Instance, Scope, Widget
from .widget_types import CHOICE, WidgetType

_FILLS_PLACEHOLDERS = "Run widget replace on values"
# What two inputs may differ in and still be fed by one primitive.
_IGNORED = {"default", "forceInput", "defaultInput", "control_after_generate", "multiline", "tooltip", "dynamicPrompts"}


def apply_primitives(root: Scope, fill: Callable[[str], str]) -> None:
    """Set the widgets that primitive nodes are linked to.

    Args:
        root: All nodes; changed.
        fill: Replaces the placeholders in a text, for the primitives that ask for it.
    """
    for instance in list(root.walk()):
        if instance.node.type != PRIMITIVE or not instance.node.outputs:
            continue
        targets = instance.scope.targets(instance.node.outputs[0].links)
        widgets = [widget for target, slot in targets if (widget := target.widget(slot)) is not None]
        if not widgets:
            continue
        value = _value(instance, widgets)
        if isinstance(value, str) and instance.node.properties.get(_FILLS_PLACEHOLDERS):
            value = fill(value)
        if not root.editor.fills_linked:
            for target, slot in instance.scope.targets(instance.node.outputs[0].links):
                if target.handed:  # a group node, which hands its values in when the graph is queued
                    continue
                _refuse_unreached(instance, target, slot, value)
        for widget in widgets:
            if widget.type.kind == CHOICE and widget.value != value:
                raise WorkflowError(
                    f"{instance}: it sets {widget.type.name!r} to {value!r}, a choice that brings inputs of its own, "
                    "which would all have their defaults; choose it on the node itself"
                )
            widget.value = widget.type.snap(value)


def _refuse_unreached(primitive: Instance, target: Instance, slot: InputSlot, value: Any) -> None:
    """Today's editor shows a primitive's value on a subgraph's node, but sends what the widgets inside have."""
    inside = target.inner
    if inside is None:
        return
    for port in inside.graph.ports_by_name.get(slot.name, ()):
        for inner, inner_slot in inside.targets(port.links):
            widget = inner.widget(inner_slot)
            if widget is not None and widget.value != value:
                raise WorkflowError(
                    f"{primitive}: its value {value!r} does not get into the subgraph of {target}: the editor of this "
                    f"host sends the {widget.value!r} of {inner} instead; set {slot.name!r} on the subgraph's node"
                )


def push_inwards(scope: Scope) -> None:
    """Give the widgets inside subgraphs the values that stand on the subgraphs' nodes, from the outside in."""
    for instance in scope.instances.values():
        if instance.inner is None:
            continue
        for name, node_id, inner_name in instance.handed:
            given, inside = instance.widgets.get(name), instance.inner.instances[node_id].widgets.get(inner_name)
            if given is not None and inside is not None:
                inside.value = given.value
        linked = {slot.name for slot in instance.inputs if slot.link is not None}
        for port in instance.inner.graph.inputs:
            outer = instance.widgets.get(port.name)
            if port.name in linked and not scope.editor.fills_linked:
                continue
            for target, slot in instance.inner.targets(port.links) if outer else ():
                widget = target.widget(slot)
                if outer is not None and widget is not None:
                    widget.value = outer.value
        push_inwards(instance.inner)


def _value(instance: Instance, widgets: Iterable[Widget]) -> Any:
    """A primitive's value, inside the range and on the step that all its targets share."""
    first, *others = widgets
    values = instance.node.values
    value = values[0] if isinstance(values, list) and values else first.value
    if first.type.kind not in ("INT", "FLOAT"):
        return value
    kind = first.type
    value = kind.snap(kind.clamp(value))
    for widget in others:
        merged = _merge(kind, widget.type)
        if merged is not None:
            kind = merged
            value = kind.snap(kind.clamp(value))
    return value


def _merge(first: WidgetType, second: WidgetType) -> WidgetType | None:
    """What two numeric inputs have in common; None when they cannot share a primitive."""
    low = max(each.options.get("min", -math.inf) for each in (first, second))
    high = min(each.options.get("max", math.inf) for each in (first, second))
    common = {"min": low, "max": high, "step": _common_step(*(each.options.get("step", 1) for each in (first, second)))}
    one, other = ({**each.options, **common} for each in (first, second))
    differ = any(one.get(key) != other.get(key) for key in (one.keys() | other.keys()) - _IGNORED)
    return None if first.kind != second.kind or low > high or differ else replace(first, options=one | other)


def _common_step(first: float, second: float) -> float:
    divisor, rest = first, second
    while rest:
        divisor, rest = rest, math.fmod(divisor, rest)
    return abs(first * second) / divisor if divisor else 0
