"""A UI-format workflow unfolded: one instance of each node for each place where its subgraph is used, with its values.

Imports the graph, the editors, the node types, the instances, their promoted values and the errors.
"""

from collections.abc import Mapping
from typing import Any

from ldm_backend.errors import printable

from ..errors import MissingNodesError, WorkflowError
from .editors import editor_of
from .graph import BYPASSED, MUTED, Graph, InputSlot, Node, UIWorkflow
from .instances import EDITOR_ONLY, Instance, Scope, Widget
from .node_types import NodeType
from .promoted_values import has_views, load_promoted

MOST_NODES = 20_000
"""That a workflow may unfold into. Large ones have hundreds; a subgraph that is used twice in each of fifteen levels
would have 32,768 times as many as the file."""

_MOST_TOLD = 12  # missing types in a message


class Unfolding:
    """Unfolds one workflow for one host.

    Args:
        workflow: Parsed.
        object_info: The host's description of all its nodes.
        source: Where the workflow comes from, for messages.

    Raises:
        MissingNodesError: The host lacks node types that the prompt needs.
        WorkflowError: A subgraph contains itself, or a node does not suit the host's description of its type.
    """

    def __init__(self, workflow: UIWorkflow, object_info: Mapping[str, Any], source: str) -> None:
        self._workflow = workflow
        self._object_info = object_info
        self._editor = editor_of(object_info)
        inside = (each for graph in workflow.subgraphs.values() for each in graph.nodes.values())
        self._viewed = {each.type for each in inside if each.type in workflow.subgraphs and has_views(each)}
        self._kinds: dict[str, NodeType] = {}
        self._missing: dict[str, list[str]] = {}
        self._unfolded = 0
        self.root = self._scope(workflow.root, None)
        if self._missing:
            kinds = list(self._missing.items())
            listed = "; ".join(f"{printable(kind)}: {printable(', '.join(at), 200)}" for kind, at in kinds[:_MOST_TOLD])
            listed += f"; and {len(kinds) - _MOST_TOLD} more types" if len(kinds) > _MOST_TOLD else ""
            raise MissingNodesError(
                f"{source} uses node types that the host does not have ({listed}); install the packs that bring them, "
                "or delete, mute or bypass these nodes. Nodes that are a pack's JavaScript alone need a browser: "
                "use Export (API) there"
            )

    def _scope(self, graph: Graph, owner: Instance | None) -> Scope:
        scope = Scope(graph, owner, self._editor)
        for node in graph.nodes.values():
            scope.instances[node.id] = self._instance(node, scope)
        return scope

    def _instance(self, node: Node, scope: Scope) -> Instance:
        self._unfolded += 1
        if self._unfolded > MOST_NODES:
            raise WorkflowError(
                f"the subgraphs unfold into more than {MOST_NODES} nodes; use them fewer times in each other, or "
                "export the prompt with Export (API)"
            )
        path = f"{scope.owner.path}:{node.id}" if scope.owner else node.id
        definition = self._workflow.subgraphs.get(node.type)
        if definition is not None:
            return self._subgraph(node, scope, path, definition)
        if node.type not in self._object_info:
            if node.type not in EDITOR_ONLY and node.mode not in (MUTED, BYPASSED):
                self._missing.setdefault(node.type, []).append(f"node {path}")
            return Instance(path, node, scope, None, node.inputs, tuple(slot.type for slot in node.outputs), {})
        try:
            kind = self._kind(node.type)
            shape = kind.shape(node, scope.graph.links)
        except WorkflowError as error:
            raise WorkflowError(f"node {path} ({node.title or node.type}): {error}") from error
        sent = {widget.name for widget in shape.widgets if widget.sent}
        widgets = {
            widget.name: Widget(widget, shape.values[widget.name])
            for widget in shape.widgets
            if widget.sent or widget.name not in sent
        }
        outputs = kind.output_types(node)
        return Instance(path, node, scope, kind, shape.inputs, outputs, widgets, surplus=shape.surplus)

    def _kind(self, name: str) -> NodeType:
        if name not in self._kinds:
            self._kinds[name] = NodeType(name, self._object_info[name], self._editor)
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
        load_promoted(instance, node.type in self._viewed)
        return instance
