"""Where the widgets on a subgraph's node lead: to which inputs of which nodes of the prompt.

Imports the graph, the instances, their promoted values and the unfolding.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from .graph import parse_ui
from .instances import PRIMITIVE, Instance
from .promoted_values import views
from .unfolding import Unfolding, damage_told

Place = tuple[str, str]
"""The id of a node in the prompt, and one of its inputs."""


@dataclass(frozen=True)
class SubgraphNode:
    """A subgraph's node: its id, its title, and for each input and view on it what it may mean inside."""

    path: str
    title: str
    inputs: Mapping[str, tuple[frozenset[Place], ...]]


def subgraph_nodes(document: Mapping[str, Any], object_info: Mapping[str, Any], source: str) -> list[SubgraphNode]:
    """All nodes of subgraphs, wherever they are.

    Args:
        document: A graph in UI format.
        object_info: The host's description of all its nodes.
        source: Where the graph comes from, for messages.

    Raises:
        WorkflowError: As for `export_prompt`.
    """
    with damage_told(source):
        return [
            SubgraphNode(instance.path, instance.title, _inputs(instance))
            for instance in Unfolding(parse_ui(document, source), object_info, source).root.walk()
            if instance.inner is not None
        ]


def _inputs(instance: Instance) -> dict[str, tuple[frozenset[Place], ...]]:
    found: dict[str, dict[frozenset[Place], None]] = {}
    for port in instance.inner.graph.inputs if instance.inner else ():
        places = _behind([(instance, port.links)])
        for name in {port.name, port.label} if places else ():
            found.setdefault(name, {})[places] = None
    for inner, name in views(instance):
        places = _of_view(inner, name)
        if places:
            found.setdefault(name, {})[places] = None
    return {name: tuple(each) for name, each in found.items() if name}


def _of_view(inner: Instance, name: str) -> frozenset[Place]:
    """What a view of a widget of a node inside leads to."""
    if inner.kind is not None:
        return frozenset({(inner.path, name)} if name in inner.widgets else ())
    if inner.node.type == PRIMITIVE and inner.scope.owner is not None:
        return _behind([(inner.scope.owner, inner.node.outputs[0].links if inner.node.outputs else ())])
    ports = inner.inner.graph.ports_by_name.get(name, []) if inner.inner else []
    deeper = [view for view in views(inner) if view[1] == name]
    return _behind([(inner, port.links) for port in ports]) | frozenset(
        place for below, below_name in deeper for place in _of_view(below, below_name)
    )


def _behind(waiting: list[tuple[Instance, Iterable[int]]]) -> frozenset[Place]:
    """The inputs that links inside subgraphs lead to, through inner subgraphs and what exists in the editor only."""
    places: set[Place] = set()
    seen: set[Place] = set()
    while waiting:
        owner, links = waiting.pop()
        for target, slot in owner.inner.targets(links) if owner.inner else ():
            if (target.path, slot.name) in seen:
                continue
            seen.add((target.path, slot.name))
            if target.kind is not None:
                places.add((target.path, slot.name))
            elif target.inner is not None:
                ports = target.inner.graph.ports_by_name.get(slot.name, ())
                waiting.extend((target, port.links) for port in ports)
            else:
                waiting.extend((owner, output.links) for output in target.node.outputs[:1])
    return frozenset(places)
