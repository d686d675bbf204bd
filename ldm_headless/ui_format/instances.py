"""The parts of an unfolded workflow: one instance of each node for each place where its subgraph is used.

With the lists of nodes that exist in the editor only.

Imports the graph, the editors, the node types, the widget types and the errors.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from ..errors import WorkflowError
from .editors import Editor
from .graph import BYPASSED, MUTED, Graph, InputSlot, Node
from .node_types import NodeType
from .widget_types import WidgetType

PRIMITIVE = "PrimitiveNode"
REROUTE = "Reroute"
# Nodes that give what another one names, which is linked to that one.
_GETTERS = {"GetNode": "SetNode", "easy getNode": "easy setNode"}
_SETTERS = set(_GETTERS.values())
_PASSING = {REROUTE, "Reroute (rgthree)", *_SETTERS, *_GETTERS}
# They are a pack's JavaScript alone and cannot change the prompt: texts and marks on the canvas, and buttons that mute
# and bypass other nodes when somebody presses them, which the file has in the modes of those nodes.
_TEXTS = {"Note", "MarkdownNote", "Label (rgthree)", "Note+ (mtb)", "Note Plus (mtb)"}
_MARKS = {"Bookmark (rgthree)"}
_BUTTONS = {
    *("Fast Muter (rgthree)", "Fast Bypasser (rgthree)", "Fast Groups Muter (rgthree)"),
    *("Fast Groups Bypasser (rgthree)", "Fast Actions Button (rgthree)", "Mute / Bypass Relay (rgthree)"),
    *("Mute / Bypass Repeater (rgthree)", "Node Collector (rgthree)"),
}
EDITOR_ONLY = {*_TEXTS, *_MARKS, *_BUTTONS, *_PASSING, PRIMITIVE}
"""Types of nodes that are never sent."""
_SENDS_BY_NAME = "links other nodes when the graph is queued"
NEEDS_BROWSER = {
    "Anything Everywhere": _SENDS_BY_NAME,
    "Anything Everywhere3": _SENDS_BY_NAME,
    "Anything Everywhere?": _SENDS_BY_NAME,
    "Prompts Everywhere": _SENDS_BY_NAME,
    "Seed Everywhere": _SENDS_BY_NAME,
    "Random Unmuter (rgthree)": "draws which nodes run when the graph is queued",
    "VHS_SelectLatest": "looks for the newest file when the graph is queued",
}
"""Types of nodes that change the prompt by a pack's JavaScript, and how. The host may have a node of their name."""
_TITLES = {PRIMITIVE: "Primitive", "MarkdownNote": "Markdown Note"}


@dataclass
class Widget:
    """A widget of one instance, and its value there."""

    type: WidgetType
    value: Any


@dataclass
class Instance:
    """A node at one place. `inner` is the inside of a subgraph's node; `kind` is missing for what hosts do not know.

    `surplus` says what is wrong with it where it counts for the prompt, as saved values that no widget takes. `handed`
    lists the widgets of a group node: name, node inside, and widget of that node.
    """

    path: str
    node: Node
    scope: "Scope" = field(repr=False)
    kind: NodeType | None
    inputs: tuple[InputSlot, ...]
    output_types: tuple[str, ...]
    widgets: dict[str, Widget]
    inner: "Scope | None" = field(default=None, repr=False)
    surplus: str = field(default="", repr=False)
    handed: tuple[tuple[str, str, str], ...] = ()

    @property
    def is_sent(self) -> bool:
        """Whether it counts for the prompt: if it is a node of the host, it stands in it."""
        if self.node.mode in (MUTED, BYPASSED):
            return False
        outermost = self
        while outermost.scope.owner is not None:
            outermost = outermost.scope.owner
        return self.scope.editor.sees_muted or outermost.node.mode not in (MUTED, BYPASSED)

    @property
    def is_virtual(self) -> bool:
        """Whether it exists in the editor only."""
        return self.inner is not None or self.node.type in EDITOR_ONLY

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
    editor: Editor
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
            yield from self._slots.get((link.target_id, link.id), ())

    def setter(self, getter: Instance) -> Instance | None:
        """The node that names what another one gets by that name: in its own graph, or in those around it.

        Raises:
            WorkflowError: There are several.
        """
        kind, name = _GETTERS[getter.node.type], _first_value(getter.node)
        scope: Scope | None = self
        while scope is not None:
            found = scope._setters.get((kind, name), ())
            if len(found) > 1:
                ids = ", ".join(each.path for each in found[:5])
                raise WorkflowError(f"{getter}: several nodes set {name!r} ({ids}); give them names of their own")
            if found:
                return found[0]
            scope = scope.owner.scope if scope.owner else None
        return None

    @cached_property
    def _slots(self) -> dict[tuple[str, int], list[tuple[Instance, InputSlot]]]:
        """The inputs by their node and link; asked for when all instances are there."""
        found: dict[tuple[str, int], list[tuple[Instance, InputSlot]]] = {}
        for key, instance in self.instances.items():
            for slot in instance.inputs:
                if slot.link is not None:
                    found.setdefault((key, slot.link), []).append((instance, slot))
        return found

    @cached_property
    def _setters(self) -> dict[tuple[str, str], list[Instance]]:
        found: dict[tuple[str, str], list[Instance]] = {}
        for instance in self.instances.values():
            if instance.node.type in _SETTERS:
                found.setdefault((instance.node.type, _first_value(instance.node)), []).append(instance)
        return found


def is_getter(instance: Instance) -> bool:
    """Whether a node gives what another one has set by name."""
    return instance.node.type in _GETTERS and instance.kind is None


def _first_value(node: Node) -> str:
    values = node.values if isinstance(node.values, list) else list(node.values.values())
    return str(values[0]) if values else ""


def _execution_order(scope: Scope) -> list[Instance]:
    """The editor's order: nodes whose inputs are all done, first come first served; what remains is a loop."""
    waiting = {key: sum(slot.link is not None for slot in each.inputs) for key, each in scope.instances.items()}
    ready = dict.fromkeys(key for key, count in waiting.items() if count == 0)
    queue = deque(ready)
    seen: set[int] = set()
    while queue:
        for number in (number for slot in scope.instances[queue.popleft()].node.outputs for number in slot.links):
            link = scope.graph.links.get(number)
            if link is None or number in seen:
                continue
            seen.add(number)
            if link.target_id in waiting:
                waiting[link.target_id] -= 1
                if waiting[link.target_id] == 0:
                    ready[link.target_id] = None
                    queue.append(link.target_id)
    return [scope.instances[key] for key in [*ready, *(key for key in waiting if key not in ready)]]
