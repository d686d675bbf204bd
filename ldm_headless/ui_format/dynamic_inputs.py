"""Nodes whose inputs depend on what is chosen on them and linked to them, as the editor builds them from a file.

A choice (COMFY_DYNAMICCOMBO_V3) brings the inputs of its option: `size.width` after `size`. A growing input
(COMFY_AUTOGROW_V3) has sockets `images.image0`, `images.image1`, one more than are linked. A file keeps the values of
widgets by place only, so the places are not known before the values are: the editor puts in one value after the other,
and a choice adds its widgets behind itself on the way. This module does the same. Imports the graph, the editors,
the saved values and the widget types.
"""

import re
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from ..errors import WorkflowError
from .editors import Editor
from .graph import InputSlot, Node
from .saved_values import check_value, surplus_of_list, surplus_of_names
from .widget_types import CHOICE, FROM_LINKS, GROWING, Input, WidgetType

_NUMBER = re.compile(r"\d+$")


@dataclass(frozen=True)
class _Growing:
    """A growing input: what its sockets are called, and how many there are at least and at most."""

    entry: Input
    names: list[str] | None
    prefix: str
    least: int
    most: int

    def name(self, number: int) -> str:
        """The name of a socket."""
        return f"{self.entry.name}.{self.names[number] if self.names else f'{self.prefix}{number}'}"

    def number(self, name: str) -> int | None:
        """The place of the socket with this name."""
        short = name[len(self.entry.name) + 1 :]
        if self.names:
            return self.names.index(short) if short in self.names else None
        found = _NUMBER.search(short)
        return int(found[0]) if found else None


class DynamicNode:
    """The slots and widgets of one node, after what its file says has been put in.

    Args:
        entries: The inputs of the host's description, in the editor's order.
        editor: Whose rules apply.

    Attributes:
        widgets: In the order in which a file holds their values.
        values: By the name of the widget.
        slots: In the editor's order.
        surplus: What is wrong with values of the file that no widget takes; empty when they can change nothing.
    """

    def __init__(self, entries: Iterable[Input], editor: Editor) -> None:
        self.widgets: list[WidgetType] = []
        self.values: dict[str, Any] = {}
        self.slots: list[InputSlot] = []
        self.surplus = ""
        self._editor = editor
        self._not_sockets = {*editor.widgets, GROWING}
        self._growing: dict[str, _Growing] = {}
        entries = list(entries)
        for entry in entries:
            self._add_socket(entry)
        for entry in entries:
            self._add_widget(entry)

    def restore(self, node: Node, known_links: Container[object]) -> None:
        """Put in the links and values of a node.

        Args:
            node: As saved.
            known_links: The links that its graph has.

        Raises:
            WorkflowError: The file has values or links that have no place here.
        """
        saved = {slot.name: slot for slot in node.inputs}
        own = {slot.name for slot in self.slots}
        self.slots = [replace(slot, link=saved[slot.name].link) if slot.name in saved else slot for slot in self.slots]
        self.slots += [slot for slot in node.inputs if slot.name not in own]
        index = 0
        while index < len(self.slots):  # grows on the way
            if self.slots[index].link in known_links:
                self._connected(self.slots[index])
            index += 1
        self._restore_values(node)
        names = {widget.name for widget in self.widgets}
        self.slots = [slot for slot in self.slots if slot.widget is None or slot.widget in names]
        self._check_names(node)
        self._check_links(node, known_links)

    def _restore_values(self, node: Node) -> None:
        named = node.values if isinstance(node.values, dict) else None
        values = list(node.values) if isinstance(node.values, list) else []
        place = index = 0
        while index < len(self.widgets):  # grows on the way
            widget = self.widgets[index]
            index += 1
            if named is not None:
                if widget.name in named:
                    self._set(widget, named[widget.name])
            elif widget.saved and place < len(values):
                self._set(widget, values[place])
                place += 1
        if named is not None:
            self.surplus = surplus_of_names(node.type, [widget.name for widget in self.widgets], named)
        else:
            saved = [widget for widget in self.widgets if widget.saved]
            self.surplus = surplus_of_list(node.type, False, saved, values)

    def _check_names(self, node: Node) -> None:
        """Where the file names the widgets of the options, they are the same here: else values have other places."""
        saved = {name for name in node.widget_names if "." in name}
        own = {widget.name for widget in self.widgets if widget.saved and "." in widget.name}
        differ = saved ^ own if saved and node.knows_widgets else saved - own
        if differ:
            raise WorkflowError(
                f"its inputs {', '.join(sorted(differ))} are not the same in the file and on this host; "
                "open the file in the editor of this host, correct the values, and save it"
            )

    def _check_links(self, node: Node, links: Container[object]) -> None:
        """No link of the file may get lost with the input that it led to."""
        for group in self._growing.values() if links else ():
            self._check_gaps(group, links)
        left = {slot.link for slot in self.slots}
        lost = [slot.name for slot in node.inputs if slot.link in links and slot.link not in left]
        if lost:
            raise WorkflowError(
                f"its input {lost[0]!r} is linked, but is no input of it with the options that are chosen; "
                "open the file in the editor of this host, link it again, and save it"
            )

    def _check_gaps(self, group: _Growing, links: Container[object]) -> None:
        """The editor closes gaps between the sockets of a growing input some time after it opened a file."""
        if group.entry.kind != FROM_LINKS:
            return
        linked = [slot.link in links for slot in self.slots if slot.name.rpartition(".")[0] == group.entry.name]
        if linked != sorted(linked, reverse=True):
            raise WorkflowError(
                f"its input {group.entry.name!r} has a link behind one without, which the editor moves up; "
                "link it without gaps"
            )

    def _add_socket(self, entry: Input) -> None:
        """What the editor adds in its first round: sockets, and what builds sockets."""
        if entry.has_widget(self._editor):
            return
        if entry.kind == GROWING:
            self._add_growing(entry)
        elif entry.kind == FROM_LINKS:
            self._add(replace(entry, kind=_slot_kind(entry)))
        else:
            self.slots.append(InputSlot(entry.name, entry.kind))

    def _add_widget(self, entry: Input) -> None:
        """What the editor adds in its second round: widgets, each with a slot that replaces it."""
        if not entry.has_widget(self._editor):
            return
        for widget in entry.widgets(self._editor):
            self.widgets.append(widget)
            self.values.setdefault(widget.name, widget.default)
        if entry.widget_kind == CHOICE:
            self._choose(self.widgets[-1], self.widgets[-1].default)
        if self._editor.keeps_slot or not entry.options.get("socketless"):
            self.slots.append(InputSlot(entry.name, entry.kind, None, entry.name))

    def _add(self, entry: Input) -> None:
        self._add_socket(entry)
        self._add_widget(entry)

    def _set(self, widget: WidgetType, value: Any) -> None:
        check_value(widget, value)
        if widget.sent or not any(each.sent and each.name == widget.name for each in self.widgets):
            self.values[widget.name] = value
        if widget.kind == CHOICE:
            self._choose(widget, value)

    def _choose(self, widget: WidgetType, value: Any) -> None:
        """Replace the inputs that a choice has brought by those of another option, which keep links of the same name.

        While the node is built, the choice has no slot yet, and the slots of its inputs come before it.
        """
        prefix = f"{widget.name}."
        before = [slot for slot in self.slots if slot.name.startswith(prefix)]
        self.slots = [slot for slot in self.slots if slot not in before]
        self.widgets = [each for each in self.widgets if not each.name.startswith(prefix)]
        self.values = {name: each for name, each in self.values.items() if not name.startswith(prefix)}
        widget_count, slot_count = len(self.widgets), len(self.slots)
        for name, spec in _option(widget, value):
            entry = Input.read(prefix + name, spec)
            # The editor looks for texts with choices in braces once, before the file's options are put in.
            self._add(replace(entry, options={**entry.options, "dynamicPrompts": False}))
        added, self.widgets = self.widgets[widget_count:], self.widgets[:widget_count]
        place = self.widgets.index(widget) + 1
        self.widgets[place:place] = added
        place = next((index for index, slot in enumerate(self.slots) if slot.widget == widget.name), None)
        if place is not None:
            slots, self.slots = self.slots[slot_count:], self.slots[:slot_count]
            self.slots[place + 1 : place + 1] = slots
        for slot in before:
            self._link_again(slot)

    def _link_again(self, old: InputSlot) -> None:
        for index, slot in enumerate(self.slots):
            if slot.name == old.name and old.link is not None:
                self.slots[index] = replace(slot, link=old.link)
                self._connected(self.slots[index])
                return

    def _add_growing(self, entry: Input) -> None:
        template = entry.options["template"]
        specs = [spec for group in ("required", "optional") for spec in (template["input"].get(group) or {}).items()]
        inputs = [Input.read(name, spec) for name, spec in specs]
        if len(inputs) != 1 or not (inputs[0].wants_socket or _slot_kind(inputs[0]) not in self._not_sockets):
            shown = ", ".join(each.widget_kind for each in inputs)
            raise WorkflowError(
                f"input {entry.name!r} grows by inputs of kind {shown}, but only by one socket each is known here; "
                "use Export (API) in the editor"
            )
        names, least = template.get("names"), template.get("min", 1)
        most = len(names) if names else template.get("max", 100)
        one = replace(inputs[0], name=entry.name)
        self._growing[entry.name] = _Growing(one, names, str(template.get("prefix") or ""), least, most)
        for number in range(max(1, least + 1)):
            self._grow(self._growing[entry.name], number)

    def _grow(self, group: _Growing, number: int) -> None:
        """Add the socket of this number behind the one before it, in place of one of its name from the file."""
        if number >= group.most:
            return
        name = group.name(number)
        self._add(replace(group.entry, name=name))
        slot = self.slots.pop()
        taken = [each for each in self.slots if each.name == name]
        self.slots = [each for each in self.slots if each.name != name]
        link = next((each.link for each in taken if each.link is not None), None)
        before = group.name(number - 1) if number else ""
        places = [index for index, each in enumerate(self.slots) if before and each.name.startswith(before)]
        place = places[-1] + 1 if places else len(self.slots)
        self.slots.insert(place, replace(slot, link=link))

    def _connected(self, slot: InputSlot) -> None:
        """A link to the socket of a growing input brings the next one."""
        group = self._growing.get(slot.name.rpartition(".")[0])
        number = group.number(slot.name) if group else None
        if group is not None and number is not None:
            self._grow(group, number + 1)


def _slot_kind(entry: Input) -> str:
    """The kind of its slot: a slot that takes its type from links has the types that it may take."""
    if entry.kind != FROM_LINKS:
        return entry.widget_kind
    return str((entry.options.get("template") or {}).get("allowed_types") or "*")


def _option(widget: WidgetType, value: Any) -> list[tuple[str, list[Any]]]:
    """The inputs of a choice's option, in the editor's order."""
    for option in widget.options["options"]:
        if option["key"] == value:
            inputs: Mapping[str, Any] = option.get("inputs") or {}
            return [item for group in ("required", "optional") for item in (inputs.get(group) or {}).items()]
    return []
