"""A UI-format workflow unfolded: one instance of each node for each place where its subgraph is used, with its values.

Imports the graph, the node types and the errors.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from .errors import MissingNodesError, WorkflowError
from .node_types import NodeType, WidgetType
from .ui_graph import BYPASSED, MUTED, Graph, InputSlot, Node, UIWorkflow

NOTES = ("Note", "MarkdownNote")
PRIMITIVE = "PrimitiveNode"
REROUTE = "Reroute"
_EDITOR_ONLY = {*NOTES, PRIMITIVE, REROUTE}
_TITLES = {PRIMITIVE: "Primitive", "MarkdownNote": "Markdown Note"}


@dataclass
class Widget:
    """A widget of one instance, and its value there."""

    type: WidgetType
    value: Any


@dataclass
class Instance:
    """A node at one place. `inner` is the inside of a subgraph's node; `kind` is missing for what hosts do not know."""

    path: str
    node: Node
    scope: "Scope" = field(repr=False)
    kind: NodeType | None
    inputs: tuple[InputSlot, ...]
    output_types: tuple[str, ...]
    widgets: dict[str, Widget]
    inner: "Scope | None" = field(default=None, repr=False)

    @property
    def is_virtual(self) -> bool:
        """Whether it exists in the editor only."""
        return self.inner is not None or self.node.type in _EDITOR_ONLY

    @property
    def title(self) -> str:
        """As the editor shows it."""
        default = self.kind.title if self.kind else self.inner.graph.name if self.inner else self.node.type
        return self.node.title or _TITLES.get(default, default)

    def widget(self, slot: InputSlot) -> Widget | None:
        """The widget whose value a link to this slot replaces."""
        return self.widgets.get(slot.widget) if slot.widget is not None else None

    def __str__(self) -> str:
        return f"node {self.path} ({self.title})"


@dataclass
class Scope:
    """A graph at one place: the root, or a subgraph inside the node `owner`."""

    graph: Graph
    owner: Instance | None
    instances: dict[str, Instance] = field(default_factory=dict)

    def walk(self) -> Iterator[Instance]:
        """All instances in it, each before those inside it, in the order of the editor's export."""
        nodes = self.instances.values() if self.owner else _execution_order(self)
        for instance in nodes:
            yield instance
            if instance.inner:
                yield from instance.inner.walk()

    def targets(self, links: Iterable[int]) -> Iterator[tuple[Instance, InputSlot]]:
        """The inputs that links of this graph lead to. Slot numbers in files may be stale, so only link ids count."""
        for link in (self.graph.links[number] for number in links if number in self.graph.links):
            instance = self.instances.get(link.target_id)
            if instance is not None:
                yield from ((instance, slot) for slot in instance.inputs if slot.link == link.id)


class Unfolding:
    """Unfolds one workflow for one host.

    Args:
        workflow: Parsed.
        object_info: The host's description of all its nodes.
        source: Where the workflow comes from, for messages.

    Raises:
        MissingNodesError: The host lacks node types that the prompt needs.
        WorkflowError: A subgraph contains itself.
    """

    def __init__(self, workflow: UIWorkflow, object_info: Mapping[str, Any], source: str) -> None:
        self._workflow = workflow
        self._object_info = object_info
        self._kinds: dict[str, NodeType] = {}
        self._missing: dict[str, list[str]] = {}
        self.root = self._scope(workflow.root, None)
        if self._missing:
            listed = "; ".join(f"{kind}: {', '.join(places)}" for kind, places in self._missing.items())
            raise MissingNodesError(
                f"{source} uses node types that the host does not have ({listed}); install the packs that bring them, "
                "or delete, mute or bypass these nodes. Nodes that are a pack's JavaScript alone need a browser: "
                "use Export (API) there"
            )

    def _scope(self, graph: Graph, owner: Instance | None) -> Scope:
        scope = Scope(graph, owner)
        for node in graph.nodes.values():
            scope.instances[node.id] = self._instance(node, scope)
        return scope

    def _instance(self, node: Node, scope: Scope) -> Instance:
        path = f"{scope.owner.path}:{node.id}" if scope.owner else node.id
        definition = self._workflow.subgraphs.get(node.type)
        if definition is not None:
            return self._subgraph(node, scope, path, definition)
        kind = self._kind(node.type)
        if kind is None:
            if node.type not in _EDITOR_ONLY and node.mode not in (MUTED, BYPASSED):
                self._missing.setdefault(node.type, []).append(f"node {path}")
            return Instance(path, node, scope, None, node.inputs, tuple(slot.type for slot in node.outputs), {})
        values = kind.values(node)
        widgets = {widget.name: Widget(widget, values[widget.name]) for widget in kind.widgets}
        return Instance(path, node, scope, kind, kind.inputs(node), kind.output_types(node), widgets)

    def _kind(self, name: str) -> NodeType | None:
        if name not in self._kinds:
            if name not in self._object_info:
                return None
            self._kinds[name] = NodeType(name, self._object_info[name])
        return self._kinds[name]

    def _subgraph(self, node: Node, scope: Scope, path: str, definition: Graph) -> Instance:
        above = scope.owner
        while above is not None:
            if above.node.type == node.type:
                raise WorkflowError(
                    f"the subgraph {definition.name!r} contains itself (node {path}); remove one of both"
                )
            above = above.scope.owner
        outputs = tuple(port.type for port in definition.outputs)
        instance = Instance(path, node, scope, None, (), outputs, {})
        instance.inner = self._scope(definition, instance)
        links = {slot.name: slot.link for slot in node.inputs}
        for port in definition.inputs:
            behind = (target.widget(slot) for target, slot in instance.inner.targets(port.links))
            widget = next((widget for widget in behind if widget is not None), None)
            if widget is not None:
                instance.widgets[port.name] = Widget(widget.type, widget.value)
            slot = InputSlot(port.name, port.type, links.get(port.name), port.name if widget else None)
            instance.inputs = (*instance.inputs, slot)
        _load_promoted(instance)
        return instance


def _load_promoted(instance: Instance) -> None:
    """Give the widgets on a subgraph's node their own saved values.

    Files keep the values in the order of the property `proxyWidgets`, where "-1" marks a widget of the subgraph's
    inputs; what else stands there are views of widgets inside, which have no value of their own. Older files have no
    such property and no views.
    """
    values = instance.node.values
    if isinstance(values, dict):
        values = [values.get(name) for name in instance.widgets]
    proxies = instance.node.properties.get("proxyWidgets")
    if isinstance(proxies, str):
        proxies = json.loads(proxies)
    if not proxies:
        for widget, value in zip(instance.widgets.values(), values, strict=False):
            widget.value = value
        return
    for (place, name), value in zip(proxies, values, strict=False):
        if str(place) == "-1" and value is not None and name in instance.widgets:
            instance.widgets[name].value = value


def _execution_order(scope: Scope) -> list[Instance]:
    """The editor's order: nodes whose inputs are all done, first come first served; what remains is a loop."""
    waiting = {key: sum(slot.link is not None for slot in each.inputs) for key, each in scope.instances.items()}
    ready = [key for key, count in waiting.items() if count == 0]
    seen: set[int] = set()
    for key in ready:  # grows on the way
        for number in (number for slot in scope.instances[key].node.outputs for number in slot.links):
            link = scope.graph.links.get(number)
            if link is None or number in seen:
                continue
            seen.add(number)
            if link.target_id in waiting:
                waiting[link.target_id] -= 1
                if waiting[link.target_id] == 0:
                    ready.append(link.target_id)
    return [scope.instances[key] for key in [*ready, *(key for key in waiting if key not in set(ready))]]
