"""Workflow files in UI format, as the editor saves them: nodes, slots, links and subgraph definitions, checked.

Both schemas are read: 0.4 (links are arrays) and 1 (links are objects), which one file may mix, since the links of
subgraphs are always objects. Reroute points on links are drawing only and are left out. Imports the errors only.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from ldm_backend.errors import first_names, printable, repeated, short_repr

from ..errors import WorkflowError

SUBGRAPH_INPUT = "-10"
"""Where a link inside a subgraph comes from that enters through one of the subgraph's inputs."""

MUTED, BYPASSED = 2, 4
"""The modes of a node that keep it out of the prompt."""

# Names of older releases that the editor still translates when it loads a file.
_RENAMED = {
    "T2IAdapterLoader": "ControlNetLoader",
    "ConditioningAverage ": "ConditioningAverage",
    "SDV_img2vid_Conditioning": "SVD_img2vid_Conditioning",
    "Load3DAnimation": "Load3D",
    "Preview3DAnimation": "Preview3D",
}
GROUP_PREFIXES = ("workflow/", "workflow>")
"""How the types of group nodes begin."""
_LINK_FIELDS = ("id", "origin_id", "origin_slot", "target_id", "target_slot")


@dataclass(frozen=True)
class Link:
    """From an output of a node to an input of another."""

    id: int
    origin_id: str
    origin_slot: int
    target_id: str


@dataclass(frozen=True)
class InputSlot:
    """An input of a node. `widget` names the widget whose value a link replaces.

    `label` is what the user called it.
    """

    name: str
    type: str
    link: int | None = None
    widget: str | None = None
    label: str = ""


@dataclass(frozen=True)
class OutputSlot:
    """An output of a node."""

    type: str
    links: tuple[int, ...] = ()


@dataclass(frozen=True)
class Node:
    """A node as saved. What belongs to its type is in the host's description of that type, not here.

    `widget_names` are those of the widgets that it was saved with, as far as the file says so; `knows_widgets` tells
    whether they are all. Older editors name none, and files inside images only those that are linked.
    """

    id: str
    type: str
    title: str
    mode: int
    inputs: tuple[InputSlot, ...]
    outputs: tuple[OutputSlot, ...]
    values: list[Any] | dict[str, Any]
    properties: dict[str, Any] = field(repr=False)
    widget_names: tuple[str, ...] = ()
    knows_widgets: bool = False


@dataclass(frozen=True)
class Port:
    """An input or output of a subgraph, with the links inside that lead to it. `label` is what the user called it."""

    name: str
    type: str
    links: tuple[int, ...]
    label: str = ""


@dataclass(frozen=True)
class Graph:
    """The root of a workflow (no name and no ports), or the definition of a subgraph."""

    name: str
    nodes: dict[str, Node]
    links: dict[int, Link]
    inputs: tuple[Port, ...] = ()
    outputs: tuple[Port, ...] = ()

    @cached_property
    def ports_by_name(self) -> dict[str, list[Port]]:
        """The inputs of a subgraph by their names."""
        found: dict[str, list[Port]] = {}
        for port in self.inputs:
            found.setdefault(port.name, []).append(port)
        return found


@dataclass(frozen=True)
class Group:
    """The definition of a group node, the predecessor of subgraphs. Its nodes have their places as ids.

    `links` are from a node and its output to a node and its input, with their type; `external` are outputs that are
    linked outside, too. `config` holds what the user hid or gave a name, by node, side and input or output.
    """

    nodes: tuple[Node, ...]
    links: tuple[tuple[int, int, int, int, str], ...]
    external: dict[tuple[int, int], str]
    config: dict[str, Any] = field(repr=False)


@dataclass(frozen=True)
class UIWorkflow:
    """A parsed file: the root graph, subgraphs by the node type that stands for them, group nodes by name."""

    root: Graph
    subgraphs: dict[str, Graph]
    groups: dict[str, Group] = field(default_factory=dict)


def is_ui_format(document: object) -> bool:
    """Whether a parsed JSON document looks like a UI-format graph."""
    return isinstance(document, dict) and isinstance(document.get("nodes"), list)


def parse_ui(document: Mapping[str, Any], source: str) -> UIWorkflow:
    """Read a UI-format document.

    Args:
        document: Parsed JSON.
        source: Where it comes from, for messages.

    Raises:
        WorkflowError: It has not the structure of a graph.
    """
    try:
        root, subgraphs = _graph(document), dict(_definitions(document))
        return UIWorkflow(root, subgraphs, dict(_groups(document, [root, *subgraphs.values()])))
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise WorkflowError(
            f"{source} is a damaged UI-format workflow ({type(error).__name__}: {printable(str(error))}); save it "
            "again in ComfyUI"
        ) from error


def _definitions(document: Mapping[str, Any]) -> Iterable[tuple[str, Graph]]:
    """All subgraphs. Definitions may hold definitions; their names are global all the same."""
    waiting: list[Mapping[str, Any]] = [document]
    while waiting:
        entries = (waiting.pop().get("definitions") or {}).get("subgraphs") or []
        for entry in entries:
            yield str(entry["id"]), _graph(entry)
        waiting.extend(reversed(entries))


def _groups(document: Mapping[str, Any], graphs: Iterable[Graph]) -> Iterable[tuple[str, Group]]:
    """The definitions of those group nodes that are in the graphs."""
    extra = document.get("extra")
    groups = extra.get("groupNodes") if isinstance(extra, dict) else None
    types = {node.type for graph in graphs for node in graph.nodes.values()}
    used = {kind[len(GROUP_PREFIXES[0]) :] for kind in types if kind.startswith(GROUP_PREFIXES)}
    for name, entry in groups.items() if isinstance(groups, dict) else ():
        if name in used:
            yield name, _group(entry)


def _group(entry: Mapping[str, Any]) -> Group:
    nodes = tuple(_node({**node, "id": index}) for index, node in enumerate(entry["nodes"]))
    links = (link for link in entry.get("links") or [] if link[0] is not None)
    ends = tuple(
        (int(link[0]), int(link[1]), int(link[2]), int(link[3]), _type(link[5] if len(link) > 5 else None))
        for link in links
    )
    # Older editors wrote the whole node in the place of its number, which they could not find again.
    external = (each for each in entry.get("external") or [] if not isinstance(each[0], dict))
    outside = {(int(node), int(slot)): _type(kind) for node, slot, kind in external}
    return Group(nodes, ends, outside, dict(entry.get("config") or {}))


def _graph(entry: Mapping[str, Any]) -> Graph:
    nodes = [_node(node) for node in entry["nodes"]]
    links = [_link(link) for link in entry.get("links") or [] if link is not None]
    if twice := repeated(node.id for node in nodes):
        raise ValueError(f"several nodes have the id {first_names(twice)}")
    return Graph(
        name=str(entry.get("name") or ""),
        nodes={node.id: node for node in nodes},
        links={link.id: link for link in links},
        inputs=_ports(entry.get("inputs")),
        outputs=_ports(entry.get("outputs")),
    )


def _ports(entries: object) -> tuple[Port, ...]:
    # The root's entry has another meaning in some files; only a subgraph's ports have names.
    ports = [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
    return tuple(
        Port(str(port["name"]), _type(port.get("type")), _link_ids(port.get("linkIds")), str(port.get("label") or ""))
        for port in ports
    )


def _link(entry: Mapping[str, Any] | list[Any]) -> Link:
    named = entry if isinstance(entry, Mapping) else dict(zip(_LINK_FIELDS, entry, strict=False))
    link_id = _link_id(named["id"])
    if link_id is None:
        raise ValueError("a link has no id")
    return Link(link_id, str(named["origin_id"]), int(named["origin_slot"]), str(named["target_id"]))


def _link_ids(entry: object) -> tuple[int, ...]:
    """The links of an output; entries that are null stand for none."""
    ids = [_link_id(each) for each in entry] if isinstance(entry, list) else []
    return tuple(each for each in ids if each is not None)


def _link_id(value: object) -> int | None:
    """A link's number, which some programs write as a text; None where there is no link."""
    if value is None or type(value) is int:
        return value
    if isinstance(value, str | float) and str(int(value)) == str(value).removesuffix(".0"):
        return int(value)
    raise ValueError(f"a link has the id {short_repr(value)}; expected a whole number")


def _node(entry: Mapping[str, Any]) -> Node:
    values = entry.get("widgets_values")
    named = entry.get("widgets_values_named")
    inputs = tuple(_input(slot) for slot in entry.get("inputs") or [])
    with_widget = [slot for slot in inputs if slot.widget is not None]
    kind = str(entry["type"])
    return Node(
        id=str(entry["id"]),
        type=_RENAMED.get(kind, kind),
        title=str(entry.get("title") or ""),
        mode=int(entry.get("mode") or 0),
        inputs=inputs,
        outputs=tuple(
            OutputSlot(_type(slot.get("type")), _link_ids(slot.get("links"))) for slot in entry.get("outputs") or []
        ),
        values=values if isinstance(values, list | dict) else [],
        properties=dict(entry.get("properties") or {}),
        widget_names=tuple(named) if isinstance(named, dict) else tuple(slot.name for slot in with_widget),
        knows_widgets=isinstance(named, dict) or any(slot.link is None for slot in with_widget),
    )


def _input(slot: Mapping[str, Any]) -> InputSlot:
    widget, label = (slot.get("widget") or {}).get("name"), str(slot.get("label") or "")
    return InputSlot(str(slot.get("name", "")), _type(slot.get("type")), _link_id(slot.get("link")), widget, label)


def _type(kind: object) -> str:
    """The name of a slot's type; the number 0 and a missing type stand for any."""
    return "COMBO" if isinstance(kind, list) else str(kind or "*")
