"""A UI-format workflow unfolded: one instance of each node for each place where its subgraph is used, with its values.

Imports the graph, the editors, the node types, the group nodes, the saved values, the instances, their promoted values
and the errors.
"""

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ldm_backend.errors import LDMError, printable

from ..errors import MissingNodesError, WorkflowError
from .editors import editor_of
from .graph import GROUP_PREFIXES, Graph, InputSlot, Node, UIWorkflow
from .group_nodes import GroupType
from .instances import EDITOR_ONLY, NEEDS_BROWSER, Instance, Scope, Widget
from .node_types import NodeType
from .promoted_values import has_views, load_promoted
from .saved_values import misfit

MOST_NODES = 20_000
"""That a workflow may unfold into. Large ones have hundreds; a subgraph that is used twice in each of fifteen levels
would have 32,768 times as many as the file."""

MOST_LEVELS = 100
"""Of subgraphs in each other. Large workflows have four."""

_MOST_TOLD = 12  # missing types in a message
_ID_OF_SUBGRAPH = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


@contextmanager
def damage_told(source: str) -> Iterator[None]:
    """What breaks on a graph of odd shape is told as damage of the file.

    Args:
        source: Where the graph comes from.

    Raises:
        WorkflowError: Something broke.
    """
    try:
        yield
    except LDMError:
        raise
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as error:
        raise WorkflowError(
            f"{source}: the graph is damaged in a way that stops its conversion ({type(error).__name__}: "
            f"{printable(str(error))}); open it in ComfyUI and use Export (API)"
        ) from error


def _told(kind: str) -> str:
    return (
        f"{kind} {NEEDS_BROWSER[kind]}, by a pack's JavaScript that only a browser runs; put links or values in its "
        "place, or use Export (API) in the editor"
    )


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
        self._groups: dict[str, GroupType] = {}
        self._source = source
        self._unknown: list[Instance] = []
        self._unfolded = 0
        self.root = self._scope(workflow.root, None)
        self._refuse_unknown(source)

    def _refuse_unknown(self, source: str) -> None:
        missing: dict[str, list[str]] = {}
        for instance in self._unknown:
            if instance.is_sent:
                if _ID_OF_SUBGRAPH.fullmatch(instance.node.type):
                    raise WorkflowError(
                        f"{source}: node {instance.path} ({printable(instance.node.title or instance.node.type)}) is a "
                        f"subgraph whose definition {instance.node.type} is not in the file; save it again in the "
                        "editor that it was made in, or use Export (API) there"
                    )
                missing.setdefault(instance.node.type, []).append(f"node {instance.path}")
        if missing:
            kinds = list(missing.items())
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
        if node.type.startswith(GROUP_PREFIXES):
            return self._group(node, scope, path)
        if node.type in NEEDS_BROWSER and any(slot.link is not None for slot in node.inputs) | bool(node.outputs):
            return self._unsent(node, scope, path, surplus=_told(node.type))
        if node.type not in self._object_info:
            instance = self._unsent(node, scope, path)
            if node.type not in EDITOR_ONLY:
                self._unknown.append(instance)
            return instance
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

    def _unsent(self, node: Node, scope: Scope, path: str, surplus: str = "") -> Instance:
        outputs = tuple(slot.type for slot in node.outputs)
        return Instance(path, node, scope, None, node.inputs, outputs, {}, surplus=surplus)

    def _kind(self, name: str) -> NodeType:
        if name not in self._kinds:
            self._kinds[name] = NodeType(name, self._object_info[name], self._editor)
        return self._kinds[name]

    def _group(self, node: Node, scope: Scope, path: str) -> Instance:
        """A group node: its parts, with what the inputs and widgets on it lead to."""
        name = re.split("[/>]", node.type, maxsplit=1)[1]
        data = self._workflow.groups.get(name)
        if data is None or scope.owner is not None:
            absent = "whose definition is not in the file" if data is None else "inside of other nodes"
            shown = printable(node.type)
            told = (
                f"{self._source} uses group nodes ({shown}) {absent}; subgraphs replaced them: open it in ComfyUI, "
                "choose Convert to nodes on each of them, and save it, or use Export (API)"
            )
            return self._unsent(node, scope, path, surplus=told)
        if name not in self._groups:
            self._groups[name] = GroupType(name, data, self._known_kind, self._editor)
        group = self._groups[name]
        self._unfolded += len(data.links) // 100
        shape = group.kind.shape(node, scope.graph.links)
        widgets = {widget.name: Widget(widget, shape.values[widget.name]) for widget in shape.widgets}
        definition = group.graph(shape.inputs)
        outputs = tuple(port.type for port in definition.outputs)
        saved = [widget for widget in shape.widgets if widget.saved]
        # A part that has a widget more here than in the editor that saved the file moves the others' values.
        wrong = shape.surplus or misfit(saved, node.values if isinstance(node.values, list) else [])
        instance = Instance(path, node, scope, None, shape.inputs, outputs, widgets, None, wrong, group.handed)
        instance.inner = self._scope(definition, instance)
        return instance

    def _known_kind(self, name: str) -> NodeType | None:
        return self._kind(name) if name in self._object_info else None

    def _subgraph(self, node: Node, scope: Scope, path: str, definition: Graph) -> Instance:
        above, level = scope.owner, 1
        while above is not None:
            if above.node.type == node.type:
                raise WorkflowError(
                    f"the subgraph {definition.name!r} contains itself (node {path}); remove one of both"
                )
            above, level = above.scope.owner, level + 1
        if level > MOST_LEVELS:
            raise WorkflowError(
                f"subgraphs lie in each other, more than {MOST_LEVELS} levels deep, as {printable(definition.name)!r} "
                "does; open the file in ComfyUI and use Export (API)"
            )
        outputs = tuple(port.type for port in definition.outputs)
        instance = Instance(path, node, scope, None, (), outputs, {})
        instance.inner = self._scope(definition, instance)
        links = {slot.name: slot.link for slot in node.inputs}
        slots = []
        for port in definition.inputs:
            behind = (target.widget(slot) for target, slot in instance.inner.targets(port.links))
            widget = next((widget for widget in behind if widget is not None), None)
            if widget is not None:
                instance.widgets[port.name] = Widget(widget.type, widget.value)
            slots.append(InputSlot(port.name, port.type, links.get(port.name), port.name if widget else None))
        instance.inputs = tuple(slots)
        load_promoted(instance, node.type in self._viewed)
        return instance
