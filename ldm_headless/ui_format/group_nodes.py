"""Group nodes, the predecessor of subgraphs, as the editor makes a node type of their definition.

The inputs, widgets and outputs of the group are those of its parts that are not linked inside, in the order of the
parts: of each its widgets and then its sockets, and behind those of all parts the widgets that were made inputs. Names
that are taken get the title of the part before them. Only the editor knows all that; this module says it again. Imports
the graph, the editors, the instances, the node types, the widget types and the errors.
"""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

from ..errors import WorkflowError
from .editors import Editor
from .graph import GROUP_PREFIXES, SUBGRAPH_INPUT, Graph, Group, InputSlot, Link, OutputSlot, Port
from .instances import PRIMITIVE, REROUTE
from .node_types import NodeType
from .widget_types import SEEDS, Input


class GroupType:
    """The type of a group node.

    Args:
        name: Of the group.
        group: Its definition.
        kind_of: The type of a part, None for one that the host does not have.
        editor: Whose rules apply.

    Attributes:
        kind: What the group looks like as one node.
        handed: Name of a widget of the group, the part that it belongs to, and its name there.

    Raises:
        WorkflowError: A group lies in it, or a part is linked that is not there.
    """

    def __init__(self, name: str, group: Group, kind_of: Callable[[str], NodeType | None], editor: Editor) -> None:
        self._name, self._group, self._editor = name, group, editor
        self._kinds = [kind_of(node.type) for node in group.nodes]
        self._to: dict[int, dict[int, tuple[int, int]]] = {}
        self._from: dict[int, dict[int, list[tuple[int, int]]]] = {}
        self._check()
        self._kinds_of_links: dict[int, str] = {}
        for source, output, target, slot, kind in group.links:
            if output == 0:
                self._kinds_of_links.setdefault(source, kind)
            self._to.setdefault(target, {})[slot] = (source, output)
            self._from.setdefault(source, {}).setdefault(output, []).append((target, slot))
        self._specs: dict[str, list[Any]] = {}
        self._seen: dict[str, int] = {}
        self._places: dict[str, tuple[int, str]] = {}
        self._outputs: list[tuple[int, int, str]] = []
        self._values: dict[int, str] = {}  # primitive -> name of its widget on the group
        self._handed: list[tuple[str, str, str]] = []
        later: list[tuple[int, dict[str, Input], int, list[str]]] = []
        for index in range(len(group.nodes)):
            inputs, outputs = self._described(index)
            later.append((index, inputs, *self._add_inputs(index, inputs)))
            self._add_outputs(index, outputs)
        for index, inputs, sockets, names in later:
            for number, input_name in enumerate(names, sockets):
                if number in self._to.get(index, {}):
                    self._feed(index, number, inputs[input_name])
                else:
                    self._handed.append((self._add(index, inputs[input_name]), str(index), input_name))
        self.handed = tuple(self._handed)
        description = {"input": {"required": self._specs}, "output": [kind for *_, kind in self._outputs]}
        self.kind = NodeType(name, description, editor)

    def graph(self, inputs: Iterable[InputSlot]) -> Graph:
        """The inside of one group node.

        Args:
            inputs: Those of the group node, of which some are linked.
        """
        slots = [list(node.inputs) for node in self._group.nodes]
        outputs = [list(node.outputs) for node in self._group.nodes]
        slots = [[replace(slot, link=None) for slot in each] for each in slots]
        outputs = [[replace(slot, links=()) for slot in each] for each in outputs]
        links: dict[int, Link] = {}
        for number, (source, output, target, slot, kind) in enumerate(self._group.links):
            while len(slots[target]) <= slot:
                slots[target].append(InputSlot("", kind))
            while len(outputs[source]) <= output:
                outputs[source].append(OutputSlot(kind))
            slots[target][slot] = replace(slots[target][slot], link=number)
            before = outputs[source][output]
            outputs[source][output] = replace(before, links=(*before.links, number))
            links[number] = Link(number, str(source), output, str(target))
        ports = []
        for place, outer in enumerate(inputs):
            inner = self._places.get(outer.name)
            ids: tuple[int, ...] = ()
            if inner is not None and (outer.link is not None or outer.widget is None):
                number = len(links)
                ids, links[number] = (number,), Link(number, SUBGRAPH_INPUT, place, str(inner[0]))
                is_reroute = self._group.nodes[inner[0]].type == REROUTE  # its slot has any name
                _link_slot(slots[inner[0]], None if is_reroute else inner[1], outer, number)
            ports.append(Port(outer.name, outer.type, ids))
        ends = []
        for source, output, kind in self._outputs:
            number = len(links)
            links[number] = Link(number, str(source), output, "-20")
            ends.append(Port(kind, kind, (number,)))
        nodes = {
            node.id: replace(node, inputs=tuple(slots[index]), outputs=tuple(outputs[index]))
            for index, node in enumerate(self._group.nodes)
        }
        return Graph(self._name, nodes, links, tuple(ports), tuple(ends))

    def _check(self) -> None:
        count = len(self._group.nodes)
        for source, output, target, slot, _ in self._group.links:
            if not (0 <= source < count and 0 <= target < count and 0 <= output < 1000 and 0 <= slot < 1000):
                raise WorkflowError(
                    f"the group node {self._name!r} has a link from its part {source} to its part {target}, but "
                    f"{count} parts; open the file in ComfyUI and use Export (API)"
                )
        for node in self._group.nodes:
            if node.type.startswith(GROUP_PREFIXES):
                raise WorkflowError(
                    f"the group node {self._name!r} holds another one ({node.type}), which no editor sends; open the "
                    "file in ComfyUI, choose Convert to nodes on it, and save it"
                )

    def _described(self, index: int) -> tuple[dict[str, Input], tuple[str, ...]]:
        """The inputs and outputs of a part; of what exists in the editor only, those that are linked outside."""
        node, kind = self._group.nodes[index], self._kinds[index]
        if kind is not None:
            return {entry.name: entry for entry in kind.inputs}, kind.outputs
        targets = self._from.get(index, {}).get(0, [])
        if node.type == PRIMITIVE and targets:
            target, slot = targets[0]
            fed = self._input_at(target, slot)
            type_of_link = self._kinds_of_links[index]
            options = {"options": fed.options.get("options", [])} if fed is not None and type_of_link == "COMBO" else {}
            return {"value": Input("value", type_of_link, options)}, (type_of_link,)
        if node.type == REROUTE:
            is_inside = index in self._to and bool(targets) and (index, 0) not in self._group.external
            type_of_slot = self._type_of_reroute(index, targets)
            entry = Input(type_of_slot, type_of_slot, {"forceInput": True})
            return ({}, ()) if is_inside else ({type_of_slot: entry}, (type_of_slot,))
        return {}, ()

    def _type_of_reroute(self, index: int, targets: list[tuple[int, int]]) -> str:
        if targets:
            types = [self._group.nodes[node].inputs[slot : slot + 1] for node, slot in targets]
            return next((slots[0].type for slots in types if slots and slots[0].type != "*"), "*")
        if 0 in self._to.get(index, {}):
            source, output = self._to[index][0]
            slots = self._group.nodes[source].outputs[output : output + 1]
            return slots[0].type if slots else "*"
        return self._group.external.get((index, 0), "*")

    def _input_at(self, index: int, slot: int) -> Input | None:
        """The input of a part at a place of its saved slots."""
        kind, slots = self._kinds[index], self._group.nodes[index].inputs
        name = slots[slot].widget or slots[slot].name if slot < len(slots) else ""
        return next((entry for entry in kind.inputs if entry.name == name), None) if kind else None

    def _add_inputs(self, index: int, inputs: dict[str, Input]) -> tuple[int, list[str]]:
        """Widgets and sockets of a part. Returns how many sockets it has, and the widgets that were made inputs."""
        node = self._group.nodes[index]
        made = {slot.name: place for place, slot in reversed(list(enumerate(node.inputs))) if slot.widget == slot.name}
        sockets, later = [], []
        for name, entry in inputs.items():
            if not entry.has_widget(self._editor):
                sockets.append(name)
            elif name in made:
                later.append(name)
            else:
                outer = self._add(index, entry)
                if node.type == PRIMITIVE:
                    self._values[index] = outer
                else:
                    self._handed.append((outer, str(index), name))
        for number, name in enumerate(sockets):
            if number in self._to.get(index, {}):
                self._feed(index, number, inputs[name])
            else:
                self._add(index, inputs[name])
        return len(sockets), sorted(later, key=lambda name: str(made[name]))  # as JavaScript sorts numbers

    def _feed(self, index: int, number: int, entry: Input) -> None:
        """What a primitive inside feeds gets the value of the primitive's widget on the group."""
        source, _ = self._to[index][number]
        outer = self._values.get(source)
        if outer is not None:
            kind, options = self._specs[outer]
            own = {"options": options["options"]} if "options" in options else {}
            self._specs[outer] = [kind, {**entry.options, **own, "control_after_generate": True}]
            self._handed.append((outer, str(index), entry.name))

    def _add(self, index: int, entry: Input) -> str:
        """Add an input to the group. Returns its name there."""
        node = self._group.nodes[index]
        custom = _under(self._group.config, str(index), "input", entry.name)
        label = next((slot.label for slot in node.inputs if slot.name == entry.name), "")
        name = key = str(custom.get("name") or label or entry.name)
        prefix = ""
        if (node.type == PRIMITIVE and node.title) or name in self._seen:
            prefix = f"{node.title or node.type} "
            name = key = f"{prefix}{entry.name}"
            if name in self._seen:
                name = f"{prefix}{self._seen[name]} {entry.name}"
        self._seen[key] = self._seen.get(key, 1) + 1
        options = dict(entry.options)
        if entry.name in SEEDS:
            options["control_after_generate"] = f"{prefix}control_after_generate"
        if custom.get("visible") is False and not entry.has_widget(self._editor):
            return name
        self._specs[name] = [entry.kind, options]
        self._places[name] = (index, entry.name)
        return name

    def _add_outputs(self, index: int, outputs: tuple[str, ...]) -> None:
        for number, kind in enumerate(outputs):
            is_inside = number in self._from.get(index, {}) and (index, number) not in self._group.external
            visible = _under(self._group.config, str(index), "output", str(number)).get("visible")
            if (not is_inside) if visible is None else visible:
                self._outputs.append((index, number, kind))


def _under(config: dict[str, Any], *keys: str) -> dict[str, Any]:
    """The settings at a place; empty where there are none."""
    found: Any = config
    for key in keys:
        found = found.get(key) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else {}


def _link_slot(slots: list[InputSlot], name: str | None, outer: InputSlot, number: int) -> None:
    """Link the slot of this name, or the first one."""
    for place, slot in enumerate(slots):
        if name is None or slot.name == name:
            slots[place] = replace(slot, link=number)
            return
    slots.append(InputSlot(name or "", outer.type, number, name if outer.widget else None))
