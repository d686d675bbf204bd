"""What the editor makes of the host's description of a node type: its sockets, its widgets, and their saved order.

`/object_info` describes inputs. Which of them have a widget, and what the editor adds to some types, only the editor
knows; this module says it again. Nodes whose inputs depend on their values are left to `dynamic_inputs`. Imports it,
the graph, the editors, the widgets of packs, the saved values, the widget types and the errors.
"""

from collections.abc import Container, Iterable, Mapping
from copy import copy
from dataclasses import dataclass, replace
from typing import Any

from ldm_backend.errors import printable

from ..errors import WorkflowError
from .dynamic_inputs import DynamicNode
from .editors import OLDER, Editor
from .graph import InputSlot, Node
from .pack_widgets import (
    POWER_LORA,
    VIDEO_COMBINE,
    format_of,
    lora_leftovers,
    lora_widgets,
    named,
    plain_spec,
    with_format,
)
from .saved_values import shows_texts, surplus_of_list, surplus_of_names
from .widget_types import CHOICE, FROM_LINKS, GROWING, SEEDS, UNSET, Input, WidgetType

_UPLOADS = ("image_upload", "video_upload", "animated_image_upload")
_MODEL_VIEWERS = ("SaveGLB", "Preview3D")


@dataclass(frozen=True)
class NodeShape:
    """The slots, widgets and values of one node. Slots are sockets, then widgets, in the host's order.

    `surplus` says what is wrong with values of the file that no widget takes.
    """

    inputs: tuple[InputSlot, ...]
    widgets: tuple[WidgetType, ...]
    values: dict[str, Any]
    surplus: str = ""


class NodeType:
    """A node type as the editor knows it.

    Args:
        name: The class name.
        description: Its entry of the host's `/object_info`.
        editor: Whose rules apply.

    Raises:
        WorkflowError: The description has not the structure that hosts give, or inputs of a kind that is not known.
    """

    def __init__(self, name: str, description: Mapping[str, Any], editor: Editor = OLDER) -> None:
        self.name = name
        self._editor = editor
        try:
            self.title = str(description.get("display_name") or name)
            self.inputs = _inputs(name, description, editor)
            self._is_dynamic = any(entry.kind in (CHOICE, GROWING) for entry in self.inputs)
            built = DynamicNode(self.inputs, editor) if self._is_dynamic else None
            self._widgets = built.widgets if built else self._fixed_widgets()
            sockets = [] if self._widgets else [entry.kind for entry in self.inputs]
            self._shows_texts = shows_texts(name, description, sockets)
            self._formats: dict[str, NodeType] = {}
            self.outputs = tuple(
                "COMBO" if isinstance(kind, list) else str(kind) for kind in description.get("output") or ()
            )
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise WorkflowError(
                f"the host's description of {name} is damaged ({type(error).__name__}: {error}); "
                "look into the log of the server"
            ) from error

    def shape(self, node: Node, known_links: Container[object]) -> NodeShape:
        """What a node of this type looks like in the editor.

        Args:
            node: As saved.
            known_links: The links that its graph has.

        Raises:
            WorkflowError: The file does not suit the host's description of the type.
        """
        self._refuse_unknown_parts(node)
        if self._is_dynamic:
            dynamic = DynamicNode(self.inputs, self._editor)
            dynamic.restore(node, known_links)
            return NodeShape(tuple(dynamic.slots), tuple(dynamic.widgets), dynamic.values, dynamic.surplus)
        if self.name == "CustomCombo" and self._editor.grows_options:
            return self._custom_combo(node)
        if self.name == POWER_LORA:
            shape = self._power_lora(node)
        else:
            node = named(node)
            kind = self._with_format(format_of(self.inputs, node)) if node.type == VIDEO_COMBINE else self
            shape = kind._fixed_shape(node)
        lost = "" if shape.surplus else _lost_link(node, shape.inputs, known_links)
        return replace(shape, surplus=lost) if lost else shape

    def _fixed_shape(self, node: Node) -> NodeShape:
        """Each widget has the saved value, else the default."""
        values = {widget.name: widget.default for widget in reversed(self._widgets)}
        if isinstance(node.values, dict):
            values |= {name: value for name, value in node.values.items() if name in values}
            surplus = surplus_of_names(self.name, values, node.values)
        else:
            saved = [widget for widget in self._widgets if widget.saved]
            given = self._without_sockets(node.values)
            # A widget's company may be called like another widget, which counts.
            pairs = sorted(zip(saved, given, strict=False), key=lambda pair: pair[0].sent)
            values |= {widget.name: value for widget, value in pairs}
            surplus = surplus_of_list(self.name, self._shows_texts, saved, given)
        return NodeShape(self._slots(node), tuple(self._widgets), values, surplus)

    def _with_format(self, name: str) -> "NodeType":
        """This type with the widgets of a video format."""
        if name not in self._formats:
            kind = copy(self)
            kind.inputs = with_format(self.inputs, name)
            kind._widgets = kind._fixed_widgets()
            self._formats[name] = kind
        return self._formats[name]

    def _power_lora(self, node: Node) -> NodeShape:
        loras = lora_widgets(node)
        values = {widget.name: value for widget, value in loras}
        surplus = surplus_of_list(self.name, False, (), lora_leftovers(node))
        return NodeShape(self._slots(node), tuple(widget for widget, _ in loras), values, surplus)

    def output_types(self, node: Node) -> tuple[str, ...]:
        """The types of a node's outputs: the host's, then saved outputs that the host lacks."""
        kinds = self.outputs + tuple(slot.type for slot in node.outputs[len(self.outputs) :])
        return tuple("*" if kind == FROM_LINKS else kind for kind in kinds)

    def _fixed_widgets(self) -> list[WidgetType]:
        widgets = [
            each for entry in self.inputs if entry.has_widget(self._editor) for each in entry.widgets(self._editor)
        ]
        if self.name == "PreviewAny" and self._editor.previews_text:
            widgets.append(WidgetType("preview", "MARKDOWN", default="", saved=False))
        return widgets

    def _slots(self, node: Node) -> tuple[InputSlot, ...]:
        """The slots of a node; those that only the file has come last."""
        links = {slot.name: slot.link for slot in node.inputs}
        sockets = [entry for entry in self.inputs if not entry.has_widget(self._editor)]
        with_widget = [entry for entry in self.inputs if entry.has_widget(self._editor) and self._has_slot(entry)]
        slots = [InputSlot(entry.name, entry.kind, links.get(entry.name)) for entry in sockets]
        slots += [InputSlot(entry.name, entry.kind, links.get(entry.name), entry.name) for entry in with_widget]
        known = {slot.name for slot in slots}
        extra = [slot for slot in node.inputs if slot.name not in known and slot.widget is None]
        return tuple(replace(slot, type="*") if slot.type == FROM_LINKS else slot for slot in [*slots, *extra])

    def _has_slot(self, entry: Input) -> bool:
        return self._editor.keeps_slot or not entry.options.get("socketless")

    def _without_sockets(self, values: list[Any]) -> list[Any]:
        """Older files keep values of inputs that are sockets (forceInput); whether they do, only their number tells."""
        names = {widget.name for widget in self._widgets}
        kept = [entry for entry in self.inputs if entry.name in names or entry.wants_socket]
        count = sum(2 if entry.options.get("control_after_generate") or entry.name in SEEDS else 1 for entry in kept)
        if count != len(values):
            return values
        dropped = {index for index, entry in enumerate(kept) if entry.wants_socket}
        return [value for index, value in enumerate(values) if index not in dropped]

    def _custom_combo(self, node: Node) -> NodeShape:
        """Custom Combo: a choice, its place among the options, and one option more than are filled in."""
        saved = list(node.values) if isinstance(node.values, list) else []
        options = [*saved[2:], ""]
        options = options[: options.index("") + 1]
        choice = saved[0] if saved else UNSET
        named = {f"option{number}": option for number, option in enumerate(options, 1)}
        values = {"choice": choice, "index": options.index(choice) if choice in options else -1, **named}
        widgets = [*self._widgets, WidgetType("index", "INT"), *(WidgetType(name, "STRING") for name in named)]
        return NodeShape(self._slots(node), tuple(widgets), values)

    def _refuse_unknown_parts(self, node: Node) -> None:
        """A file may have been saved where this type had inputs that depend on a choice, and its values with them."""
        builders = {entry.name for entry in self.inputs if entry.kind in (CHOICE, GROWING)}
        names = {entry.name for entry in self.inputs}
        for name in node.widget_names:
            whole, dot, _ = name.partition(".")
            if dot and whole not in builders and name not in names:
                raise WorkflowError(
                    f"it was saved with an input {name!r}, which belongs to a choice {whole!r}; on this host there is "
                    "no such choice, so the saved values have other places: convert it for the host that it was made "
                    "on, or open it in the editor of this one, correct its values, and save it"
                )


def _lost_link(node: Node, slots: Iterable[InputSlot], known_links: Container[object]) -> str:
    """What is wrong where a link of the file leads to a widget that the node does not have."""
    linked = [slot for slot in node.inputs if slot.link is not None and slot.link in known_links]
    names = {slot.name for slot in slots} if linked else ()
    lost = [slot.name for slot in linked if slot.name not in names]
    if not lost:
        return ""
    return (
        f"its input {printable(lost[0])!r} is linked, but is no input of it here. If a pack's JavaScript makes it, use "
        "Export (API) in the editor. If the file comes from another version of the node, open it in the editor of this "
        "host, link it again, and save it"
    )


def _inputs(name: str, description: Mapping[str, Any], editor: Editor) -> list[Input]:
    """The inputs in the editor's order, and those that the editor adds to some types."""
    groups = description.get("input") or {}
    required, optional = dict(groups.get("required") or {}), dict(groups.get("optional") or {})
    added = _added(name, required, editor)
    order = description.get("input_order") or {}
    names = [key for key in order.get("required") or required if key in required]
    names += [key for key in order.get("optional") or optional if key in optional]
    names += [*required, *optional]
    specs = optional | required | added
    # One that a group node has of a part keeps its place.
    return [Input.read(key, plain_spec(name, specs[key])) for key in dict.fromkeys([*names, *added])]


def _added(name: str, required: Mapping[str, list[Any]], editor: Editor) -> dict[str, list[Any]]:
    """Inputs that the editor's own extensions add to a description."""
    added: dict[str, list[Any]] = {}
    if name in editor.audio_players:
        added["audioUI"] = ["AUDIO_UI"]
    if name in _MODEL_VIEWERS:
        added["image"] = ["PREVIEW_3D"]
    for key, spec in required.items():
        options = spec[1] if len(spec) > 1 and isinstance(spec[1], dict) else {}
        if any(options.get(flag) is True for flag in _UPLOADS) and (isinstance(spec[0], list) or spec[0] == "COMBO"):
            added["upload"] = ["IMAGEUPLOAD"]
            break
        if key == "audio" and options.get("audio_upload") is True:
            added["upload"] = ["AUDIOUPLOAD"]
    return added
