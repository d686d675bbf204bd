"""The parts of an unfolded workflow: one instance of each node for each place where its subgraph is used.

Imports the graph, the editors, the node types and the widget types.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from .editors import Editor
from .graph import Graph, InputSlot, Node
from .node_types import NodeType
from .widget_types import WidgetType

NOTES = ("Note", "MarkdownNote")
PRIMITIVE = "PrimitiveNode"
REROUTE = "Reroute"
EDITOR_ONLY = {*NOTES, PRIMITIVE, REROUTE}
_TITLES = {PRIMITIVE: "Primitive", "MarkdownNote": "Markdown Note"}


@dataclass
class Widget:
    """A widget of one instance, and its value there."""

    type: WidgetType
    value: Any


@dataclass
class Instance:
    """A node at one place. `inner` is the inside of a subgraph's node; `kind` is missing for what hosts do not know.

    `surplus` says what is wrong with saved values that no widget takes.
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
            instance = self.instances.get(link.target_id)
            if instance is not None:
                yield from ((instance, slot) for slot in instance.inputs if slot.link == link.id)


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
