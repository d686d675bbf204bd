"""What the editor makes of the host's description of a node type: its sockets, its widgets, and their saved order.

`/object_info` describes inputs. Which of them have a widget, which widgets come in company (a seed brings a control, a
file brings an upload button), and which of these are saved or sent, only the editor knows; this module says it again.
Imports the graph and the errors.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from .errors import WorkflowError
from .ui_graph import InputSlot, Node

_WIDGETS = {
    *("INT", "FLOAT", "BOOLEAN", "STRING", "COMBO", "MARKDOWN", "COLOR", "TEXTAREA", "CHART", "GALLERIA"),
    *("IMAGECOMPARE", "IMAGEUPLOAD", "AUDIOUPLOAD", "AUDIO_UI", "PREVIEW_3D", "LOAD_3D", "WEBCAM", "AUDIO_RECORD"),
}
IN_BROWSER_ONLY = {"LOAD_3D": "a rendered 3D scene", "WEBCAM": "a picture of the camera", "AUDIO_RECORD": "a recording"}
"""Widgets whose value comes into being in a browser, and is in no file."""

UNSET = object()
"""The value of a widget that has none: a choice from an empty list."""

_DEFAULTS = {"INT": 0, "FLOAT": 0, "BOOLEAN": False, "STRING": "", "MARKDOWN": "", "COLOR": "#000000", "TEXTAREA": ""}
_DEFAULTS |= {"GALLERIA": [], "CHART": {}, "IMAGECOMPARE": ["", ""], "AUDIO_UI": "", "PREVIEW_3D": ""}
_SEEDS = ("seed", "noise_seed")
_UPLOADS = ("image_upload", "video_upload", "animated_image_upload")
_AUDIO_PLAYERS = ("LoadAudio", "SaveAudio", "PreviewAudio", "SaveAudioMP3", "SaveAudioOpus")
_MODEL_VIEWERS = ("SaveGLB", "Preview3D")
_FROM_LINKS = "COMFY_MATCHTYPE_V3"  # a slot that takes the type of what is linked to it


@dataclass(frozen=True)
class WidgetType:
    """A widget. `saved`: it has a place in `widgets_values`. `sent`: its value is an input of the prompt."""

    name: str
    kind: str
    options: Mapping[str, Any] = field(default_factory=dict, repr=False)
    default: Any = None
    saved: bool = True
    sent: bool = True

    def snap(self, value: Any) -> Any:
        """A value as the widget keeps it when something sets it: numbers are rounded to its step."""
        if self.kind not in ("INT", "FLOAT") or isinstance(value, bool) or not isinstance(value, int | float):
            return value
        return self._snap_int(value) if self.kind == "INT" else self._snap_float(value)

    def clamp(self, value: Any) -> Any:
        """A number inside the widget's range."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return value
        return min(max(value, self.options.get("min", 0)), self.options.get("max", 2048))

    def _snap_int(self, value: float) -> float:
        step = self.options.get("step") or 1
        if step == 1:
            return value if isinstance(value, int) else math.floor(value + 0.5)
        offset = math.fmod(self.options.get("min") or 0, step)
        snapped = math.floor((value - offset) / step + 0.5) * step + offset
        return int(snapped) if float(snapped).is_integer() else snapped

    def _snap_float(self, value: float) -> float:
        step = self.options.get("step", 0.5)
        precision = max(0, -math.floor(math.log10(step))) if step > 0 else 0
        unit = self.options.get("round") or (10.0**-precision if precision else 0)
        if not unit:
            return value
        digits = precision if self.options.get("step") else max(0, -math.floor(math.log10(unit)))
        snapped = round(math.floor(value / unit + 0.5) * unit, digits)
        return min(max(snapped, self.options.get("min", 0)), self.options.get("max", 2048))


@dataclass(frozen=True)
class _Input:
    """An input of the host's description. `kind` of a list of choices is COMBO, with the choices in the options."""

    name: str
    kind: str
    options: dict[str, Any]

    @property
    def has_widget(self) -> bool:
        return self.widget_kind in _WIDGETS and not self.options.get("forceInput")

    @property
    def widget_kind(self) -> str:
        return self.options.get("widgetType") or self.kind


class NodeType:
    """A node type as the editor knows it.

    Args:
        name: The class name.
        description: Its entry of the host's `/object_info`.

    Raises:
        WorkflowError: The description has not the structure that hosts give.
    """

    def __init__(self, name: str, description: Mapping[str, Any]) -> None:
        self.name = name
        try:
            self.title = str(description.get("display_name") or name)
            self._inputs = _inputs(name, description)
            self.widgets = [widget for entry in self._inputs if entry.has_widget for widget in _widgets(entry)]
            self._outputs = tuple(
                "COMBO" if isinstance(kind, list) else str(kind) for kind in description.get("output") or ()
            )
        except (KeyError, IndexError, TypeError, AttributeError) as error:
            raise WorkflowError(
                f"the host's description of {name} is damaged ({type(error).__name__}: {error}); "
                "look into the log of the server"
            ) from error
        if name == "PreviewAny":
            self.widgets.append(WidgetType("preview", "MARKDOWN", default="", saved=False))

    def inputs(self, node: Node) -> tuple[InputSlot, ...]:
        """The slots of a node: sockets, then widgets, in the host's order; then saved slots that the host lacks."""
        links = {slot.name: slot.link for slot in node.inputs}
        sockets = [entry for entry in self._inputs if not entry.has_widget]
        with_widget = [entry for entry in self._inputs if entry.has_widget and not entry.options.get("socketless")]
        slots = [InputSlot(entry.name, entry.kind, links.get(entry.name)) for entry in sockets]
        slots += [InputSlot(entry.name, entry.kind, links.get(entry.name), entry.name) for entry in with_widget]
        known = {slot.name for slot in slots}
        extra = [slot for slot in node.inputs if slot.name not in known and slot.widget is None]
        return tuple(replace(slot, type="*") if slot.type == _FROM_LINKS else slot for slot in [*slots, *extra])

    def output_types(self, node: Node) -> tuple[str, ...]:
        """The types of a node's outputs: the host's, then saved outputs that the host lacks."""
        kinds = self._outputs + tuple(slot.type for slot in node.outputs[len(self._outputs) :])
        return tuple("*" if kind == _FROM_LINKS else kind for kind in kinds)

    def values(self, node: Node) -> dict[str, Any]:
        """The value of each widget by its name: the saved one, else the default."""
        values = {widget.name: widget.default for widget in self.widgets}
        if isinstance(node.values, dict):
            values |= {name: value for name, value in node.values.items() if name in values}
        else:
            names = [widget.name for widget in self.widgets if widget.saved]
            values |= zip(names, self._without_sockets(node.values), strict=False)
        return values

    def _without_sockets(self, values: list[Any]) -> list[Any]:
        """Older files keep values of inputs that are sockets (forceInput); whether they do, only their number tells."""
        names = {widget.name for widget in self.widgets}
        kept = [entry for entry in self._inputs if entry.name in names or entry.options.get("forceInput")]
        count = sum(2 if entry.options.get("control_after_generate") or entry.name in _SEEDS else 1 for entry in kept)
        if count != len(values):
            return values
        dropped = {index for index, entry in enumerate(kept) if entry.options.get("forceInput")}
        return [value for index, value in enumerate(values) if index not in dropped]


def _inputs(name: str, description: Mapping[str, Any]) -> list[_Input]:
    """The inputs in the editor's order, and those that the editor adds to some types."""
    groups = description.get("input") or {}
    required, optional = dict(groups.get("required") or {}), dict(groups.get("optional") or {})
    added = _added(name, required)
    order = description.get("input_order") or {}
    names = [key for key in order.get("required") or required if key in required]
    names += [key for key in order.get("optional") or optional if key in optional and key not in names]
    names += [key for key in [*required, *optional] if key not in names]
    specs = optional | required | added
    return [_input(key, specs[key]) for key in [*(key for key in names if key not in added), *added]]


def _input(name: str, spec: list[Any]) -> _Input:
    options = dict(spec[1]) if len(spec) > 1 and spec[1] else {}
    if isinstance(spec[0], list):
        return _Input(name, "COMBO", options | {"options": spec[0]})
    return _Input(name, str(spec[0]), options)


def _added(name: str, required: Mapping[str, list[Any]]) -> dict[str, list[Any]]:
    """Inputs that the editor's own extensions add to a description."""
    added: dict[str, list[Any]] = {}
    if name in _AUDIO_PLAYERS:
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


def _widgets(entry: _Input) -> list[WidgetType]:
    """An input's widget and its company, in the order in which a file holds their values."""
    kind, options = entry.widget_kind, entry.options
    if kind in ("IMAGEUPLOAD", "AUDIOUPLOAD"):
        return [WidgetType(entry.name, kind, sent=False)]
    widget = WidgetType(entry.name, kind, options, _default(kind, options), saved=kind != "AUDIO_UI")
    company = []
    if kind == "COMBO" and options.get("remote"):
        company.append(WidgetType("Auto-refresh after generation", "BOOLEAN", sent=False))
        if options["remote"].get("refresh_button"):
            company.append(WidgetType("refresh", "BUTTON", default="refresh"))
    if kind == "INT" and options.get("control_after_generate", entry.name in _SEEDS):
        company.append(WidgetType("control_after_generate", "CONTROL", sent=False))
    if kind == "COMBO" and options.get("control_after_generate") and not options.get("multi_select"):
        company.append(WidgetType("control_after_generate", "CONTROL", sent=False))
        company.append(WidgetType("control_filter_list", "CONTROL", sent=False))
    return [widget, *company]


def _default(kind: str, options: Mapping[str, Any]) -> Any:
    if kind != "COMBO":
        default = options.get("default")
        return _DEFAULTS.get(kind) if default is None else default
    if options.get("multi_select"):
        return []
    choices = options.get("options") or []
    return options.get("default") or (choices[0] if choices else "Loading..." if options.get("remote") else UNSET)
